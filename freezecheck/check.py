"""Facts and rules in, findings out: sorted, and each defect once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from freezecheck.finding import Finding
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot
from freezecheck.timeline import Timeline

_NOTHING = Timeline()


def check(
    rules: Sequence[Rule],
    *,
    timeline: Timeline | None = None,
    snapshots: Iterable[Snapshot] = (),
) -> list[Finding]:
    """What the rules find, most severe first, then by place.

    Raises nothing of its own: a rule that fails is a bug and its exception
    goes through.
    """
    past = timeline if timeline is not None else _NOTHING
    found: list[Finding] = []
    for rule in rules:
        if past.events:
            found.extend(rule.in_timeline(past))
        for snapshot in snapshots:
            found.extend(rule.in_snapshot(snapshot, past))
    return sorted(_unique(_without_consequences(found, rules)), key=_order)


def merge(parts: Iterable[Iterable[Finding]]) -> list[Finding]:
    """The findings of several processes of one run, each defect once, in the same order."""
    return sorted(_unique([finding for part in parts for finding in part]), key=_order)


def _without_consequences(found: list[Finding], rules: Sequence[Rule]) -> list[Finding]:
    """Drop findings that another finding, about one of the same subjects, explains."""
    explains = {rule.code: rule.explains for rule in rules if rule.explains}
    explained = {
        (subject, code)
        for finding in found
        for code in explains.get(finding.code, ())
        for subject in finding.subject
    }
    return [f for f in found if not any((s, f.code) in explained for s in f.subject)]


def _unique(found: list[Finding]) -> list[Finding]:
    """One finding for one rule, place and symbol, the first one made."""
    seen: dict[tuple[object, ...], Finding] = {}
    for finding in found:
        seen.setdefault((finding.code, finding.site, finding.symbol, finding.message), finding)
    return list(seen.values())


def _order(finding: Finding) -> tuple[object, ...]:
    site = finding.site
    return (
        -finding.severity,
        site.path if site else "",
        site.line if site else 0,
        finding.code,
        finding.symbol or "",
    )
