"""The bounded alarm where there is nothing to alarm of: 960 probes at rates that hardly move a thing."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from torch.nn import functional as F

import freezecheck
from freezecheck.probe.verdict import bounded

from .networks import NETWORKS
from .one import build
from .settings import Configuration, Setting

_RATES = {"sgd": (1e-6, 1e-4, 1e-3), "adamw": (1e-7, 1e-5, 1e-4)}
_SEEDS = 5


def quiet(folder: Path) -> str:
    """How many of them alarmed."""
    zones: Counter[str] = Counter()
    rung = 0
    for this in _probes():
        made = build(this, folder)
        report = freezecheck.probe(made.model, made.optimizer, made.batches, F.cross_entropy)
        rung += bounded(report.warmup.losses, report.warmup.initial)
        zones[report.zone] += 1
    told = ", ".join(f"{count} {zone}" for zone, count in zones.most_common())
    return f"Bounded alarms: {rung} of {sum(zones.values())} probes at safe rates; {told}."


def _probes() -> Iterator[Configuration]:
    for network, optimizer, batch, noise, step, seed in itertools.product(
        NETWORKS, _RATES, (4, 8, 16, 32), (False, True), range(3), range(_SEEDS)
    ):
        setting = Setting(network, "all", optimizer, batch, "constant", "balanced", noise)
        yield Configuration(setting, _RATES[optimizer][step], seed)
