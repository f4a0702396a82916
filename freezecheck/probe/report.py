"""What a probe found, as an object that prints itself, draws itself, and survives the trip through
JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from freezecheck.finding import Finding
from freezecheck.records import dataclass
from freezecheck.trace import Trace
from freezecheck.warmup import NEAR, SAFE, Warmup

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure

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
        return NEAR if harmed(self.findings) and self.warmup.zone == SAFE else self.warmup.zone

    @property
    def ok(self) -> bool:
        """The rates are safe, and nothing else was found."""
        return self.zone == SAFE and not self.findings

    def codes(self) -> list[str]:
        """The codes of the findings, in their order."""
        return [f.code for f in self.findings]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON, as `freezecheck probe --output-format json` prints it."""
        from freezecheck.report.json import probe_to_dict

        return probe_to_dict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ProbeReport:
        """The report that `to_dict` gave, also after a trip through JSON."""
        from freezecheck.plain import decode

        findings = tuple(Finding.from_dict(each) for each in data["findings"])
        trace = decode(Trace, {**data["trace"], "warmup": data["warmup"]})
        return cls(findings, trace, tuple(data["left_out"]))

    def plot(self) -> Figure:
        """A matplotlib figure: the losses, the predicted classes, the drift of BatchNorm statistics
        and the critical rates, as far as there are any. Leaves pyplot and rcParams alone.

        Raises ImportError without matplotlib, which `freezecheck[plot]` brings.
        """
        from freezecheck.probe.plot import figure

        return figure(self)

    def to_html(self, path: str | os.PathLike[str], title: str = "Probe report") -> None:
        """Write one page that needs no network and no scripts. Raises ImportError without matplotlib,
        OSError where it cannot be written."""
        from freezecheck.report.html import page

        text = page(self, title)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def __str__(self) -> str:
        from freezecheck.report.probe import render

        return render(self)

    __repr__ = __str__


def harmed(findings: Iterable[Finding]) -> bool:
    """They tell of harm to what was pretrained."""
    return any(finding.code in _HARM for finding in findings)
