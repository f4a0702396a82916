"""fastai's optimizers, which are none of torch's and call none of its hooks.

`fastai.optimizer.Optimizer` has steps, groups and state of its own. The recorder
hears of them through patches on the class, put in place when it is imported.
An `OptimWrapper` holds one of torch's, which is heard as such.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from freezecheck.live import imports, values
from freezecheck.live.patches import Patches
from freezecheck.timeline import FACT, OPTIMIZER

if TYPE_CHECKING:
    from freezecheck.live.record import Recorder

_HOME = "fastai.optimizer"


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
