"""Findings as workflow commands, which GitHub Actions shows beside the lines of a change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from freezecheck.finding import Finding, Severity, Site
from freezecheck.report.line import Line, clean, line
from freezecheck.report.place import split

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def lines(findings: Iterable[Finding]) -> Iterator[Line]:
    """`::error file=...,line=...::message` for each finding."""
    for finding in findings:
        properties = {
            **(_place(finding.site) if finding.site else {}),
            "title": f"{finding.code} {finding.name}",
        }
        told = ",".join(
            f"{key}={_property(clean(str(value)))}" for key, value in properties.items()
        )
        yield line(f"::{_COMMANDS[finding.severity]} {told}::{_data(_message(finding))}")


def _place(site: Site) -> dict[str, str | int]:
    """The file and what is marked in it. Columns are allowed on a single line only, and a
    notebook's lines are not those of its cells."""
    path, cell = split(site.path)
    if cell is not None:
        return {"file": path}
    end = site.end_line or site.line
    place: dict[str, str | int] = {"file": path, "line": site.line, "endLine": end}
    if end == site.line:
        place["col"] = site.column
        if site.end_column is not None:
            place["endColumn"] = site.end_column
    return place


def _message(finding: Finding) -> str:
    """What is wrong, the story, the remedy: a line each."""
    told = [finding.message]
    if finding.site and split(finding.site.path)[1] is not None:
        told[0] = f"{finding.site}: {finding.message}"
    told += [
        f"{note.site}: {note.message}" if note.site else note.message for note in finding.notes
    ]
    if finding.fix:
        told.append(f"fix: {finding.fix.message}")
    return "\n".join(clean(row) for row in told)


def _data(text: str) -> str:
    """What follows the `::`, on one line."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
