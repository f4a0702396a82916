"""What an inspection found, as an object that prints itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from freezecheck.finding import Finding, Severity
from freezecheck.snapshot import Snapshot


@dataclass(frozen=True, eq=False)
class Report:
    """Findings, most severe first, and the facts that they rest on.

    Prints as a table of the model's stages followed by the findings; `left_out`
    says what could not be looked at.
    """

    findings: tuple[Finding, ...]
    snapshot: Snapshot
    left_out: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """No finding at or above warning."""
        return not self.at_least(Severity.WARNING)

    def at_least(self, severity: Severity) -> list[Finding]:
        """The findings of that severity or a higher one."""
        return [f for f in self.findings if f.severity >= severity]

    def codes(self) -> list[str]:
        """The codes of the findings, in their order."""
        return [f.code for f in self.findings]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON, as `freezecheck inspect --output-format json` prints it."""
        from freezecheck.report.json import report_to_dict

        return report_to_dict(self)

    def __str__(self) -> str:
        from freezecheck.report.text import render

        return render(self)

    __repr__ = __str__
