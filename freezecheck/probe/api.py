"""`probe`: a short warm-up at the rates that a run will reach, judged, after which everything is as
it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from freezecheck import catalogue
from freezecheck.check import check
from freezecheck.live import frames, values
from freezecheck.probe import drift, task, verdict
from freezecheck.probe.batches import HELD, Batches, size
from freezecheck.probe.floor import floor
from freezecheck.probe.initial import Initial
from freezecheck.probe.looks import Seen, head, seen, settled
from freezecheck.probe.memory import OutOfMemory, exhaustion_told
from freezecheck.probe.peaks import peaks
from freezecheck.probe.report import ProbeReport
from freezecheck.probe.saved import Saved, generators_of, restored
from freezecheck.probe.steps import RAMP, Course, Setup, warm_up
from freezecheck.trace import COLLAPSED, EXPLODED, NOT_FINITE, WINDOW, Pool, Trace, highest
from freezecheck.warmup import CLASSES, INCONCLUSIVE, SAFE, UNKNOWN, UNSAFE, Warmup

__all__ = ["OutOfMemory", "ProbeReport", "probe"]

_CALMER = 10**-0.5  # factor between the rates that are tried when a warm-up fails
_TRIES = 6

listeners: list[Callable[[ProbeReport], None]] = []  # told of every report


def probe(
    model: Any,
    optimizer: Any,
    batches: Iterable[Any],
    loss: Callable[..., Any] | None = None,
    *,
    scheduler: Any = None,
    scaler: Any = None,
    steps: int = 30,
    max_steps: int = 60,
    device: Any = None,
    forward: Callable[[Any, Any], Any] | None = None,
) -> ProbeReport:
    """Will a run at these rates explode, collapse, or do harm to what was pretrained?

    Trains for `steps` steps, `max_steps` where that does not decide it: the rates of all groups
    rise in ten steps to the largest that the scheduler will ever give them, and stay there. Then
    everything is put back, bit for bit, also after an exception or an interrupt.

    Args:
        model: an `nn.Module`, in the modes in which it trains.
        optimizer: a `torch.optim.Optimizer` over its parameters.
        batches: a loader or any iterable; gone through again if it is short. Of a tuple or list
            the last part are the targets; a dict (as of Hugging Face) gives keyword arguments.
        loss: called with (outputs, targets); None where the model returns its own.
        scheduler: one or several; they are run on stand-ins only.
        scaler: a `GradScaler`; the forward pass is then under autocast. A step that it skips is none.
        device: where batches go; the model's own if None.
        forward: called with (model, batch) in place of the model.

    Gradients are not clipped, nor accumulated over several batches. An iterator that can be gone
    through once only is used up.

    Raises OutOfMemory with the batch size and the peak; TypeError and ValueError for arguments that
    cannot be meant; whatever the model raises.
    """
    if not 10 <= steps <= max_steps:
        raise ValueError(f"steps must be 10 or more and no more than max_steps, not {steps}")
    _check(model, optimizer)
    site = frames.site(2)
    rates, remarks = peaks(model, optimizer, scheduler)
    place = values.torch().device(device) if device is not None else _device(model)
    setup = Setup(
        model, optimizer, Batches(batches), loss, scaler, forward, place, rates, steps, max_steps
    )
    modules = [m for m in (model, loss) if isinstance(m, values.torch().nn.Module)]
    with (
        exhaustion_told(setup),
        restored(modules, optimizer, scheduler, scaler, generators_of(batches)) as saved,
    ):
        trace = replace(_judged(setup, saved), site=site)
    found = check(catalogue.load(), traces=[trace])
    report = ProbeReport(tuple(found), trace, (*remarks, *_remarks(setup, trace)))
    for listener in listeners:
        listener(report)
    return report


def _judged(setup: Setup, saved: Saved) -> Trace:
    """The warm-up, and what was seen before and after it."""
    held = setup.batches.held()
    top = head(setup, held[0])
    start = seen(setup, held, top, training=False)
    kind = _task(start)
    level = task.level(kind, _asked(setup, kind, start), start.pairs)
    course = Course(Initial(setup.model, saved))
    warm_up(setup, saved, level, 1.0, course)
    layers = drift.layers(setup.model, course.initial_weights)
    after = seen(setup, held, top, training=False)
    train = seen(setup, held, top, training=True)
    rested = settled(setup, held)
    taken = len(course.losses)
    pools = [s.pool(kind, taken) for s in (start, train, after)]
    outcome = _outcome(course, pools)
    zone = verdict.UNSAFE if outcome else course.zone
    classes = kind == CLASSES and after.complete
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
        _calm(setup, saved, level) if zone == UNSAFE else None,
        layers,
        sum(size(batch) for batch in held),
        start.look(kind),
        train.look(kind),
        after.look(kind),
        rested.look(kind),
        drift.features(start.features, after.features),
        floor(start.features, after.features, *after.classes()) if classes else None,
    )
    return _trace(warmup, [pool for pool in pools[1:] if pool is not None])


def _task(start: Seen) -> str:
    return task.task(start.outputs[0], start.targets[0]) if start.outputs else UNKNOWN


def _asked(setup: Setup, kind: str, start: Seen) -> Callable[[Any, Any], Any] | None:
    """The loss that outputs made up are judged by: the user's, or cross-entropy where the model's own
    loss is that."""
    if setup.loss is not None or kind != CLASSES:
        return setup.loss
    entropy: Callable[[Any, Any], Any] = values.torch().nn.functional.cross_entropy
    same = abs(float(entropy(start.outputs[0].float(), start.targets[0])) - start.losses[0])
    return entropy if same < 1e-2 * abs(start.losses[0]) else None


def _outcome(course: Course, pools: list[Pool | None]) -> str:
    """`pools` are of the initial weights in eval mode, and of the last in train and in eval mode."""
    if course.zone == UNSAFE and (course.skipped or not verdict.finite(course.losses)):
        return NOT_FINITE
    before, *after = pools
    if before is not None and all(pool is not None and pool.uninformed for pool in after):
        constant = all(pool is not None and pool.constant for pool in after)
        if before.informed or course.zone == UNSAFE or (constant and not before.constant):
            return COLLAPSED
    return EXPLODED if course.zone == UNSAFE else ""


def _calm(setup: Setup, saved: Saved, level: float | None) -> float | None:
    """The first of ever smaller factors on all rates at which a warm-up goes well; if none does, the
    first from which on none raises an alarm, as small rates may need longer to show."""
    brief = replace(setup, max_steps=setup.steps)
    quiet: float | None = None
    for attempt in range(1, _TRIES + 1):
        factor = float(_CALMER**attempt)
        saved.restore()
        course = Course(Initial(setup.model, saved))
        warm_up(brief, saved, level, factor, course)
        if course.zone == SAFE:
            return factor
        if course.zone != INCONCLUSIVE:
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


def _check(model: Any, optimizer: Any) -> None:
    """One line on what cannot be probed."""
    if not isinstance(optimizer, values.torch().optim.Optimizer):
        raise TypeError(f"probe needs one torch.optim.Optimizer, not {type(optimizer).__name__}")
    if not isinstance(model, values.torch().nn.Module):
        raise TypeError(f"probe needs one torch.nn.Module, not {type(model).__name__}")
    if any(type(p).__name__ == "DTensor" or p.is_meta for p in model.parameters()):
        raise ValueError("sharded parameters, and parameters without values, cannot be probed")


def _device(model: Any) -> Any:
    first = next(model.parameters(), None)
    return first.device if first is not None else values.torch().device("cpu")


def _remarks(setup: Setup, trace: Trace) -> Iterator[str]:
    """What was not judged, and why."""
    warmup = trace.warmup
    assert warmup is not None
    yield "gradients were not clipped and not accumulated, whatever the run does"
    if not setup.model.training:
        yield "the model is in eval mode and was probed so; call train() first if the run does"
    if warmup.task != CLASSES:
        what = "the task is not known" if warmup.task == UNKNOWN else f"this is {warmup.task}"
        yield f"collapse to one class and the linear floor are not judged: {what}"
    elif warmup.samples < HELD:
        yield f"collapse and drift were judged on {warmup.samples} samples only: there are no more"
    if warmup.level is None:
        yield "what outputs without information would cost is not known: the initial loss stands for it"
