"""The record of a run, checked: what `freezecheck inspect SCRIPT` reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from freezecheck.chapters import chapters
from freezecheck.check import check, check_ranks, merge, without_consequences
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
    unfit = [rule for rule in rules if rule.needs_weights] if run.weights_left_out else []
    live = [rule for rule in rules if rule not in unfit]
    used = [r for r in run.reports if r.stepped] or run.reports
    findings = merge(
        check(
            live,
            timeline=r.timeline,
            phases=r.phases,
            snapshots=[r.snapshot] if r.snapshot and not r.phases else [],
            traces=() if r.rank else r.traces,  # ranks train together: one speaks for all
        )
        for r in used
    )
    across = check_ranks(live, ((r.timeline, r.phases, r.snapshot) for r in run.reports))
    if across:
        findings = without_consequences(merge([findings, across]), rules)
    if source:
        stepped = any(r.stepped for r in used)
        judged = {rule.code for rule in live if "L" in rule.halves()} if stepped else set()
        places = visited(r.timeline for r in used)
        both = with_source(source, findings, judged=judged, visited=places)
        findings = without_consequences(both, rules)
    seen = [r for r in used if r.snapshot is not None]
    snapshots = [r.snapshot for r in seen if r.snapshot is not None] or [Snapshot()]
    return Report(
        tuple(findings),
        snapshots[0],
        (
            *_left_out(run, len(run.reports) - len(used)),
            *_weights(run, unfit),
            *_called(run, findings),
            *_valueless(run),
        ),
        Ran(
            command,
            run.outcome,
            run.seconds,
            tuple(r.rank for r in seen),
            run.exit_status,
            run.hint,
            "" if reached else run.stderr_tail,
            () if reached else tuple(Stood(p.site, p.function, p.rank) for p in run.where),
            steps=max((p.last for r in used for p in r.phases), default=0),
            ended=run.exit_status is not None,
            batches=None if run.uncut else run.plan.batches,
            until=run.until,
        ),
        tuple(snapshots[1:]),
        used[0].phases if used else (),
        chapters(used[0].phases, used[0].timeline) if used else (),
        run.memory,
    )


# Rules of the live half that say something only where certain values are known.
_NEED_VALUES = (
    "FC110", "FC115", "FC119", "FC206", "FC209", "FC301", "FC302", "FC303", "FC413", "FC507",
)  # fmt: skip


def _valueless(run: Run) -> Iterator[str]:
    """What `--fake` leaves open."""
    if run.plan.fake:
        yield (
            "tensors held no values (--fake): whether weights are pretrained, a head is new or a"
            f" gradient is zero is not known to {', '.join(_NEED_VALUES[:-1])} and {_NEED_VALUES[-1]}"
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


def _called(run: Run, findings: Sequence[Finding]) -> Iterator[str]:
    """What is to be said of a function's setup, if it was seen to the end."""
    if run.outcome != "inspected":
        return
    yield from run.remarks
    if run.until != "step" and any(f.code.startswith("FC4") for f in findings):
        yield "modes are those that the function left; what a training loop does is not known"


def _weights(run: Run, unfit: Sequence[Rule]) -> Iterator[str]:
    """What `--no-weights` left out, and the rules that therefore said nothing."""
    if not run.weights_left_out:
        return
    first, rest = run.weights_left_out[:3], len(run.weights_left_out[3:])
    names = ", ".join(first) + (f" and {rest} more" if rest else "")
    codes = " and ".join(rule.code for rule in unfit)
    need = f"; {codes} need them and did not look at the run" if codes else ""
    yield f"weights were left out (--no-weights): {names}{need}"
