"""What linting found."""

from __future__ import annotations

from freezecheck.finding import Finding, Severity
from freezecheck.records import dataclass


@dataclass(frozen=True, slots=True)
class Linted:
    """Findings, most severe first, and what they rest on.

    `files` were looked at, `skipped` of them mention no library that we know and were
    not parsed. `calls` is the number of calls whose effect on a model or an optimizer
    is not understood; `unfinished` names files whose step budget ran out.
    """

    findings: tuple[Finding, ...] = ()
    files: int = 0
    skipped: int = 0
    calls: int = 0
    unfinished: tuple[str, ...] = ()

    def at_least(self, severity: Severity) -> list[Finding]:
        """The findings of that severity or a higher one."""
        return [f for f in self.findings if f.severity >= severity]
