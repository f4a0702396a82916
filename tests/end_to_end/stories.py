"""What was found in a run, as a text that can be kept and compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "golden" / "stories"


def told(report: dict[str, Any]) -> str:
    """The phases of a report and its findings; places, but no times."""
    return "\n".join([*_phases(report), *_findings(report)]) + "\n"


def _phases(report: dict[str, Any]) -> Iterator[str]:
    for phase in report["phases"]:
        rates = ", ".join(f"{rate:g}" for rate in phase["lrs"])
        epoch = "" if phase["epoch"] is None else f", from epoch {phase['epoch']}"
        steps = f"steps {phase['first_step']}-{phase['last_step']}{epoch}"
        yield f"{steps}: {phase['trains'] or 'nothing'} at {rates or 'no rate'}"
        yield from (f"  {change}" for change in phase["changes"])


def _findings(report: dict[str, Any]) -> Iterator[str]:
    for finding in report["findings"]:
        if finding["severity"] == "info":
            continue
        since = "" if finding["step"] is None else f" from step {finding['step']} on"
        yield f"{finding['severity']} {finding['code']} {_place(finding).rstrip()}{since}"
        yield f"  {finding['message']}"
        yield from (f"  - {_place(note)}{note['message']}" for note in finding["notes"])
    yield from (f"left out: {remark}" for remark in report["left_out"])


def _place(thing: dict[str, Any]) -> str:
    return f"{thing['path']}:{thing['line']} " if thing["path"] else ""


def compare(name: str, report: dict[str, Any], *, update: bool) -> None:
    """The report tells what `tests/golden/stories/NAME.txt` says."""
    path = FOLDER / f"{name}.txt"
    if update:
        path.parent.mkdir(exist_ok=True)
        path.write_text(told(report), encoding="utf-8")
    assert told(report) == path.read_text(encoding="utf-8")
