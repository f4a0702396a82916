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

_MARGIN = 0.3  # by which rates are to be lowered that are high, but not surely too high


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

    @property
    def stated(self) -> str:
        """The rates, each once."""
        return ", ".join(dict.fromkeys(f"{rate:.2g}" for rate in self.rates))

    @property
    def advice(self) -> str:
        """What to do about rates that are too high."""
        calm = self.calm
        if calm is None and self.zone != UNSAFE:
            return f"lower {self._lowered(_MARGIN)}, and probe again"
        if calm is None:
            return (
                "lower the learning rates; at none of those tried, down to a thousandth, did a warm-up"
                " go well, so look at the loss and the data, too"
            )
        return f"lower {self._lowered(calm)}, where a warm-up raised no alarm"

    def _lowered(self, factor: float) -> str:
        return ", ".join(
            f"group {index} from {rate:.2g} to about {rate * factor:.1g}"
            for index, rate in enumerate(self.rates)
            if rate
        )

    @property
    def gain(self) -> float:
        """By how much the loss is below that of the initial weights, over the last ten steps, as a
        share of theirs."""
        now, first = sum(self.losses[-10:]), sum(self.initial[-10:])
        return (first - now) / abs(first) if first else 0.0
