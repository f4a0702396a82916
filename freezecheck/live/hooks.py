"""The hooks and patches through which a `Recorder` hears what a script does.

Each is a few lines around one function of torch; what they cost was measured
one by one, and dearer ways (function and dispatch modes) were left out.
"""

from __future__ import annotations

import sys
import weakref
from itertools import chain
from types import GeneratorType
from typing import Any

from freezecheck.live import fastai, frames, heard, inside, lineage, ranks, values, watched
from freezecheck.live.patches import Patches
from freezecheck.live.record import Recorder
from freezecheck.live.traits import HEADS
from freezecheck.timeline import (
    CLIP,
    GROUP,
    LOAD,
    MODE,
    OPTIMIZER,
    WRAP,
)

_SCHEDULERS = (
    "LRScheduler",
    "OneCycleLR",
    "CyclicLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "ChainedScheduler",
)


def install(recorder: Recorder, patches: Patches, *, light: bool = False) -> None:
    """Put every hook in place; `patches.undo()` takes them out. `light` leaves out those that
    are called inside a forward pass."""
    torch = values.torch()
    _steps(recorder, patches, torch)
    fastai.install(recorder, patches)
    _optimizers(recorder, patches, torch)
    _schedulers(recorder, patches, torch)
    _flags(recorder, patches, torch)
    watched.strays(recorder.stray, patches)
    watched.layers(recorder.attribute, patches)
    heard.schedules(recorder, patches, torch)
    heard.resets(recorder, patches, torch)
    _modules(recorder, patches, torch)
    _modes(recorder, patches, torch)
    _loads(recorder, patches, torch)
    _backward(recorder, patches)
    _clipping(recorder, patches, torch)
    _wrappers(recorder, patches, torch)
    _name_tests(recorder, patches, torch)
    if not light:
        inside.install(recorder, patches)


def _steps(recorder: Recorder, patches: Patches, torch: Any) -> None:
    from torch.optim.optimizer import (
        register_optimizer_step_post_hook,
        register_optimizer_step_pre_hook,
    )

    patches.later(register_optimizer_step_pre_hook(recorder.before_step).remove)
    patches.later(register_optimizer_step_post_hook(recorder.after_step).remove)
    scaler = torch.amp.GradScaler

    def step(original: Any, self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, optimizer, *args, **kwargs)
        recorder.scaled(optimizer)
        return result

    patches.around(scaler, "step", step)


