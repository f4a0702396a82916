"""The losses and scores of one training, on the host, summed up as a `Trace`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from freezecheck.finding import Site
from freezecheck.live import ranking
from freezecheck.trace import WINDOW, Pool, Trace, highest

POOLED = 256  # samples that are judged together


@dataclass(slots=True)
class Step:
    """What was heard in one step, by now on the host."""

    number: int
    roots: list[float]  # losses that backward was called on
    known: list[tuple[float, float]]  # (value, level) of loss functions
    rows: list[tuple[Any, Any]]  # (scores, labels)


@dataclass(slots=True)
class History:
    """One training, from its first step on."""

    adversaries: bool = False  # optimizers take turns, each on losses of its own
    classes: int | None = None  # of the scores that are kept
    ignored: int | None = None  # a label that does not count
    site: Site | None = None  # of the first backward pass
    _seen: int = 0
    _finite: int = 0
    _lost: int = 0
    _start: float | None = None
    _recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _peak: float = 0.0
    _best: float | None = None
    _informed: bool = False
    _width: float | None = None
    _rows: list[tuple[Any, Any]] = field(default_factory=list)
    _pooled: int = 0
    _pools: deque[Pool] = field(default_factory=lambda: deque(maxlen=2))

    @property
    def begun(self) -> bool:
        """Some of its steps have been taken."""
        return self._seen > 0

    def take(self, steps: Iterable[Step]) -> Trace:
        """Some more steps are over; how it looks now."""
        young = not self._seen
        number = 0
        for step in steps:
            number = step.number
            self._losses(step)
            self._samples(step)
        self._pool(number, young)
        if len(self._recent) == WINDOW:
            low = median(value for value, _ in self._recent)
            self._best = low if self._best is None else min(low, self._best)
        if self.adversaries:  # their losses may rise, and their predictions be wrong, in good order
            return Trace(number, self._seen, self._finite, self._lost, site=self.site)
        return Trace(
            number,
            self._seen,
            self._finite,
            self._lost,
            self._start,
            tuple(value for value, _ in self._recent),
            fmean(level for _, level in self._recent) if self._recent else None,
            self._peak,
            self._best,
            self._informed,
            self._width or 0.0,
            tuple(self._pools),
            self.site,
        )

    def _losses(self, step: Step) -> None:
        self._seen += 1
        # A loss on which nobody calls backward, since it is not finite, say, harms nobody.
        if all(map(math.isfinite, step.roots or [value for value, _ in step.known])):
            self._finite, self._lost = step.number, 0
        else:
            self._lost += 1
        finite = [pair for pair in step.known if all(map(math.isfinite, pair))]
        if finite:
            value, level = map(fmean, zip(*finite))
            self._start = value if self._start is None else self._start
            self._recent.append((value, level))
            self._peak = max(self._peak, highest([v for v, _ in [*self._recent][-3:]]))

    def _samples(self, step: Step) -> None:
        """The rows of one step are one batch: within it, the weights are the same."""
        if step.rows:
            scores, labels = (ranking.joined(part) for part in zip(*step.rows))
            if self._width is None:
                self._width = ranking.width(scores)
            self._rows.append((scores, labels))
            self._pooled += len(labels)

    def _pool(self, number: int, young: bool) -> None:
        if self._pooled < POOLED:
            return
        pool = ranking.pool(number, self._rows, self.ignored, ranked=not self._informed)
        self._rows, self._pooled = [], 0
        if pool is not None and pool.samples >= POOLED // 2:
            self._informed = self._informed or pool.informed
            if not young:  # the first steps tell about the head as it was made
                self._pools.append(pool)
