"""How the loss and the predictions of a run went, as plain data, and what that means.

What is judged are long stretches, never one step: an early spike that settles again is healthy,
and so is a head that has learnt no more yet than which class is the most frequent.
"""

from __future__ import annotations

from collections.abc import Sequence

from freezecheck.finding import Site
from freezecheck.records import dataclass
from freezecheck.warmup import Warmup

WINDOW = 20  # losses that are judged together
NOT_FINITE, EXPLODED, COLLAPSED = "not finite", "exploded", "collapsed"

_LOST = 3  # steps in a row whose loss is not finite
_FACTOR = 1.5  # times the loss that says nothing of the labels
_FALLING = 0.6  # times the loss of ten steps before
_EARLY = 60  # steps after which a spike of the beginning has settled, if it does
SHARE = 0.9  # of all predictions, on one class
_CHANCE = 1.64  # of the rank test: below it the scores tell the labels no better than chance
_ROUNDING = 1e-6
_FADED = 0.01  # of the spread at first
_INFORMED = 3.0  # above this one they tell the labels


@dataclass(frozen=True, slots=True)
class Pool:
    """Scores and labels of some hundred samples, taken in training, up to a step.

    `z` is the normal score of a rank test, class against rest, within each step and summed: how far the
    true class's scores exceed those of the rest. None where a step never has two labels.
    `spread` is the largest difference between two samples of one step in the score of a class, None
    where no step has two samples; `scale` is the largest score, both beside the mean of a sample's scores.
    """

    step: int
    samples: int
    classes: int
    top: int  # the class that is predicted most
    share: float  # of the predictions that fall on the class that is predicted most at their step
    z: float | None = None
    spread: float | None = None
    scale: float = 0.0

    @property
    def constant(self) -> bool:
        """Every sample of a step gets the same scores, but for rounding."""
        return self.spread is not None and self.spread <= _ROUNDING * self.scale

    @property
    def uninformed(self) -> bool:
        """Nearly all predictions are one class, and the scores do not tell the labels."""
        ranked_by_chance = self.z is not None and self.z < _CHANCE
        return self.constant or (self.share >= SHARE and ranked_by_chance)

    @property
    def informed(self) -> bool:
        """The scores tell the labels."""
        return self.z is not None and self.z >= _INFORMED


@dataclass(frozen=True, slots=True)
class Trace:
    """A training run up to a step: its losses, and its predictions where it classifies.

    `start` and `recent` are losses of the first and the latest steps as known loss functions
    gave them: means over a batch, before any scaling. `level` is what outputs that say nothing of
    the labels would give, such as ln 10 for ten classes; None where it is not known.
    """

    step: int
    seen: int = 0  # steps since the training began
    finite: int = 0  # the latest step with a finite loss; 0: none
    lost: int = 0  # steps since then
    start: float | None = None
    recent: tuple[float, ...] = ()
    level: float | None = None
    peak: float = 0.0  # the highest mean of three losses in a row
    best: float | None = None  # the lowest median of as many losses as are judged together
    informed: bool = False  # a pool was, at some time
    width: float = 0.0  # spread of the first step's scores
    pools: tuple[Pool, ...] = ()  # the latest two, none from the first steps
    site: Site | None = None  # of the backward pass
    warmup: Warmup | None = None  # the run was a probe, whose own verdict counts

    @property
    def verdict(self) -> str:
        """What has become of the run: `NOT_FINITE`, `EXPLODED`, `COLLAPSED`, or "" for nothing wrong."""
        if self.warmup is not None:
            return self.warmup.outcome
        if self.lost >= _LOST:
            return NOT_FINITE
        bound = self.bound
        if bound is not None and self._high(bound):
            return EXPLODED
        return COLLAPSED if self._collapsed(bound) else ""

    @property
    def typical(self) -> float:
        """The median of the recent losses."""
        return _median(self.recent)

    @property
    def bound(self) -> float | None:
        """The loss at the start or that of outputs without information, whichever is higher; None
        where losses below 0 show that there is no such thing."""
        if not self.level or self.start is None or min(self.start, *self.recent) < 0:
            return None
        return max(self.start, self.level)

    def _high(self, bound: float) -> bool:
        """The losses are far above the bound, and do not fall: those of a spike settle again."""
        if self.seen < _EARLY or len(self.recent) < WINDOW:
            return False
        before, after = _median(self.recent[: WINDOW // 2]), _median(self.recent[WINDOW // 2 :])
        return min(self.typical, after) > _FACTOR * bound and after > _FALLING * before

    def _collapsed(self, bound: float | None) -> bool:
        """It is so in two pools, and training has made it so. A head that has not learnt yet looks the
        same, but nothing has been lost: samples differ as they did, and the loss never rose."""
        if len(self.pools) < 2 or not all(pool.uninformed for pool in self.pools):
            return False
        faded = all(
            pool.constant or (pool.spread is not None and pool.spread < _FADED * self.width)
            for pool in self.pools
        )
        spiked = bound is not None and self.peak > _FACTOR * bound
        worse = bool(self.recent) and self.best is not None and self.typical > _FACTOR * self.best
        return faded or spiked or (self.informed and worse)


def highest(losses: Sequence[float]) -> float:
    """The highest mean of three losses in a row."""
    from statistics import fmean

    return max((fmean(losses[i : i + 3]) for i in range(len(losses) - 2)), default=0.0)


def _median(losses: Sequence[float]) -> float:
    from statistics import median  # slow to import, and rules that judge a text do without

    return median(losses)
