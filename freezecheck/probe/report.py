"""What a probe found, as an object that prints itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from freezecheck.finding import Finding
from freezecheck.plain import encode
from freezecheck.records import dataclass
from freezecheck.trace import Trace
from freezecheck.warmup import NEAR, SAFE, Warmup

_HARM = frozenset(("FC605", "FC606", "FC607"))


@dataclass(frozen=True, eq=False)
class ProbeReport:
    """The findings, most severe first, and the figures that they rest on.

    `left_out` says what was not judged.
    """

    findings: tuple[Finding, ...]
    trace: Trace
    left_out: tuple[str, ...] = ()

    @property
    def warmup(self) -> Warmup:
        """The warm-up in figures."""
        assert self.trace.warmup is not None
        return self.trace.warmup

    @property
    def zone(self) -> str:
        """`safe`, `near the edge`, `unsafe` or `inconclusive`. Rates that do harm to what was
        pretrained are near the edge, though the loss be well."""
        harmed = {f.code for f in self.findings} & _HARM
        return NEAR if harmed and self.warmup.zone == SAFE else self.warmup.zone

    @property
    def ok(self) -> bool:
        """The rates are safe, and nothing else was found."""
        return self.zone == SAFE and not self.findings

    def codes(self) -> list[str]:
        """The codes of the findings, in their order."""
        return [f.code for f in self.findings]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON would have it."""
        return {
            "zone": self.zone,
            "findings": [f.to_dict() for f in self.findings],
            "trace": encode(self.trace),
            "left_out": list(self.left_out),
        }

    def __str__(self) -> str:
        return "\n".join(
            [*_figures(self.zone, self.warmup), *_told(self.findings), *_open(self.left_out)]
        )

    __repr__ = __str__


def _figures(zone: str, warmup: Warmup) -> Iterator[str]:
    steps, outcome = len(warmup.losses), f": {warmup.outcome}" if warmup.outcome else ""
    yield f"{zone}{outcome} ({steps} steps of {warmup.batch} samples, {warmup.task})"
    rates = ", ".join(f"{rate:.3g}" for rate in warmup.rates)
    yield f"  rates          {rates} after {warmup.ramp} steps of warm-up"
    if warmup.losses:
        level = "" if warmup.level is None else f"; without information {warmup.level:.3g}"
        now, first = warmup.late
        yield (
            f"  loss           {now:.3g} over the last ten steps; the initial"
            f" weights {first:.3g}{level}"
        )
    for name, look in (
        ("initially", warmup.start),
        ("in training", warmup.train),
        ("in eval mode", warmup.eval),
    ):
        if look is not None:
            known = "" if look.accuracy is None else f", accuracy {look.accuracy:.0%}"
            yield f"  {name:<14} loss {look.loss:.3g}{known}"
    if warmup.floor is not None:
        floor = warmup.floor
        yield (
            f"  linear head    {floor.before:.0%} on the features of before, {floor.after:.0%} on"
            f" those of after; the model {floor.own:.0%}"
        )
    if warmup.features is not None:
        of = warmup.features
        yield (
            f"  features       1 - cosine {of.drift:.2f}; dead {of.dead_before:.0%} before,"
            f" {of.dead_after:.0%} after"
        )
    if warmup.layers:
        worst = max(warmup.layers, key=lambda layer: layer.drift)
        yield f"  BatchNorm      divergence up to {worst.drift:.2g} ({worst.path})"


def _told(findings: tuple[Finding, ...]) -> Iterator[str]:
    for finding in findings:
        yield ""
        yield f"{finding.severity} {finding.code} {finding.name}"
        yield f"  {finding.message}"
        if finding.fix:
            yield f"  fix: {finding.fix.message}"


def _open(left_out: tuple[str, ...]) -> Iterator[str]:
    if left_out:
        yield ""
        yield from (f"note: {each}" for each in left_out)
