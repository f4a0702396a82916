"""Learning-rate schedulers, and the largest rate that they will reach."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from freezecheck.live import values
from freezecheck.snapshot import Scheduler

_HORIZON = 200  # steps of a schedule that are run on a stand-in to see a warm-up
_OPTIONS = (
    "eta_min",
    "T_max",
    "T_0",
    "T_i",
    "total_steps",
    "step_size",
    "gamma",
    "total_iters",
    "start_factor",
    "end_factor",
    "factor",
    "patience",
    "max_lrs",
)


def capture(label: str, scheduler: Any, positions: Mapping[int, int]) -> list[Scheduler]:
    """The records of a scheduler; `positions` gives an optimizer's index by its id."""
    scheduler = unwrap(scheduler)
    optimizer = driven(scheduler)
    record = Scheduler(
        label,
        type(scheduler).__name__,
        positions.get(id(optimizer)),
        int(getattr(scheduler, "last_epoch", 0) or 0),
        tuple(values.number(lr) for lr in getattr(scheduler, "base_lrs", ()) or ()),
    )
    if record.type == "CyclicLR":  # its base_lrs are the lower ends of the cycle
        record.base_lrs = tuple(values.number(lr) for lr in scheduler.base_lrs)
    for key in _OPTIONS:
        value = getattr(scheduler, key, None)
        if isinstance(value, (int, float)):
            record.options[key] = value
        elif isinstance(value, (list, tuple)):
            record.options[key] = tuple(values.number(v) for v in value)
    if optimizer is not None:
        record.peaks = _peaks(scheduler, record, optimizer)
    return [record]


def unwrap(scheduler: Any) -> Any:
    """The torch scheduler inside accelerate's wrapper."""
    inner = getattr(scheduler, "scheduler", None)
    return unwrap(inner) if hasattr(inner, "last_epoch") else scheduler


def driven(scheduler: Any) -> Any:
    """The optimizer whose rates a scheduler writes, unwrapped."""
    from freezecheck.live import optimizers

    optimizer = getattr(scheduler, "optimizer", None)
    if optimizer is None:
        parts = getattr(scheduler, "_schedulers", None)
        optimizer = getattr(parts[0], "optimizer", None) if parts else None
    return None if optimizer is None else optimizers.unwrap(optimizer)


def _peaks(scheduler: Any, record: Scheduler, optimizer: Any) -> tuple[float, ...]:
    groups = optimizer.param_groups
    now = [values.number(group.get("lr", 0.0)) for group in groups]
    if all("max_lr" in group for group in groups):
        return tuple(max(lr, values.number(g["max_lr"])) for lr, g in zip(now, groups))
    if "max_lrs" in record.options:
        tops = record.options["max_lrs"]
        return tuple(max(pair) for pair in zip(now, tops)) if len(tops) == len(now) else ()
    if now and all(lr > 0 and lr >= base for lr, base in zip(now, record.base_lrs)):
        return tuple(now)  # at its base: a decay from here on
    return _run_ahead(scheduler, groups, now)


def _run_ahead(scheduler: Any, groups: Any, now: list[float]) -> tuple[float, ...]:
    """The largest rates in the next steps, found on copies; empty where that fails."""
    stand_in = SimpleNamespace(
        param_groups=[
            {k: copy.copy(v) for k, v in group.items() if k != "params"} for group in groups
        ],
        _opt_called=True,
        step=SimpleNamespace(_wrapped_by_lr_sched=True),
    )
    try:
        twin = _twin(scheduler, stand_in)
        tops = now
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(_HORIZON):
                twin.step()
                rates = [values.number(group["lr"]) for group in stand_in.param_groups]
                tops = [max(pair) for pair in zip(tops, rates)]
    except Exception:
        return ()  # a user's scheduler that needs more than groups, or a schedule that ended
    return tuple(tops)


def _twin(scheduler: Any, stand_in: Any) -> Any:
    twin = copy.copy(scheduler)
    twin.__dict__ = {key: _copied(value) for key, value in scheduler.__dict__.items()}
    if "optimizer" in twin.__dict__:
        twin.optimizer = stand_in
    if "_schedulers" in twin.__dict__:
        twin._schedulers = [_twin(part, stand_in) for part in scheduler._schedulers]
    return twin


def _copied(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, (list, dict, set)) else value
