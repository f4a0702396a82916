"""Which fine-tunes are studied."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from .networks import NETWORKS

SCOPES = ("all", "last", "head", "stem")  # the last: all train, the stem's rate alone varies
SEEDS = 2
_COMBINATIONS = 3  # of batch, schedule, labels and noise for each network, scope and optimizer
_FACTORS = (1 / 16, 1 / 4, *(2**k for k in range(8)))
# The third of ten rates by network, in the order of SCOPES; the last one is 128 times as high. A few
# runs told where those of a row begin to fail.
_THIRD = {
    "sgd": {
        "train": (0.16, 0.16, 0.16, 0.32),
        "frozen": (0.004, 0.016, 0.32, 0.016),
        "group": (0.08, 0.08, 0.16, 0.32),
        "vit": (0.016, 0.032, 0.064, 0.08),
    },
    "adamw": {
        "train": (0.064, 0.08, 0.064, 0.08),
        "frozen": (0.008, 0.064, 0.08, 0.08),
        "group": (0.064, 0.08, 0.064, 0.08),
        "vit": (0.032, 0.064, 0.064, 0.032),
    },
}


@dataclass(frozen=True, order=True)
class Setting:
    """All but the rate and the seed."""

    network: str
    scope: str
    optimizer: str  # "sgd", with momentum 0.9, or "adamw"
    batch: int
    schedule: str  # "constant" or "cosine", that with a warm-up
    labels: str  # "balanced" or "majority"
    noise: bool

    @property
    def tuned(self) -> bool:
        """Thresholds may be chosen by what happens here; the other half is held out."""
        return hashlib.sha256(repr(self).encode()).digest()[0] % 2 == 0

    @property
    def rates(self) -> list[float]:
        """From safe to broken; the upper ones a factor of 2 apart."""
        third = _THIRD[self.optimizer][self.network][SCOPES.index(self.scope)]
        return [third * factor for factor in _FACTORS]


@dataclass(frozen=True)
class Configuration:
    """One run."""

    setting: Setting
    rate: float
    seed: int

    @property
    def key(self) -> str:
        """Says which it is, in a file of results."""
        return repr((asdict(self.setting), f"{self.rate:.6g}", self.seed))


def settings() -> list[Setting]:
    """The same in each call; neighbours differ."""
    rest = list(
        itertools.product((8, 32), ("constant", "cosine"), ("balanced", "majority"), (False, True))
    )
    cells = list(itertools.product(NETWORKS, SCOPES, ("sgd", "adamw")))
    chosen: dict[Setting, None] = {}
    for turn in range(_COMBINATIONS):
        draw = random.Random(turn)
        more = [*draw.sample(rest, len(rest)), *draw.sample(rest, len(rest))]
        round_ = [Setting(*cell, *other) for cell, other in zip(cells, more, strict=True)]
        draw.shuffle(round_)
        chosen.update(dict.fromkeys(round_))
    return list(chosen)


def configurations() -> Iterator[Configuration]:
    """Setting after setting, so that what is done first is whole."""
    for setting in settings():
        for seed, rate in itertools.product(range(SEEDS), setting.rates):
            yield Configuration(setting, rate, seed)
