"""fastai's optimizers, which are none of torch's and call none of its hooks.

`fastai.optimizer.Optimizer` has steps, groups and state of its own. The recorder
hears of them through patches on the class, put in place when it is imported, and
what they hold is described in torch's words. An `OptimWrapper` holds one of
torch's, which is heard as such.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from freezecheck.live import imports, values
from freezecheck.live.patches import Patches
from freezecheck.timeline import FACT, OPTIMIZER

if TYPE_CHECKING:
    from freezecheck.live.record import Recorder

_HOME = "fastai.optimizer"

# What makes the step -> the class of torch.optim that moves the same tensors.
_STEPS = {"sgd_step": "SGD", "momentum_step": "SGD", "adam_step": "Adam", "radam_step": "RAdam"}
_BEFORE = {"average_grad", "average_sqr_grad", "step_stat"}
_OPTIONS = {"wd": "weight_decay", "mom": "momentum"}
_STATE = {"grad_avg": "exp_avg", "sqr_avg": "exp_avg_sq", "step": "step"}


def kinds() -> tuple[type[Any], ...]:
    """The base class of its optimizers and wrappers; nothing where fastai is not imported."""
    home = sys.modules.get(_HOME)
    return () if home is None else (home._BaseOptimizer,)


def is_optimizer(item: Any) -> bool:
    """It is one of fastai's, a wrapper or not."""
    return isinstance(item, kinds())


def inner(optimizer: Any) -> Any | None:
    """The optimizer in an `OptimWrapper` or `Lookahead`; None if this is neither."""
    return vars(optimizer).get("opt") if is_optimizer(optimizer) else None


class Described:
    """An optimizer of fastai's, as torch would put it: groups, state, and the `family` of
    torch.optim that steps like it ("" where none does)."""

    def __init__(self, optimizer: Any) -> None:
        self.family, decoupled = _family(optimizer)
        self.defaults: dict[str, Any] = {}
        self.param_groups = []
        self.state: dict[Any, dict[str, Any]] = {}
        self.undecayed = {id(p) for p, kept in _items(optimizer) if kept.get("do_wd") is False}
        for group in optimizer.param_groups:
            options = {_OPTIONS.get(key, key): value for key, value in group.items()}
            if "momentum" in options and "sqr_mom" in options:
                options["betas"] = (options.pop("momentum"), options.pop("sqr_mom"))
            self.param_groups.append({**options, "decoupled_weight_decay": decoupled})
        for p, kept in _items(optimizer):
            named = {_STATE[key]: value for key, value in kept.items() if key in _STATE}
            if named:
                self.state[p] = named
        if self.param_groups:
            self.defaults = {k: v for k, v in self.param_groups[0].items() if k != "params"}


def _family(optimizer: Any) -> tuple[str, bool]:
    """The class of torch.optim that steps like this one, and whether its decay is decoupled."""
    parts = [getattr(part, "func", part) for part in getattr(optimizer, "cbs", ())]
    if any(getattr(part, "__module__", None) != _HOME for part in parts):
        return "", False
    names = [part.__name__ for part in parts]
    decays = [name for name in names if name in ("weight_decay", "l2_reg")]
    steps = [name for name in names if name not in _BEFORE and name not in decays]
    known = len(steps) == 1 and len(decays) <= 1 and names[-1] == steps[0]
    return (_STEPS.get(steps[0], "") if known else ""), decays != ["l2_reg"]


def _items(optimizer: Any) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Each tensor with what is kept for it. A look must not add to fastai's default dict."""
    state = optimizer.state
    return ((p, state.get(p, {})) for group in optimizer.param_groups for p in group["params"])


def install(recorder: Recorder, patches: Patches) -> None:
    """Let the recorder hear fastai's optimizers, if the script imports it."""
    imports.after(patches, {_HOME: lambda home: _listen(recorder, patches, home)})


def _listen(recorder: Recorder, patches: Patches, home: Any) -> None:
    def init(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        groups = self.param_groups
        mark = recorder.note(
            OPTIMIZER,
            self,
            params=[p for group in groups for p in group["params"]],
            value=type(self).__name__,
            rates=tuple(values.number(group.get("lr", 0.0)) for group in groups),
            options=tuple({k: v for k, v in g.items() if isinstance(v, float)} for g in groups),
        )
        recorder.built(mark)

    def step(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.before_step(self, (self, *args), kwargs)
        result = original(self, *args, **kwargs)
        recorder.after_step(self, (self, *args), kwargs)
        return result

    def freeze_to(original: Any, self: Any, n: int) -> None:
        original(self, n)
        if self.frozen_idx:
            recorder.note(FACT, value="fastai-freeze", callback="fastai's freeze()")

    patches.around(home.Optimizer, "__init__", init)
    patches.around(home.Optimizer, "step", step)
    patches.around(home._BaseOptimizer, "freeze_to", freeze_to)
