"""`freezecheck watch SCRIPT`: an attended run, judged whenever its setup changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from freezecheck import inspection, lint
from freezecheck.check import fresh
from freezecheck.finding import Finding, Severity
from freezecheck.live import attended
from freezecheck.live.board import Report as Seen
from freezecheck.live.runner import Run
from freezecheck.records import replace
from freezecheck.report.concise import sentence
from freezecheck.report.result import Report
from freezecheck.rule import Rule


def watch(
    command: Sequence[str],
    title: str,
    rules: Sequence[Rule],
    settings: lint.Settings,
    source: Sequence[Finding],
    *,
    stop_on: Severity | None,
    tell: Callable[[str], None],
) -> Report:
    """Run `command` (`title` as the user would type it) for real. A finding of warning or error
    level is told in one line when it comes up; `stop_on` ends the run at one of that severity.

    The report at the end has what the text of the script shows, `source`, too.
    """
    known: set[object] = set()

    def report(run: Run, source: Sequence[Finding]) -> Report:
        made = inspection.checked(run, rules, title, source)
        return replace(made, findings=tuple(lint.unsuppressed(made.findings, settings)))

    def judge(reports: list[Seen], news: str) -> bool:
        made = report(Run(tuple(command), "inspected", reports), ())
        new = fresh(made.at_least(Severity.WARNING), known)
        for finding in new:
            tell(f"freezecheck: {sentence(finding)}\n")
        return stop_on is not None and any(f.severity >= stop_on for f in new)

    return report(attended.attend(command, judge), source)
