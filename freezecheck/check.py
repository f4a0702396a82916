"""Facts and rules in, findings out: sorted, and each defect once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from freezecheck.finding import Finding, Site
from freezecheck.phases import Phase
from freezecheck.program import World
from freezecheck.ranks import Record, moments
from freezecheck.records import replace
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot
from freezecheck.timeline import Timeline
from freezecheck.trace import Trace

_NOTHING = Timeline()


def check(
    rules: Sequence[Rule],
    *,
    timeline: Timeline | None = None,
    snapshots: Iterable[Snapshot] = (),
    phases: Sequence[Phase] = (),
    traces: Sequence[Trace] = (),
) -> list[Finding]:
    """What the rules find, most severe first, then by place.

    `phases` are a run's, in place of `snapshots`; `traces` tell how it went. Raises nothing of its own: a rule that fails is a bug and its exception
    goes through.
    """
    past = timeline if timeline is not None else _NOTHING
    found: list[Finding] = []
    for rule in rules:
        if past.events:
            found.extend(rule.in_timeline(past))
        for snapshot in snapshots:
            found.extend(rule.in_snapshot(snapshot, past))
    found.extend(f for rule in rules for trace in traces for f in rule.in_trace(trace))
    late = _in_run(rules, phases, past, found)
    return sorted(_unique(without_consequences([*found, *late], rules, found)), key=_order)


def _in_run(
    rules: Sequence[Rule], phases: Sequence[Phase], past: Timeline, always: list[Finding]
) -> list[Finding]:
    """The findings in every phase, each where it is first so, but for the consequences of
    others there and of those that are `always` so."""
    found: list[Finding] = []
    known: set[object] = set()
    for phase in phases:
        then = past.until(phase.events)
        here = [
            finding if phase is phases[0] else replace(finding, step=phase.first)
            for rule in rules
            for finding in rule.in_snapshot(phase.snapshot, then)
            if rule.stands(finding, phase, phases)
        ]
        here = without_consequences(here, rules, always)
        found += [f for f in here if known.isdisjoint(_same(f))]
        known.update(key for finding in here for key in _same(finding))
    if len(phases) > 1:
        found += [f for rule in rules for f in rule.in_phases(phases, past)]
    return found


def _same(finding: Finding) -> set[object]:
    """What a finding has in common with that of another phase about the same defect."""
    code, symbol = finding.code, finding.symbol
    told: set[object] = {(code, finding.site, finding.message)}
    return told if symbol is None else told | {(code, symbol)}


def check_ranks(rules: Sequence[Rule], records: Iterable[Record]) -> list[Finding]:
    """What the rules find where the processes of a run are compared, each where it is first so."""
    found: list[Finding] = []
    told: set[tuple[str, str]] = set()  # rule and what it was about
    for step, ranks in moments(records):
        if len(ranks) < 2:
            continue
        every = (finding for rule in rules for finding in rule.in_ranks(ranks))
        fresh = [f for f in every if not any((f.code, about) in told for about in f.subject)]
        told.update((f.code, about) for f in fresh for about in f.subject)
        found += [replace(f, step=step) for f in fresh] if step > 1 else fresh
    return found


def check_source(rules: Sequence[Rule], worlds: Sequence[World]) -> list[Finding]:
    """What the rules find in a text, given the ways through it; sorted as by `check`.

    A finding is certain if no world goes through every place of its story without it.
    """
    found: list[dict[tuple[object, ...], Finding]] = []
    for world in worlds:
        here = [finding for rule in rules for finding in rule.in_source(world)]
        here = without_consequences(here, rules)
        found.append({(f.code, f.site, f.symbol): f for f in reversed(here)})
    reached = [
        {site for event in world.events for site in (event.site, *event.stack)} for world in worlds
    ]
    every: dict[tuple[object, ...], Finding] = {}
    for index, findings in enumerate(found):
        for key, finding in findings.items():
            if key in every and every[key].certain:
                continue
            story = _story(finding) & reached[index]
            avoided = any(
                story <= there and key not in other for there, other in zip(reached, found)
            )
            every[key] = replace(finding, certain=not avoided)
    return sorted(every.values(), key=_order)


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Most severe first, then by place."""
    return sorted(findings, key=_order)


def _story(finding: Finding) -> set[Site | None]:
    return {finding.site, *(note.site for note in finding.notes)} - {None}


def merge(parts: Iterable[Iterable[Finding]]) -> list[Finding]:
    """The findings of several processes of one run, each defect once, in the same order."""
    return sorted(_unique([finding for part in parts for finding in part]), key=_order)


def fresh(found: Iterable[Finding], known: set[object]) -> list[Finding]:
    """Those that are not `known`, where they are from now on; for a run that is looked at again
    and again, in which a message may change with the figures in it."""
    keyed = [((f.code, f.symbol, f.site), f) for f in found]
    new = [(key, finding) for key, finding in keyed if key not in known]
    known.update(key for key, _ in new)
    return [finding for _, finding in new]


def without_consequences(
    found: list[Finding], rules: Sequence[Rule], always: Iterable[Finding] = ()
) -> list[Finding]:
    """Drop findings that another finding, about one of the same subjects, explains: one since
    the same step, or one that is `always` so."""
    explains = {rule.code: rule.explains for rule in rules if rule.explains}

    def consequences(of: Iterable[Finding]) -> Iterator[tuple[str, str, int | None]]:
        for finding in of:
            for code in explains.get(finding.code, ()):
                yield from ((subject, code, finding.step) for subject in finding.subject)

    at_once = set(consequences(found))
    ever = {(subject, code) for subject, code, _ in consequences(always)}
    return [
        f
        for f in found
        if not any((s, f.code, f.step) in at_once or (s, f.code) in ever for s in f.subject)
    ]


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
        finding.step or 0,
        finding.symbol or "",
    )
