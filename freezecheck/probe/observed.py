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
class Observed:
    """`sizes` are those of the batches that were looked at, `kind` is the task. The looks are
    empty where a model gives no loss in eval mode."""

    course: Course
    kind: str
    level: float | None  # the loss of outputs that know nothing
    sizes: list[int]
    layers: tuple[Layer, ...]
    start: Seen  # the initial weights in eval mode
    train: Seen  # the last ones, in the modes of training
    after: Seen  # in eval mode
    rested: Seen  # in eval mode, with BatchNorm statistics of their own

    @property
    def pools(self) -> list[Pool | None]:
        """Of the initial weights in eval mode, and of the last in train and in eval mode."""
        taken = len(self.course.losses)
        return [look.pool(self.kind, taken) for look in (self.start, self.train, self.after)]

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


def observe(setup: Setup, saved: Saved, stage: str = "warm-up") -> Observed:
    """Warm up; `saved` holds the initial weights, which the setup has now."""
    held = setup.batches.held()
    try:
        top, judges = head(setup, held[0]), True
    except NoLoss:  # in eval mode detectors return boxes instead
        top, judges = None, False
    start = seen(setup, held, top, training=False) if judges else Seen()
    kind = task.task(start.outputs[0], start.targets[0]) if start.outputs else UNKNOWN
    level = task.level(kind, _asked(setup, kind, start), start.pairs)
    classes = start.outputs[0].shape[1] if kind == CLASSES else 0
    course = Course(Initial(setup.model, saved), classes, stage)
    warm_up(setup, level, course)
    return Observed(
        course,
        kind,
        level,
        [size(batch) for batch in held],
        drift.layers(setup.model, course.initial_weights),
        start,
        after=seen(setup, held, top, training=False) if judges else Seen(),
        train=seen(setup, held, top, training=True),
        rested=settled(setup, held) if judges else Seen(),  # the last: it resets statistics
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
