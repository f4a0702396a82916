"""Results read back: what the probe said, judged by the rules as they are now, and what came true."""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from freezecheck import catalogue
from freezecheck.check import check
from freezecheck.plain import decode
from freezecheck.probe import verdict
from freezecheck.probe.report import ProbeReport
from freezecheck.trace import Trace
from freezecheck.warmup import UNSAFE, Warmup

from .settings import Setting

EXPLODED, COLLAPSED, DEGRADED, WORSE = "exploded", "collapsed", "degraded", "worse"
WELL, SLOW = "well", "slow"
TRUTHS = (EXPLODED, COLLAPSED, DEGRADED, WORSE, WELL, SLOW)
_BAND = 1.5  # factor around the critical rate
_LOST, _LESS = 0.10, 0.02  # accuracy, beside the setting's best rate


@dataclass(frozen=True, eq=False)
class Case:
    """One configuration. `near` says that its rate is within a factor 1.5 of the setting's critical one.

    `truth`: exploded or collapsed; else degraded by 10 points of accuracy beside the setting's best
    rate, worse by 2, or well; slow rather than the former two where the rate is below the best one.
    """

    setting: Setting
    rate: float
    seed: int
    report: ProbeReport
    first: list[float]  # losses of the run's first steps
    sharpness: float
    truth: str
    critical: float | None
    near: bool

    @property
    def failed(self) -> bool:
        """What the probe is to foretell."""
        return self.truth in (EXPLODED, COLLAPSED)

    @property
    def warmup(self) -> Warmup:
        """What the probe did."""
        return self.report.warmup

    @property
    def ramped(self) -> list[float]:
        """Losses of the probe's first thirty steps."""
        return list(self.warmup.losses[:30])


def cases(folder: Path) -> list[Case]:
    """Of all result files in the folder."""
    found = [
        (*_named(row["key"]), row)
        for path in sorted(folder.glob("results-*.jsonl"))
        for row in map(json.loads, path.read_text().splitlines())
    ]
    reached: defaultdict[Setting, defaultdict[float, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    critical: dict[Setting, float] = {}
    for setting, rate, _, row in found:
        truth = row["truth"]
        reached[setting][rate].append(truth["accuracy"])
        if truth[EXPLODED] or truth[COLLAPSED]:
            critical[setting] = min(rate, critical.get(setting, rate))
    best = {
        setting: max((fmean(values), rate) for rate, values in by_rate.items())
        for setting, by_rate in reached.items()
    }
    return [
        _case(setting, rate, seed, row, best[setting], critical.get(setting))
        for setting, rate, seed, row in found
    ]


def _named(key: str) -> tuple[Setting, float, int]:
    fields, rate, seed = ast.literal_eval(key)
    return Setting(**fields), float(rate), seed


def _case(
    setting: Setting,
    rate: float,
    seed: int,
    row: Any,
    best: tuple[float, float],
    critical: float | None,
) -> Case:
    trace = _judged(decode(Trace, row["trace"]), falls=setting.schedule == "cosine")
    report = ProbeReport(tuple(check(catalogue.load(), traces=[trace])), trace)
    near = critical is not None and critical / _BAND <= rate <= critical * _BAND
    truth = row["truth"]
    return Case(
        setting,
        rate,
        seed,
        report,
        truth["losses"][:30],
        row["sharpness"],
        _truth(truth, rate, *best),
        critical,
        near,
    )


def _judged(trace: Trace, falls: bool) -> Trace:
    """With the zone that the verdict gives now, at each step at which the probe asks for it; as it was
    where more steps would be needed than were taken."""
    warmup = trace.warmup
    assert warmup is not None
    losses, initial, level = warmup.losses, warmup.initial, warmup.level
    if warmup.outcome in ("not finite", COLLAPSED):
        return trace
    zone = None
    for steps in range(30, len(losses) + 1, 10):
        zone = zone or verdict.zone(losses[:steps], initial[:steps], level, 30, steps == 60)
    zone = zone or warmup.zone
    zone = verdict.beside_scores(zone, losses, initial, level, trace.pools, falls=falls)
    outcome = EXPLODED if zone == UNSAFE else ""
    tripped = verdict.tripped(losses, initial)
    return replace(trace, warmup=replace(warmup, zone=zone, outcome=outcome, tripped=tripped))


def _truth(truth: Any, rate: float, accuracy: float, best: float) -> str:
    for name in (EXPLODED, COLLAPSED):
        if truth[name]:
            return name
    lost = accuracy - truth["accuracy"]
    if lost <= _LESS:
        return WELL
    return SLOW if rate < best else DEGRADED if lost > _LOST else WORSE


def of(cases: Iterable[Case], **wanted: Any) -> list[Case]:
    """Those whose setting has these values."""
    return [c for c in cases if all(getattr(c.setting, k) == v for k, v in wanted.items())]
