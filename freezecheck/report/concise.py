"""A line per finding, as compilers and editors have it: `train.py:7:5: FC201 error ...`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from freezecheck.finding import Finding
from freezecheck.report.line import Line, clean, inline, line


def lines(findings: Iterable[Finding]) -> Iterator[Line]:
    """One line for each finding, by file and place."""
    for finding in sorted(findings, key=_place):
        severity = str(finding.severity)
        site = finding.site
        where = f"{inline(site.path)}:{site.line}:{site.column}" if site else ""
        yield line(
            (where, "path"),
            ": " if where else "",
            (f"{finding.code} {severity}", severity),
            f" {' '.join(clean(finding.message).split())}",
        )


def sentence(finding: Finding) -> str:
    """A finding in one line of prose, for logs and warnings."""
    where = f"{finding.site}: " if finding.site else ""
    since = f" (from step {finding.step:,} on)" if finding.step is not None else ""
    told = " ".join(clean(finding.message).split())
    return f"{where}{finding.code} {finding.severity}: {told}{since}"


def _place(finding: Finding) -> tuple[str, int, int]:
    site = finding.site
    return (site.path, site.line, site.column) if site else ("", 0, 0)
