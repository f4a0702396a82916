"""A training loop of some steps, each compared with the initial weights on the same batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from freezecheck.live import values
from freezecheck.probe import verdict
from freezecheck.probe.batches import Batches, parted, to
from freezecheck.probe.initial import Initial
from freezecheck.probe.peaks import ramped
from freezecheck.probe.saved import Saved

RAMP = 10  # steps in which the rates rise to their peaks
_READ = 10  # steps between two looks at the losses, each of which waits for the device
_SKIPS = 16  # steps in a row that a gradient scaler may skip while it looks for its scale


@dataclass(slots=True)
class Setup:
    """What is trained, and how."""

    model: Any
    optimizer: Any
    batches: Batches
    loss: Callable[..., Any] | None
    scaler: Any
    forward: Callable[[Any, Any], Any] | None
    device: Any
    peaks: list[float]
    steps: int
    max_steps: int

    def batch(self, step: int) -> Any:
        """The batch of a step (from 0), on the device."""
        return to(self.batches.batch(step), self.device)

    def run(self, batch: Any) -> tuple[Any, Any, Any]:
        """(loss, outputs, targets) of one forward pass; outputs are None where they are no tensor."""
        args, keywords, targets = parted(batch, self.loss)
        with self._autocast():
            if self.forward is not None:
                out = self.forward(self.model, batch)
            else:
                out = self.model(*args, **keywords)
            scores = _part(out, "logits")
            if self.loss is None:
                value = _own_loss(out)
            elif targets is None:
                value = self.loss(out)
            else:
                value = self.loss(out if scores is None else scores, targets)
        torch = values.torch()
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise TypeError("the loss must be one number: a tensor with one element")
        return value.reshape(()), scores if isinstance(scores, torch.Tensor) else None, targets

    def _autocast(self) -> Any:
        """Half precision where a scaler asks for it and the caller has not switched it on."""
        torch, kind = values.torch(), self.device.type
        if self.scaler is None or not self.scaler.is_enabled() or self.forward is not None:
            return contextlib.nullcontext()
        if torch.is_autocast_enabled(kind):
            return contextlib.nullcontext()
        return torch.autocast(kind, torch.float16 if kind == "cuda" else None)


@dataclass(slots=True)
class Course:
    """How a warm-up went; losses by step, as far as it got."""

    initial_weights: Initial
    losses: list[float] = field(default_factory=list)
    initial: list[float] = field(default_factory=list)
    zone: str = ""
    skipped: int = 0  # steps, by the gradient scaler, in a row at the end
    at: int = 0  # the step at which it is, from 1


def warm_up(setup: Setup, saved: Saved, level: float | None, factor: float, course: Course) -> None:
    """Train at `factor` times the peaks until the zone is known; `course` is filled on the way."""
    pending: list[Any] = []
    taken, batch = 0, 0
    with _counted(setup.optimizer) as steps:
        while not course.zone:
            course.at = taken + 1
            share = factor * min(1.0, (taken + 1) / RAMP)
            ramped(setup.optimizer, setup.peaks, share)
            before = steps[0]
            pair = _step(setup, course.initial_weights, setup.batch(batch))
            batch += 1
            if steps[0] == before and setup.scaler is not None:  # its scale was too high
                course.skipped += 1
                if course.skipped <= _SKIPS:
                    continue
                course.zone = verdict.UNSAFE
            else:
                course.skipped = 0
            pending.append(pair)
            taken += 1
            if taken % _READ == 0 or taken >= setup.steps or course.zone:
                _read(course, pending)
                course.zone = course.zone or _zone(setup, course, level)


def _zone(setup: Setup, course: Course, level: float | None) -> str:
    taken = len(course.losses)
    last = taken >= setup.max_steps
    if taken < setup.steps:
        finite = verdict.finite(course.losses)
        return "" if finite else verdict.UNSAFE
    if taken % _READ and not last and taken != setup.steps:
        return ""
    return verdict.zone(course.losses, course.initial, level, setup.steps, last) or ""


def _step(setup: Setup, initial: Initial, batch: Any) -> Any:
    """One step; its loss and that of the initial weights, [2] on the device."""
    torch = values.torch()
    with initial.back(setup.device):
        first, _, _ = setup.run(batch)
    told: list[Any] = []

    def closure() -> Any:
        setup.optimizer.zero_grad()
        loss, _, _ = setup.run(batch)
        if not loss.requires_grad:
            raise ValueError("the loss hangs on no trainable parameter")
        told.append(loss.detach())
        (loss if setup.scaler is None else setup.scaler.scale(loss)).backward()
        return loss

    if isinstance(setup.optimizer, torch.optim.LBFGS):  # evaluates the loss several times a step
        setup.optimizer.step(closure)
    else:
        closure()
        if setup.scaler is None:
            setup.optimizer.step()
        else:
            setup.scaler.step(setup.optimizer)
            setup.scaler.update()
    return torch.stack((told[0].float(), first.float()))


def _read(course: Course, pending: list[Any]) -> None:
    """Bring the losses to the host, all at once."""
    for loss, first in values.torch().stack(pending).tolist():
        course.losses.append(loss)
        course.initial.append(first)
    pending.clear()


@contextlib.contextmanager
def _counted(optimizer: Any) -> Any:
    """Counts the steps that are really taken."""
    steps = [0]

    def stepped(*_: Any) -> None:
        steps[0] += 1

    handle = optimizer.register_step_post_hook(stepped)
    try:
        yield steps
    finally:
        handle.remove()


def _own_loss(out: Any) -> Any:
    """The loss that a model returns: alone, as `loss`, first of a tuple, or as a dict of parts."""
    loss = _part(out, "loss")
    if loss is not None and not (isinstance(out, values.torch().Tensor) and out.numel() != 1):
        return loss
    if isinstance(out, Mapping) and out and all(_is_number(v) for v in out.values()):
        return sum(out.values())
    raise ValueError("the model returns no loss: give `loss`, or `forward` that returns one")


def _part(out: Any, name: str) -> Any:
    """That entry of a model's output; the output itself where it is a tensor."""
    if isinstance(out, values.torch().Tensor):
        return out
    if isinstance(out, Mapping):
        return out.get(name)
    if hasattr(out, name):
        return getattr(out, name)
    if isinstance(out, tuple) and out and name == "loss":
        return out[0]
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, values.torch().Tensor) and value.numel() == 1
