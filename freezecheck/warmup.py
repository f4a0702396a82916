"""What a short warm-up at the rates of a run showed, as plain data."""

from __future__ import annotations

from freezecheck.records import dataclass

SAFE, NEAR, UNSAFE, INCONCLUSIVE = "safe", "near the edge", "unsafe", "inconclusive"

CLASSES = "classification"
LABELS = "multi-label classification"
NUMBERS = "regression"
PIXELS = "segmentation"
TOKENS = "language modelling"
UNKNOWN = "unknown"

LAST = 10  # steps at the end that are judged together
_SURE = 3.0  # standard errors


@dataclass(frozen=True, slots=True)
class Layer:
    """A BatchNorm layer with running statistics.

    `drift` is the symmetric Gaussian divergence between the statistics that the warm-up left and
    those that the initial weights gather from the same batches, in nats, the median over its channels.
    """

    path: str
    training: bool
    trainable: bool
    drift: float


@dataclass(frozen=True, slots=True)
class Look:
    """The same samples, all with the same weights. `loss` is a mean over batches; `accuracy` is a
    share of the samples, None where there are no classes."""

    loss: float
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Features:
    """What goes into the head, of the same samples in eval mode, before and after.

    `drift` is the mean of 1 - cosine; `dead` the share of features that are the same for all.
    """

    drift: float
    dead_before: float
    dead_after: float


@dataclass(frozen=True, slots=True)
class Floor:
    """Accuracies on `samples` samples that the linear heads were not fitted on: of a linear head on
    the features before and after the warm-up, and of the model itself, all in eval mode."""

    samples: int
    before: float
    after: float
    own: float


@dataclass(frozen=True, slots=True)
class Shares:
    """What share of the samples is said to be of each class, and what share is.

    `predicted` has a row for each step, `labels` is of all steps; their columns are those of
    `classes`, the most frequent ones, and one more for all others.
    """

    classes: tuple[int, ...]
    predicted: tuple[tuple[float, ...], ...]
    labels: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Critical:
    """How high the rate of one parameter group can be while the others have their own.

    `certified` is a rate up to which the curvature of the loss promises stability, None where it
    is not known. `safe` is the largest that was tried and went well, `diverges` the smallest that
    did not; None where there was none. `suggested` is the run's own or a lower one; with those of
    all groups together a warm-up raised no alarm, None where such were not found. Each is
    the whole rate, not a factor.
    """

    group: int
    name: str  # the stage, or what the group calls itself
    rate: float  # the run's largest
    certified: float | None = None
    safe: float | None = None
    diverges: float | None = None
    tried: float | None = None  # the largest rate that was tried, None where none was
    suggested: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a probe is, told now and then."""

    stage: str
    step: int
    of: int  # steps at most
    losses: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()  # of the classes among the latest predictions


@dataclass(frozen=True, slots=True)
class Warmup:
    """A warm-up of some steps at a run's largest rates, and what it means.

    `losses` and `initial` are those of each step's batch, with the weights of that step and with
    the initial ones; `level` is the loss of outputs that say nothing of the inputs (the entropy of
    the labels), None where it is not known. `outcome` is as `Trace.verdict`. `calm` is the factor on
    all rates at which another warm-up raised no alarm, None where each did or none was made.
    """

    task: str
    batch: int  # samples of a batch
    ramp: int  # steps in which the rates rose
    rates: tuple[float, ...]  # of each parameter group, from then on
    losses: tuple[float, ...]
    initial: tuple[float, ...]
    level: float | None
    zone: str
    outcome: str
    tripped: int | None = None  # the step at which the loss leapt
    calm: float | None = None
    layers: tuple[Layer, ...] = ()
    samples: int = 0  # that the looks are at
    start: Look | None = None  # the initial weights in eval mode
    train: Look | None = None  # the last weights in the modes of training
    eval: Look | None = None
    settled: Look | None = None  # in eval mode, with BatchNorm statistics of the last weights alone
    features: Features | None = None
    floor: Floor | None = None
    shares: Shares | None = None  # where there are classes
    critical: tuple[Critical, ...] = ()  # of each group, where it was asked for

    @property
    def stated(self) -> str:
        """The rates, each once."""
        return ", ".join(dict.fromkeys(f"{rate:.2g}" for rate in self.rates))

    @property
    def advice(self) -> str:
        """What to do about rates that are too high."""
        if self.zone in (UNSAFE, NEAR) and (text := self._by_group):
            return text
        if self.calm is None:
            return (
                "lower the learning rates; at none of those tried, down to a thousandth, did a warm-up"
                " go well, so look at the loss and the data, too"
            )
        lowered = ", ".join(
            f"group {index} from {rate:.2g} to about {rate * self.calm:.1g}"
            for index, rate in enumerate(self.rates)
            if rate
        )
        return f"lower {lowered}, where a warm-up raised no alarm"

    @property
    def _by_group(self) -> str:
        """Of those whose critical rate is known to be too near; "" if that is none."""
        parts = []
        for each in self.critical:
            if each.suggested is not None and each.suggested < each.rate:
                near = each.diverges is not None and each.suggested < each.diverges <= 3 * each.rate
                alone = f" (it diverges near {each.diverges:.2g})" if near else ""
                parts.append(
                    f"group {each.group} ({each.name}) from {each.rate:.2g} to about"
                    f" {each.suggested:.1g}{alone}"
                )
        return f"lower {', '.join(parts)}, where a warm-up raised no alarm" if parts else ""

    @property
    def late(self) -> tuple[float, float]:
        """The mean loss over the last steps, and that of the initial weights on the same batches."""
        return _mean(self.losses[-LAST:]), _mean(self.initial[-LAST:])

    @property
    def gain(self) -> float:
        """By how much the loss is below that of the initial weights, over the last ten steps, as a
        share of theirs."""
        now, first = sum(self.losses[-LAST:]), sum(self.initial[-LAST:])
        return (first - now) / abs(first) if first else 0.0


def _mean(numbers: tuple[float, ...]) -> float:
    return sum(numbers) / len(numbers) if numbers else float("nan")


def surely_below(low: float, high: float, samples: int, least: float) -> bool:
    """Two accuracies on as many samples differ by `least` or more, and by more than chance."""
    spread = high * (1 - high) + low * (1 - low)
    lost = high - low
    return lost >= least and lost >= _SURE * (spread / max(samples, 1)) ** 0.5
