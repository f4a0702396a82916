"""A warm-up and what was seen before and after it, put together and judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from freezecheck import catalogue
from freezecheck.check import check
from freezecheck.finding import Finding, Site
from freezecheck.live import values
from freezecheck.live.record import unheard
from freezecheck.probe import drift, task, verdict
from freezecheck.probe.batches import HELD, size
from freezecheck.probe.critical import with_critical
from freezecheck.probe.floor import floor
from freezecheck.probe.initial import Initial
from freezecheck.probe.looks import Seen, head, seen, settled
from freezecheck.probe.plainly import compiled, plainly
from freezecheck.probe.report import ProbeReport, harmed
from freezecheck.probe.saved import Saved
from freezecheck.probe.setup import NoLoss, Setup
from freezecheck.probe.steps import RAMP, Course, shares, warm_up
from freezecheck.snapshot import count
from freezecheck.trace import COLLAPSED, EXPLODED, NOT_FINITE, SHARE, WINDOW, Pool, Trace, highest
from freezecheck.warmup import CLASSES, INCONCLUSIVE, NEAR, SAFE, UNKNOWN, UNSAFE, Shares, Warmup

_CALMER = 10**-0.5  # factor between the rates that are tried when a warm-up fails
_TRIES = 6
_SHOWN = 8  # classes, beside all others


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
        warmup, pools, course = _probed(setup, saved)
        if warmup.zone in (UNSAFE, NEAR) or harmed(_found(warmup, pools)):
            warmup = replace(warmup, calm=_calm(setup, saved))
        if groups:
            warmup, more = with_critical(setup, saved, warmup)
            remarks += more
    trace = replace(_trace(warmup, pools), site=site)
    found = check(catalogue.load(), traces=[trace])
    return ProbeReport(tuple(found), trace, (*remarks, *_remarks(setup, warmup, course)))


def _found(warmup: Warmup, pools: list[Pool]) -> list[Finding]:
    return check(catalogue.load(), traces=[_trace(warmup, pools)])


def _probed(
    setup: Setup, saved: Saved, stage: str = "warm-up"
) -> tuple[Warmup, list[Pool], Course]:
    """The warm-up, and what was seen before and after it."""
    held = setup.batches.held()
    try:
        top, judges = head(setup, held[0]), True
    except NoLoss:  # in eval mode detectors return boxes instead
        top, judges = None, False
    start = seen(setup, held, top, training=False) if judges else Seen()
    kind = _task(start)
    level = task.level(kind, _asked(setup, kind, start), start.pairs)
    classes = start.outputs[0].shape[1] if kind == CLASSES else 0
    course = Course(Initial(setup.model, saved), classes, stage)
    warm_up(setup, level, 1.0, course)
    layers = drift.layers(setup.model, course.initial_weights)
    after = seen(setup, held, top, training=False) if judges else Seen()
    train = seen(setup, held, top, training=True)
    rested = settled(setup, held) if judges else Seen()
    taken = len(course.losses)
    pools = [s.pool(kind, taken) for s in (start, train, after)]
    passes = verdict.passes(course.losses, course.initial, level, pools[1:])
    if course.zone == UNSAFE and setup.falls and passes and not course.skipped:
        course.zone = NEAR
    outcome = _outcome(course, pools)
    zone = verdict.UNSAFE if outcome else course.zone
    known = kind == CLASSES and after.complete
    warmup = Warmup(
        kind,
        max(size(batch) for batch in held),
        RAMP,
        tuple(setup.peaks),
        tuple(course.losses),
        tuple(course.initial),
        level,
        zone,
        outcome,
        verdict.tripped(course.losses, course.initial),
        None,
        layers,
        sum(size(batch) for batch in held),
        start.look(kind),
        train.look(kind),
        after.look(kind),
        rested.look(kind),
        drift.features(start.features, after.features),
        floor(start.features, after.features, *after.classes()) if known else None,
        _shares(course, start.classes()[1]) if known else None,
    )
    return warmup, [pool for pool in pools[1:] if pool is not None], course


def _shares(course: Course, labels: Any) -> Shares:
    """Of the classes that are predicted or are labels most often; the rest together."""
    classes = course.classes
    kept = labels[(labels >= 0) & (labels < classes)]
    truth = values.torch().bincount(kept, minlength=classes).tolist()
    known = shares([truth]) or (0.0,) * classes
    predicted = [shares([counts]) or (0.0,) * classes for counts in course.predicted]
    weight = [max(column) for column in zip(known, *predicted)]
    first = sorted(sorted(range(classes), key=lambda c: -weight[c])[:_SHOWN])

    def row(of: tuple[float, ...]) -> tuple[float, ...]:
        return (*(of[c] for c in first), max(0.0, sum(of) - sum(of[c] for c in first)))

    return Shares(tuple(first), tuple(map(row, predicted)), row(known))


def _task(start: Seen) -> str:
    return task.task(start.outputs[0], start.targets[0]) if start.outputs else UNKNOWN


def _asked(setup: Setup, kind: str, start: Seen) -> Callable[[Any, Any], Any] | None:
    """The loss that outputs made up are judged by: the user's, or cross-entropy where the model's own
    loss is that."""
    criterion = setup.criterion()
    if criterion is not None or not start.outputs:
        return criterion
    for entropy in task.entropies(kind):
        apart = float(entropy(start.outputs[0].float(), start.targets[0])) - start.losses[0]
        if abs(apart) < 1e-2 * abs(start.losses[0]):
            return entropy
    return None


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


def _calm(setup: Setup, saved: Saved) -> float | None:
    """The first of ever smaller factors on all rates at which a warm-up goes well and does no harm; if
    none does, the first from which on none raises an alarm, as small rates may need longer to show."""
    quiet: float | None = None
    for attempt in range(1, _TRIES + 1):
        factor = float(_CALMER**attempt)
        peaks = [factor * peak for peak in setup.peaks]
        saved.restore()
        warmup, pools, _ = _probed(
            replace(setup, peaks=peaks, max_steps=setup.steps),
            saved,
            f"{factor:.2g} of the rates",
        )
        unharmed = not harmed(_found(warmup, pools))
        if warmup.zone == SAFE and unharmed:
            return factor
        if warmup.zone != INCONCLUSIVE or not unharmed:
            quiet = None
        elif quiet is None:
            quiet = factor
    return quiet


def _trace(warmup: Warmup, pools: list[Pool]) -> Trace:
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
        pools=tuple(pools),
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
