"""What a warm-up means: its zone, what became of the run, and which rates would do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from freezecheck import catalogue
from freezecheck.check import check
from freezecheck.finding import Finding, Site
from freezecheck.live.record import unheard
from freezecheck.probe import drift, verdict
from freezecheck.probe.batches import HELD
from freezecheck.probe.critical import with_critical
from freezecheck.probe.floor import floor
from freezecheck.probe.observed import Observed, Start, begun, observe
from freezecheck.probe.plainly import compiled, plainly
from freezecheck.probe.report import ProbeReport, harmed
from freezecheck.probe.saved import Saved
from freezecheck.probe.setup import Setup
from freezecheck.probe.steps import RAMP, Course
from freezecheck.snapshot import count
from freezecheck.trace import COLLAPSED, EXPLODED, NOT_FINITE, SHARE, WINDOW, Pool, Trace, highest
from freezecheck.warmup import CLASSES, INCONCLUSIVE, NEAR, SAFE, UNKNOWN, UNSAFE, Warmup

_CALMER = 10**-0.5  # factor between the rates that are tried when a warm-up fails
_TRIES = 6


def judged(
    setup: Setup,
    saved: Saved,
    site: Site | None,
    remarks: tuple[str, ...],
    groups: bool = False,
) -> ProbeReport:
    """Probe, and with `groups` look for the critical rate of each parameter group; what `saved`
    holds is for the caller to put back."""
    with unheard(), plainly():
        start = begun(setup)
        seen = observe(setup, saved, start)
        warmup = _warmup(setup, seen)
        if warmup.zone in (UNSAFE, NEAR) or harmed(_found(_trace(warmup, seen))):
            warmup = replace(warmup, calm=_calm(setup, saved, start))
        if groups:
            warmup, more = with_critical(setup, saved, warmup)
            remarks += more
    trace = replace(_trace(warmup, seen), site=site)
    told = (*remarks, *_remarks(setup, warmup, seen.course))
    return ProbeReport(tuple(_found(trace)), trace, told)


def _found(trace: Trace) -> list[Finding]:
    return check(catalogue.load(), traces=[trace])


def _warmup(setup: Setup, seen: Observed) -> Warmup:
    """What was observed, in figures, and what it means."""
    course, pools = seen.course, seen.pools
    falls = setup.falls and not course.skipped
    course.zone = verdict.beside_scores(
        course.zone, course.losses, course.initial, seen.level, pools[1:], falls=falls
    )
    outcome = _outcome(course, pools)
    before, after = seen.start.features, seen.after.features
    return Warmup(
        task=seen.kind,
        batch=max(seen.sizes),
        ramp=RAMP,
        rates=tuple(setup.peaks),
        losses=tuple(course.losses),
        initial=tuple(course.initial),
        level=seen.level,
        zone=UNSAFE if outcome else course.zone,
        outcome=outcome,
        tripped=verdict.tripped(course.losses, course.initial),
        layers=seen.layers,
        samples=sum(seen.sizes),
        start=seen.start.look(seen.kind),
        train=seen.train.look(seen.kind),
        eval=seen.after.look(seen.kind),
        settled=seen.rested.look(seen.kind),
        features=drift.features(before, after),
        floor=floor(before, after, *seen.after.classes()) if seen.classifies else None,
        shares=seen.shares() if seen.classifies else None,
    )


def _outcome(course: Course, pools: list[Pool | None]) -> str:
    """`pools` are of the initial weights in eval mode, and of the last in train and in eval mode."""
    if course.zone == UNSAFE and (course.skipped or not verdict.finite(course.losses)):
        return NOT_FINITE
    if _collapsed(pools, alarmed=course.zone in (UNSAFE, NEAR)):
        return COLLAPSED
    return EXPLODED if course.zone == UNSAFE else ""


def _collapsed(pools: list[Pool | None], alarmed: bool) -> bool:
    """In both modes nearly all predictions are one class, and in one the scores are the same for all; or
    in both they do not tell the labels, which they did at first, or the loss has leapt meanwhile."""
    known = [pool for pool in pools if pool is not None]
    if len(known) < len(pools) or any(pool.share < SHARE for pool in known[1:]):
        return False
    before, *after = known
    constant = any(pool.constant for pool in after) and not before.constant
    lost = before.informed or alarmed
    return constant or (lost and all(pool.uninformed for pool in after))


def _calm(setup: Setup, saved: Saved, start: Start) -> float | None:
    """The first of ever smaller factors on all rates at which a warm-up goes well and does no harm; if
    none does, the first from which on none raises an alarm, as small rates may need longer to show."""
    quiet: float | None = None
    for attempt in range(1, _TRIES + 1):
        factor = float(_CALMER**attempt)
        peaks = [factor * peak for peak in setup.peaks]
        saved.restore()
        brief = replace(setup, peaks=peaks, max_steps=setup.steps)
        seen = observe(brief, saved, start, f"{factor:.2g} of the rates")
        warmup = _warmup(brief, seen)
        unharmed = not harmed(_found(_trace(warmup, seen)))
        if warmup.zone == SAFE and unharmed:
            return factor
        if warmup.zone != INCONCLUSIVE or not unharmed:
            quiet = None
        elif quiet is None:
            quiet = factor
    return quiet


def _trace(warmup: Warmup, seen: Observed) -> Trace:
    """`pools` are of the last weights."""
    losses, taken = warmup.losses, len(warmup.losses)
    lost = 0
    while lost < taken and not verdict.finite(losses[taken - lost - 1 : taken - lost]):
        lost += 1
    return Trace(
        taken,
        taken,
        taken - lost,
        lost,
        losses[0] if losses else None,
        losses[-WINDOW:],
        warmup.level,
        highest(losses),
        pools=tuple(pool for pool in seen.pools[1:] if pool is not None),
        warmup=warmup,
    )


def _remarks(setup: Setup, warmup: Warmup, course: Course) -> Iterator[str]:
    """What was not judged, and why."""
    if course.passed:
        yield (
            f"passed over: {count(course.passed, 'batch')} whose loss is not finite with"
            " the initial weights either"
        )
    if warmup.start is None:
        yield "in eval mode the model gives no loss: only its losses in training were judged"
    if any(map(compiled, setup.model.modules())):
        yield "the model is compiled, and was probed as if it were not"
    if not setup.model.training:
        yield "the model is in eval mode and was probed so; call train() first if the run does"
    if warmup.task != CLASSES:
        what = "the task is not known" if warmup.task == UNKNOWN else f"this is {warmup.task}"
        yield f"collapse to one class and the linear floor are not judged: {what}"
    elif warmup.samples < HELD:
        yield f"collapse and drift were judged on {warmup.samples} samples only: there are no more"
    if warmup.level is None:
        yield "what outputs without information would cost is not known: the initial loss stands for it"
