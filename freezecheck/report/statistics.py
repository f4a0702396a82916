"""How many findings each rule has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.report.line import Line, line

Row = tuple[str, str, Severity, int]  # code, name, the worst severity, findings


def by_rule(findings: Iterable[Finding]) -> list[Row]:
    """A row for each rule that found something, most findings first."""
    findings = list(findings)
    numbers = Counter((f.code, f.name) for f in findings)
    worst = {(f.code, f.name): f.severity for f in sorted(findings, key=lambda f: f.severity)}
    rows = [(*rule, worst[rule], number) for rule, number in numbers.items()]
    return sorted(rows, key=lambda row: (-row[3], row[0]))


def table(findings: Iterable[Finding]) -> Iterator[Line]:
    """The rows as lines, and a blank one."""
    rows = by_rule(findings)
    width = max((len(f"{row[3]:,}") for row in rows), default=0)
    for code, name, severity, number in rows:
        yield line(f"{number:>{width},}  ", (f"{code} {severity!s:<7}", str(severity)), f"  {name}")
    if rows:
        yield line()
