"""The record of a run, checked: what `freezecheck inspect SCRIPT` reports."""

from __future__ import annotations

from collections.abc import Sequence

from freezecheck.check import check, merge, without_consequences
from freezecheck.finding import Finding
from freezecheck.live.runner import Run
from freezecheck.merge import merge as with_source
from freezecheck.merge import visited
from freezecheck.report.result import Ran, Report, Stood
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot, count


def checked(
    run: Run, rules: Sequence[Rule], command: str, source: Sequence[Finding] = ()
) -> Report:
    """The findings of every process of a run, each once, and what they rest on.

    Once a process has stepped, those that have not are left out, and said to be.
    `command` is the run as the user would type it; `source` is what its text shows.
    """
    reached = run.outcome == "inspected"
    used = [r for r in run.reports if r.stepped] if reached else run.reports
    findings = merge(
        check(
            rules,
            timeline=r.timeline,
            phases=r.phases,
            snapshots=[r.snapshot] if r.snapshot and not r.phases else [],
        )
        for r in used
    )
    if source:
        judged = {rule.code for rule in rules if "L" in rule.halves()} if reached else set()
        places = visited(r.timeline for r in used)
        both = with_source(source, findings, judged=judged, visited=places)
        findings = without_consequences(both, rules)
    seen = [r for r in used if r.snapshot is not None]
    snapshots = [r.snapshot for r in seen if r.snapshot is not None] or [Snapshot()]
    return Report(
        tuple(findings),
        snapshots[0],
        tuple(_left_out(run, len(run.reports) - len(used))),
        Ran(
            command,
            run.outcome,
            run.seconds,
            tuple(r.rank for r in seen),
            run.exit_status,
            run.hint,
            "" if reached else run.stderr_tail,
            () if reached else tuple(Stood(p.site, p.function, p.rank) for p in run.where),
        ),
        tuple(snapshots[1:]),
        used[0].phases if used else (),
    )


def _left_out(run: Run, unfinished: int) -> list[str]:
    """Processes of an inspected run that were stopped before a step of their own."""
    if run.outcome != "inspected":
        return []
    if run.where:
        return [
            f"{'a process' if p.rank is None else f'rank {p.rank}'} had taken no step when the"
            f" others had, and is left out; it was at {p.site}, in {p.function}"
            for p in run.where
        ]
    if unfinished:
        return [f"{count(unfinished, 'process')} took no step and are left out"]
    return []
