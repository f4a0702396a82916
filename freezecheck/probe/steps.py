"""A training loop of some steps, each compared with the initial weights on the same batch."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from freezecheck.live import values
from freezecheck.probe import verdict
from freezecheck.probe.initial import Initial
from freezecheck.probe.peaks import rated
from freezecheck.probe.setup import Setup
from freezecheck.warmup import LAST, Progress

RAMP = 10  # steps in which the rates rise to their peaks
_READ = 10  # steps between two looks at the losses, each of which waits for the device
_SKIPS = 16  # steps in a row that a gradient scaler may skip while it looks for its scale


@dataclass(slots=True)
class Course:
    """How a warm-up went; losses by step, as far as it got."""

    initial_weights: Initial
    classes: int = 0  # of a classification
    stage: str = "warm-up"
    losses: list[float] = field(default_factory=list)
    initial: list[float] = field(default_factory=list)
    predicted: list[list[float]] = field(default_factory=list)  # samples by class, of each step
    zone: str = ""
    skipped: int = 0  # steps, by the gradient scaler, in a row at the end
    at: int = 0  # the step at which it is, from 1


def warm_up(setup: Setup, level: float | None, factor: float, course: Course) -> None:
    """Train at `factor` times the peaks until the zone is known; `course` is filled on the way."""
    pending: list[Any] = []
    taken, batch = 0, 0
    with _counted(setup.optimizer) as steps:
        while not course.zone:
            course.at = taken + 1
            share = factor * min(1.0, (taken + 1) / RAMP)
            rated(setup.optimizer, [share * peak for peak in setup.peaks])
            before = steps[0]
            told = step(setup, course.initial_weights, setup.batch(batch), course.classes)
            batch += 1
            if steps[0] == before and setup.scaler is not None:  # its scale was too high
                course.skipped += 1
                if course.skipped <= _SKIPS:
                    continue
                course.zone = verdict.UNSAFE
            else:
                course.skipped = 0
            pending.append(told)
            taken += 1
            if taken % _READ == 0 or taken >= setup.steps or course.zone:
                _read(setup, course, pending)
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


def step(setup: Setup, initial: Initial, batch: Any, classes: int = 0) -> Any:
    """One step: its loss, that of the initial weights, and how many samples are said to be of each
    class, [2 + classes] on the device."""
    torch = values.torch()
    with initial.back(setup.device):
        first, _, _ = setup.run(batch)
    told: list[tuple[Any, Any]] = []

    def closure() -> Any:
        setup.optimizer.zero_grad()
        told.append(setup.descend(batch))
        return told[-1][0]

    if isinstance(setup.optimizer, torch.optim.LBFGS):  # evaluates the loss several times a step
        setup.optimizer.step(closure)
    else:
        closure()
        if setup.scaler is None:
            setup.optimizer.step()
        else:
            setup.scaler.step(setup.optimizer)
            setup.scaler.update()
    loss, outputs = told[0]
    losses = torch.stack((loss.float(), first.float()))
    return torch.cat((losses, _counts(outputs, classes, losses)))


def _counts(outputs: Any, classes: int, like: Any) -> Any:
    """Samples by predicted class [classes]; not by `bincount`, which waits for the device."""
    counts = like.new_zeros(classes)
    if not classes or outputs is None or outputs.shape[1:] != (classes,):
        return counts
    guesses = outputs.argmax(1)
    return counts.scatter_add_(0, guesses, like.new_ones(()).expand(len(guesses)))


def _read(setup: Setup, course: Course, pending: list[Any]) -> None:
    """Bring what was gathered to the host, all at once."""
    for loss, first, *counts in values.torch().stack(pending).tolist():
        course.losses.append(loss)
        course.initial.append(first)
        course.predicted.append(counts)
    pending.clear()
    setup.progress(
        Progress(
            course.stage,
            len(course.losses),
            setup.max_steps,
            tuple(course.losses),
            shares(course.predicted[-LAST:]),
        )
    )


def shares(counts: list[list[float]]) -> tuple[float, ...]:
    """The shares of the classes in some steps' samples."""
    sums = [sum(column) for column in zip(*counts)]
    whole = sum(sums)
    return tuple(each / whole for each in sums) if whole else ()


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
