"""The bounded alarm where there is nothing to alarm of: 960 probes at rates that hardly move a thing."""

from __future__ import annotations

import itertools
import json
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


def quiet(folder: Path, part: int = 0, of: int = 1) -> None:
    """Every `of`-th of them, of thirty steps each: the zone, and whether it rang."""
    with (folder / f"quiet-{part}.jsonl").open("w") as out:
        for this in itertools.islice(_probes(), part, None, of):
            made = build(this, folder)
            report = freezecheck.probe(
                made.model, made.optimizer, made.batches, F.cross_entropy, max_steps=30
            )
            rung = bounded(report.warmup.losses, report.warmup.initial)
            out.write(
                json.dumps({"zone": report.zone, "codes": report.codes(), "rung": rung}) + "\n"
            )
            out.flush()


def told(folder: Path) -> str:
    """How many of them rang, and where they were said to be."""
    rows = [json.loads(line) for path in folder.glob("quiet-*.jsonl") for line in path.open()]
    zones = Counter(row["zone"] for row in rows)
    codes = Counter(code for row in rows for code in row["codes"])
    found = ", ".join(f"{count} {name}" for name, count in (*zones.most_common(), *codes.items()))
    return f"Bounded alarms in {len(rows)} probes at safe rates: {sum(r['rung'] for r in rows)} ({found})."


def _probes() -> Iterator[Configuration]:
    for network, optimizer, batch, noise, step, seed in itertools.product(
        NETWORKS, _RATES, (4, 8, 16, 32), (False, True), range(3), range(_SEEDS)
    ):
        setting = Setting(network, "all", optimizer, batch, "constant", "balanced", noise)
        yield Configuration(setting, _RATES[optimizer][step], seed)
