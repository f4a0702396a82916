"""Critical learning rates: how high the rate of one parameter group can be while the others have
theirs.

For each group its rate rises geometrically, step by step, until the loss does, which brackets the
critical rate; short warm-ups around there, at one rate each, confirm it. All are judged by the losses of
the same batches with the initial weights. A leap alone is no alarm here: where one group is
too fast, the others often make up for it within some steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from freezecheck.live.api import take_snapshot
from freezecheck.probe import verdict
from freezecheck.probe.curvature import KNOWN, certified
from freezecheck.probe.initial import Initial
from freezecheck.probe.named import names, places
from freezecheck.probe.saved import Saved
from freezecheck.probe.setup import Setup
from freezecheck.probe.steps import RAMP, Course, advance, warm_up
from freezecheck.probe.suggested import SHARE, rounded, suggested
from freezecheck.snapshot import count
from freezecheck.warmup import INCONCLUSIVE, LAST, SAFE, UNSAFE, Critical, Warmup

MOST = 20  # groups
_RISING = 40  # steps of the ramp
_LOW, _HIGH = 1e-2, 1e3  # where it begins and ends, beside the configured rate,
_BEYOND = 1e2  # and beside what curvature allows
_SURE = 0.25  # of that: curvature grows as training goes on
_ROW = 3  # losses in a row above those of the initial weights that end it
_TRIALS = 8  # warm-ups at one rate, per group
_CLOSE = 1.8  # factor between a rate that goes well and one that does not: near enough
_DOWN = 4.0  # factor between two rates while none has gone well
_LEARNT = 0.1  # of what outputs without information cost: by so much a loss has to be lower
_LOWERED, _LESS = 4, 1 / 3  # how often suggested rates are lowered if all together fail, by what
_READ = 10  # steps between two looks at the losses


def with_critical(setup: Setup, saved: Saved, warmup: Warmup) -> tuple[Warmup, tuple[str, ...]]:
    """What a warm-up showed, with the critical rates of the groups, and what is to be said of them.

    The other groups have their own rates or, where with these a warm-up fails, a third of those at
    which one did not. `saved` is put back before each attempt, not after the last.
    """
    factor = 1.0
    if warmup.zone == UNSAFE:
        if warmup.calm is None:
            return warmup, ("no critical rates: a warm-up fails at whatever rates",)
        factor = SHARE * warmup.calm
    saved.restore()
    now = take_snapshot(setup.model, setup.optimizer)
    record, called = now.optimizers[0], names(now, 0)
    calm = replace(setup, peaks=[factor * peak for peak in setup.peaks])
    found = []
    for index in _chosen(setup):
        saved.restore()
        precise = replace(calm, scaler=None)
        stable = certified(precise, index, record.family, record.groups[index].options)
        attempts = _Attempts(calm, saved, warmup.level, index, called[index])
        found.append(_bracketed(attempts, setup.peaks[index], stable))
    confirmed = _confirmed(setup, saved, warmup, found, places(now, 0))
    return (
        replace(warmup, critical=confirmed),
        tuple(_remarks(setup, confirmed, record.family, factor)),
    )


def _confirmed(
    setup: Setup, saved: Saved, warmup: Warmup, found: list[Critical], where: list[float]
) -> tuple[Critical, ...]:
    """With the rates that are suggested for all groups: those with which a warm-up goes well."""
    ends = {each.group: each.diverges for each in found if each.diverges is not None}
    rates = suggested(setup.peaks, ends, where)
    if rates == setup.peaks and warmup.zone == UNSAFE:  # only all together are too high
        rates = [rounded((warmup.calm or 1.0) * rate) for rate in rates]
    for _ in range(_LOWERED):
        if rates == setup.peaks or _goes_well(setup, saved, warmup.level, rates):
            return tuple(replace(each, suggested=rates[each.group]) for each in found)
        rates = [rounded(_LESS * rate) for rate in rates]
    return tuple(found)


def _goes_well(setup: Setup, saved: Saved, level: float | None, rates: list[float]) -> bool:
    saved.restore()
    course = Course(Initial(setup.model, saved), stage="suggested rates")
    warm_up(replace(setup, peaks=rates), level, course)
    return course.zone in (SAFE, INCONCLUSIVE)


def _remarks(setup: Setup, found: Sequence[Critical], family: str, factor: float) -> Iterator[str]:
    left = len(setup.peaks) - len(found)
    if left:
        yield (
            f"no critical rate of {count(left, 'parameter group')}, without trainable parameters, with"
            f" rate 0, or beyond the largest {MOST}"
        )
    if len(setup.peaks) == 1:
        yield (
            "the optimizer has one parameter group: to learn the critical rate of each stage, give each"
            " a group"
        )
    if family not in KNOWN:
        kind = type(setup.optimizer).__name__
        yield f"which rates the curvature of the loss allows is not known for {kind}"
    if factor != 1.0:
        yield (
            f"critical rates are those with the other groups at {factor:.2g} of their rates: with all"
            " of them a warm-up fails"
        )


def _chosen(setup: Setup) -> list[int]:
    """The groups that move, of these the largest."""
    sizes = {
        index: sum(p.numel() for p in group["params"] if p.requires_grad)
        for index, group in enumerate(setup.optimizer.param_groups)
        if setup.peaks[index] > 0
    }
    largest = sorted((i for i in sizes if sizes[i]), key=lambda i: -sizes[i])[:MOST]
    return sorted(largest)


def _bracketed(attempts: _Attempts, rate: float, stable: float | None) -> Critical:
    """By a ramp, then by warm-ups between the largest rate that went well and the smallest that did
    not, until these are close. `stable` is what the curvature allows, None where it is not known."""
    high = max(_HIGH * rate, _BEYOND * (stable or 0.0))
    low = min(rate, _LOW * rate if stable is None else stable)
    well = ill = alarmed = None
    most = 0.0
    at = attempts.ramp(low, high) or high
    for _ in range(_TRIALS):
        most = max(most, at)
        said = attempts.hold(at)
        if said == verdict.HEALTHY:
            well = at if well is None else max(well, at)
        else:
            ill = at if ill is None else min(ill, at)
        if said == verdict.ALARM:
            alarmed = at if alarmed is None else min(alarmed, at)
        if ill is None:
            if at >= high:
                break
            at = high
        elif well is None:
            at = ill / _DOWN
        elif ill <= _CLOSE * well:
            break
        else:
            at = math.sqrt(well * ill)
    # To learn nothing is a failure only where lower rates learn.
    ends = ill if well is not None else alarmed
    sure = None if stable is None else _SURE * stable
    if sure is not None and ends is not None and sure > (well or 0.0):
        sure = None  # nothing went well there
    return Critical(attempts.group, attempts.name, rate, sure, well, ends, most)


@dataclass(slots=True)
class _Attempts:
    """Warm-ups in which one group has a rate of its own."""

    setup: Setup
    saved: Saved
    level: float | None
    group: int
    name: str

    def ramp(self, low: float, high: float) -> float | None:
        """The rate at which the loss rose, while it grew from `low` to `high`; None if it never did."""
        growth = (high / low) ** (1 / _RISING)

        def own(number: int) -> float:
            return float(low * growth ** max(0, number - RAMP))

        course = self._begun("rising")
        while len(course.losses) < RAMP + _RISING and not course.zone:
            self._advance(course, own, RAMP + _RISING)
            number = self._risen(course)
            if number is not None:
                return own(number)
        return own(len(course.losses) + 1) if course.zone else None

    def _risen(self, course: Course) -> int | None:
        """The first of some steps in a row whose loss is above both bounds."""
        row = 0
        for number, (loss, before) in enumerate(zip(course.losses, course.initial), 1):
            bound = before if self.level is None else max(before, self.level)
            row = 0 if loss <= bound else row + 1  # NaN is above
            if row == _ROW and number > RAMP:
                return number - _ROW + 1
        return None

    def hold(self, rate: float) -> str:
        """What a warm-up at that rate says: `verdict.HEALTHY`, `ALARM` or `UNCLEAR`."""
        course = self._begun(f"at {rate:.2g}")
        while True:
            self._advance(
                course, lambda number: rate * min(1.0, number / RAMP), self.setup.max_steps
            )
            if course.zone or not verdict.finite(course.losses):
                return verdict.ALARM
            taken = len(course.losses)
            said = verdict.paired(course.losses, course.initial, self.level)
            if taken >= self.setup.max_steps:
                return said if said != verdict.UNCLEAR else self._in_the_mean(course)
            if taken >= self.setup.steps and (
                said == verdict.HEALTHY or (said == verdict.ALARM and _stays(course.losses))
            ):
                return said

    def _in_the_mean(self, course: Course) -> str:
        """What the last losses say that are not surely above or below: batches differ much."""
        if verdict.excess(course.losses, course.initial, self.level) > verdict.HIGH:
            return verdict.ALARM
        bounds = [fmean(course.initial[-LAST:])]
        if self.level is not None:
            bounds.append(self.level)
        least = min(bounds)
        low = least - fmean(course.losses[-LAST:]) > _LEARNT * abs(least)
        return verdict.HEALTHY if low else verdict.UNCLEAR

    def _begun(self, what: str) -> Course:
        self.saved.restore()
        stage = f"group {self.group} ({self.name}), {what}"
        return Course(Initial(self.setup.model, self.saved), stage=stage)

    def _advance(self, course: Course, own: Callable[[int], float], most: int) -> None:
        """Some steps more; the other groups rise to their peaks as in every warm-up."""

        def rates(number: int) -> list[float]:
            share = min(1.0, number / RAMP)
            found = [share * peak for peak in self.setup.peaks]
            found[self.group] = own(number)
            return found

        advance(self.setup, course, rates, min(most, len(course.losses) + _READ))


def _stays(losses: list[float]) -> bool:
    """They do not come down from where they were at first."""
    return fmean(losses[-2 * LAST :]) >= fmean(losses[: -2 * LAST] or losses)
