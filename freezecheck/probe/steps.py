"""A training loop of some steps, each compared with the initial weights on the same batch."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    odd: int = 0  # batches whose loss the initial weights do not know either, in a row at the end
    passed: int = 0  # such batches in all
    batches: int = 0  # that were gone through


Rates = Callable[[int], list[float]]  # of the groups, at a step, counted from 1


def warm_up(setup: Setup, level: float | None, course: Course) -> None:
    """Train at the peaks until the zone is known; `course` is filled on the way."""

    def rates(number: int) -> list[float]:
        share = min(1.0, number / RAMP)
        return [share * peak for peak in setup.peaks]

    while not course.zone:
        advance(setup, course, rates, _until(setup, len(course.losses)))
        course.zone = course.zone or _zone(setup, course, level)


def advance(setup: Setup, course: Course, rates: Rates, until: int) -> None:
    """Train up to the step of that number, or less far where steps turn out to be none."""
    pending: list[Any] = []
    for number in range(len(course.losses) + 1, until + 1):
        rated(setup.optimizer, rates(number))
        before = _scale(setup)
        batch = setup.batch(course.batches)
        told = step(setup, course.initial_weights, batch, course.classes)
        scales = values.torch().stack((before, _scale(setup)))
        pending.append(values.torch().cat((scales, told)))
        course.batches += 1
    _read(setup, course, pending)


def _until(setup: Setup, taken: int) -> int:
    """The step after which the losses are looked at next."""
    limit = setup.steps if taken < setup.steps else setup.max_steps
    return min(limit, taken - taken % _READ + _READ)


def _zone(setup: Setup, course: Course, level: float | None) -> str:
    taken = len(course.losses)
    if taken < setup.steps:
        return "" if verdict.finite(course.losses) else verdict.UNSAFE
    last = taken >= setup.max_steps
    return verdict.zone(course.losses, course.initial, level, setup.steps, last) or ""


def _scale(setup: Setup) -> Any:
    """By which gradients are multiplied, on the device: it falls where the scaler skips a step."""
    one = values.torch().ones((), device=setup.device)
    return one if setup.scaler is None else setup.scaler.scale(one)


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
    for row in values.torch().stack(pending).tolist():
        _heard(course, *row)
    setup.progress(
        Progress(
            course.stage,
            len(course.losses),
            setup.max_steps,
            tuple(course.losses),
            shares(course.predicted[-LAST:]),
        )
    )


def _heard(
    course: Course, before: float, after: float, loss: float, first: float, *counts: float
) -> None:
    """A step that the scaler skipped is none. Nor is one whose loss is not finite with the initial
    weights either (a batch without labels): that is not the rates' doing, unless it goes on."""
    finite = math.isfinite(loss)
    if not finite and not math.isfinite(first) and course.odd < _SKIPS:
        course.odd += 1
        course.passed += 1
    elif finite and after < before:
        course.skipped += 1
        if course.skipped > _SKIPS or after < 1:
            course.zone = verdict.UNSAFE
    else:
        course.odd = course.skipped = 0
        course.losses.append(loss)
        course.initial.append(first)
        course.predicted.append(list(counts))


def shares(counts: list[list[float]]) -> tuple[float, ...]:
    """The shares of the classes in some steps' samples."""
    sums = [sum(column) for column in zip(*counts)]
    whole = sum(sums)
    return tuple(each / whole for each in sums) if whole else ()