def _optimizers(recorder: Recorder, patches: Patches, torch: Any) -> None:
    base = torch.optim.Optimizer

    def init(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        with recorder.nested("optimizer"):
            original(self, *args, **kwargs)
        params = [p for group in self.param_groups for p in group["params"]]
        rates = tuple(values.number(group.get("lr", 0.0)) for group in self.param_groups)
        given = lineage.options(self)
        mark = recorder.note(
            OPTIMIZER,
            self,
            params=params,
            value=type(self).__name__,
            rates=rates,
            again=lineage.again(recorder, params, given),
            options=given,
        )
        recorder.built(mark)

    def add_group(original: Any, self: Any, param_group: dict[str, Any]) -> None:
        given = tuple(param_group)
        original(self, param_group)
        with recorder.nested("optimizer") as outermost:
            if outermost and self.param_groups:
                group = self.param_groups[-1]
                recorder.note(
                    GROUP,
                    self,
                    params=list(group["params"]),
                    index=len(self.param_groups) - 1,
                    lr=values.number(group.get("lr", 0.0)),
                    given=given,
                    others=tuple(values.number(g.get("lr", 0.0)) for g in self.param_groups[:-1]),
                )

    patches.around(base, "__init__", init)
    patches.around(base, "add_param_group", add_group)


def _schedulers(recorder: Recorder, patches: Patches, torch: Any) -> None:
    home = torch.optim.lr_scheduler

    def init(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        optimizer = args[0] if args else kwargs.get("optimizer")
        with recorder.nested("scheduler") as outermost:
            before = _rates(optimizer) if outermost else None
            last = _last(recorder, optimizer)
            original(self, *args, **kwargs)
        if before is not None:
            recorder.scheduled(self, before=before, after=_rates(optimizer), last=last)

    for name in _SCHEDULERS:
        kind = getattr(home, name)
        if "__init__" in vars(kind):
            patches.around(kind, "__init__", init)


def _last(recorder: Recorder, optimizer: Any) -> tuple[float, ...] | None:
    """The rates that the scheduler before this one last gave the groups."""
    for reference in reversed(recorder.schedulers):
        scheduler = reference()
        if scheduler is not None and getattr(scheduler, "optimizer", None) is optimizer:
            return tuple(values.number(lr) for lr in getattr(scheduler, "_last_lr", ()))
    return None


def _rates(optimizer: Any) -> tuple[dict[str, float | None], ...] | None:
    """lr and initial_lr of each group; None if this is no optimizer (a chained scheduler's list)."""
    groups = getattr(optimizer, "param_groups", None)
    if groups is None:
        return None
    return tuple(
        {
            key: values.number(group[key]) if key in group else None
            for key in ("lr", "initial_lr", "weight_decay")
        }
        for group in groups
    )


def _flags(recorder: Recorder, patches: Patches, torch: Any) -> None:
    """Who froze what, where: a property on `nn.Parameter`, never on `Tensor`."""
    kind = torch.nn.Parameter
    plain = torch.Tensor.requires_grad
    method = torch.Tensor.requires_grad_

    def write(self: Any, value: bool) -> None:
        plain.__set__(self, value)
        recorder.flag(self, bool(value))

    def requires_grad_(self: Any, requires_grad: bool = True) -> Any:
        result = method(self, requires_grad)
        recorder.flag(self, bool(requires_grad))
        return result

    patches.put(kind, "requires_grad", property(plain.__get__, write))
    patches.put(kind, "requires_grad_", requires_grad_)


def _modules(recorder: Recorder, patches: Patches, torch: Any) -> None:
    """A module put in the place of another one, as a new head is."""

    def registered(parent: Any, name: str, child: Any) -> None:
        before = parent._modules.get(name)
        if before is None and child is not None and name in HEADS:
            recorder.attribute(parent, name, type(child).__name__)
        if before is not None and child is not None and child is not before:
            recorder.replaced(child)

    home = torch.nn.modules.module
    patches.later(home.register_module_module_registration_hook(registered).remove)


def _modes(recorder: Recorder, patches: Patches, torch: Any) -> None:
    module = torch.nn.Module

    def train(original: Any, self: Any, mode: bool = True) -> Any:
        with recorder.nested("train") as outermost:
            if outermost:
                recorder.note(MODE, self, value=bool(mode), direct=frames.direct())
            return original(self, mode)

    patches.around(module, "train", train)


def _loads(recorder: Recorder, patches: Patches, torch: Any) -> None:
    def load_model(original: Any, self: Any, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, state_dict, *args, **kwargs)
        recorder.note(
            LOAD,
            self,
            value="model",
            given=len(state_dict),
            assign=bool(kwargs.get("assign", len(args) > 1 and args[1])),
            missing=len(getattr(result, "missing_keys", ())),
            unexpected=len(getattr(result, "unexpected_keys", ())),
        )
        return result

    states = lineage.States(recorder)

    def give_optimizer(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        state = original(self, *args, **kwargs)
        states.gave(self, state)
        return state

    def load_optimizer(original: Any, self: Any, state_dict: Any) -> Any:
        before = _rates(self)
        result = original(self, state_dict)
        origin = states.origin(self, state_dict)
        recorder.note(LOAD, self, value="optimizer", before=before, after=_rates(self), **origin)
        return result

    patches.around(torch.nn.Module, "load_state_dict", load_model)
    patches.around(torch.optim.Optimizer, "state_dict", give_optimizer)
    patches.around(torch.optim.Optimizer, "load_state_dict", load_optimizer)


def _backward(recorder: Recorder, patches: Patches) -> None:
    def run(original: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        recorder.backward()
        return result

    patches.around_backward(run)


def _clipping(recorder: Recorder, patches: Patches, torch: Any) -> None:
    """Gradients clipped of a filter that the optimizer has used up."""
    home = torch.nn.utils

    def clip(original: Any, parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if _drained(parameters):
            recorder.note(CLIP, value=original.__name__)
        return original(parameters, *args, **kwargs)

    for name in ("clip_grad_norm_", "clip_grad_value_"):
        patches.around(home.clip_grad, name, clip)
        patches.put(home, name, getattr(home.clip_grad, name))


def _drained(iterator: Any) -> bool:
    """It has been gone through before, as far as it shows: one that is merely empty has not."""
    while type(iterator) in (filter, map):
        iterator = iterator.__reduce__()[1][1]
    if type(iterator) is chain:
        return iterator.__reduce__() == (chain, ())  # older Pythons show it so
    return isinstance(iterator, GeneratorType) and iterator.gi_frame is None


def _wrappers(recorder: Recorder, patches: Patches, torch: Any) -> None:
    def init(original: Any, self: Any, module: Any, *args: Any, **kwargs: Any) -> None:
        original(self, module, *args, **kwargs)
        told = ranks.wrapped(self) if isinstance(self, distributed) else {}
        taken = [p for p in module.parameters() if p.requires_grad]
        kind = distributed if isinstance(self, distributed) else torch.nn.DataParallel
        recorder.wrappers[id(module)] = weakref.ref(self)
        recorder.note(WRAP, module, params=taken, value=kind.__name__, **told)

    distributed = torch.nn.parallel.DistributedDataParallel
    for kind in (torch.nn.DataParallel, distributed):
        patches.around(kind, "__init__", init)


def _name_tests(recorder: Recorder, patches: Patches, torch: Any) -> None:
    """Where parameters are chosen by their names."""

    def listen(method: str) -> None:
        def ask(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
            frame = sys._getframe(2)
            if frames.is_users(frame.f_code.co_filename) and not _memo(method, args, kwargs):

                def names() -> list[str]:
                    return [name for name, _ in original(self, *args, **kwargs)]

                recorder.asked(self, method, frame, names)
            return original(self, *args, **kwargs)

        patches.around(torch.nn.Module, method, ask)

    for method in ("named_parameters", "named_modules", "named_children"):
        listen(method)


def _memo(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """The call brings a set of what it has seen, which asking twice would spoil."""
    return method == "named_modules" and (bool(args) or "memo" in kwargs)
