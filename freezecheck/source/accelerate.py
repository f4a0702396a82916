"""Accelerate: an `Accelerator` hands back what it prepares, and calls backward."""

from __future__ import annotations

from typing import Any

from freezecheck.source import calls, lives, tensors
from freezecheck.source.calls import Call
from freezecheck.source.machine import Machine
from freezecheck.source.objects import on
from freezecheck.source.values import Unknown

_KIND = "accelerate.Accelerator"


@on(_KIND, "prepare", "prepare_model", "prepare_optimizer", "prepare_scheduler")
def prepare(m: Machine, owner: Any, given: Call) -> Any:
    """The same things in the same order, wrapped for the machine that they run on."""
    return given.args[0] if len(given.args) == 1 and not given.open else tuple(given.args)


@on(_KIND, "prepare_data_loader", "gather", "gather_for_metrics", "reduce", "pad_across_processes")
def data(m: Machine, owner: Any, given: Call) -> Any:
    return given.args[0] if given.args else Unknown(m.spot(given.node))


@on(_KIND, "unwrap_model")
def unwrap(m: Machine, owner: Any, given: Call) -> Any:
    return given.get(0, "model")


@on(_KIND, "backward")
def backward(m: Machine, owner: Any, given: Call) -> Any:
    lives.backward(m, given.get(0, "loss"), given.node)


@on(_KIND, "clip_grad_norm_", "clip_grad_value_")
def clip(m: Machine, owner: Any, given: Call) -> Any:
    return tensors.clip(m, given)


@on(
    _KIND,
    *"accumulate no_sync autocast join_uneven_inputs save save_model save_state load_state log"
    " print init_trackers end_training wait_for_everyone register_for_checkpointing free_memory"
    " clear get_state_dict unscale_gradients set_trigger check_trigger profile".split(),
)
def quiet(m: Machine, owner: Any, given: Call) -> Any:
    return Unknown(m.spot(given.node))


@calls.effect("accelerate.utils.extract_model_from_parallel")
def extract(m: Machine, given: Call) -> Any:
    return given.get(0, "model")
