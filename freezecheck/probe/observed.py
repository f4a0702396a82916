"""A warm-up, and the same samples looked at before and after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from freezecheck.live import values
from freezecheck.probe import drift, task
from freezecheck.probe.batches import size
from freezecheck.probe.initial import Initial
from freezecheck.probe.looks import Seen, head, seen, settled
from freezecheck.probe.saved import Saved
from freezecheck.probe.setup import NoLoss, Setup
from freezecheck.probe.steps import Course, shares, warm_up
from freezecheck.trace import Pool
from freezecheck.warmup import CLASSES, UNKNOWN, Layer, Shares

_SHOWN = 8  # classes, beside all others


@dataclass(slots=True)
class Start:
    """What the initial weights make of the first batches, in eval mode. `look` is empty where a
    model gives no loss then."""

    held: list[Any]
    top: Any  # the module whose output is the model's
    judges: bool  # a loss is given in eval mode, too
    look: Seen
    kind: str  # of task
    level: float | None  # the loss of outputs that know nothing


@dataclass(slots=True)
class Observed:
    """`sizes` are those of the batches that were looked at."""

    course: Course
    kind: str
    level: float | None
    sizes: list[int]
    layers: tuple[Layer, ...]
    start: Seen
    train: Seen  # the last weights, in the modes of training
    after: Seen  # in eval mode
    rested: Seen  # in eval mode, with BatchNorm statistics of their own
    pools: list[Pool | None]  # of `start`, `train` and `after`

    @property
    def classifies(self) -> bool:
        """The outputs of every sample are known, and are scores of classes."""
        return self.kind == CLASSES and self.after.complete

    def shares(self) -> Shares:
        """Of the classes that are predicted or are labels most often; the rest together."""
        classes, labels = self.course.classes, self.start.classes()[1]
        kept = labels[(labels >= 0) & (labels < classes)]
        truth = values.torch().bincount(kept, minlength=classes).tolist()
        known = shares([truth]) or (0.0,) * classes
        predicted = [shares([counts]) or (0.0,) * classes for counts in self.course.predicted]
        weight = [max(column) for column in zip(known, *predicted)]
        first = sorted(sorted(range(classes), key=lambda c: -weight[c])[:_SHOWN])

        def row(of: tuple[float, ...]) -> tuple[float, ...]:
            return (*(of[c] for c in first), max(0.0, sum(of) - sum(of[c] for c in first)))

        return Shares(tuple(first), tuple(map(row, predicted)), row(known))


def begun(setup: Setup) -> Start:
    """A look at the initial weights, which the setup has now."""
    held = setup.batches.held()
    try:
        top, judges = head(setup, held[0]), True
    except NoLoss:  # in eval mode detectors return boxes instead
        top, judges = None, False
    look = seen(setup, held, top, training=False) if judges else Seen()
    kind = task.task(look.outputs[0], look.targets[0]) if look.outputs else UNKNOWN
    level = task.level(kind, _asked(setup, kind, look), look.pairs)
    return Start(held, top, judges, look, kind, level)


def observe(setup: Setup, saved: Saved, start: Start, stage: str = "warm-up") -> Observed:
    """Warm up; `saved` holds the initial weights, which the setup has now."""
    held, kind = start.held, start.kind
    classes = start.look.outputs[0].shape[1] if kind == CLASSES else 0
    course = Course(Initial(setup.model, saved), classes, stage)
    warm_up(setup, start.level, course)
    layers = drift.layers(setup.model, course.initial_weights)
    after = seen(setup, held, start.top, training=False) if start.judges else Seen()
    train = seen(setup, held, start.top, training=True)
    rested = settled(setup, held) if start.judges else Seen()  # the last: it resets statistics
    taken = len(course.losses)
    return Observed(
        course,
        kind,
        start.level,
        [size(batch) for batch in held],
        layers,
        start.look,
        train,
        after,
        rested,
        [look.pool(kind, taken) for look in (start.look, train, after)],
    )


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
