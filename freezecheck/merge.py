"""Source findings and live findings of one script, as one story.

Findings of one rule on one line, or about the same thing, are the same defect: the live half
says what is, the source half adds how it came to be and the edits that mend it.

A source finding that the live half does not confirm is dropped only where the run
contradicts it: the rule judges the objects at the first step, and the run had been at every
place of the finding's story by then. What lies on a branch that was not taken, or after the
step, the run says nothing about.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence

from freezecheck.check import ordered
from freezecheck.finding import Finding, Note, Site
from freezecheck.records import replace
from freezecheck.timeline import Timeline


def merge(
    source: Iterable[Finding],
    live: Sequence[Finding],
    *,
    judged: Collection[str] = (),
    visited: Iterable[Site] = (),
) -> list[Finding]:
    """All findings, each defect once, sorted.

    `judged` are the codes of the rules that looked at the objects at the first step; none if
    there was no step. `visited` are the places at which the run was seen before it.
    """
    lines: dict[str, set[int]] = {}
    for site in visited:
        lines.setdefault(_file(site), set()).add(site.line)
    merged = list(live)
    alone: list[Finding] = []
    for finding in source:
        same = [i for i, other in enumerate(merged) if _same(finding, other)]
        if same:
            merged[same[0]] = _joined(merged[same[0]], finding)
        elif finding.code not in judged or not all(_been(s, lines) for s in _story(finding)):
            alone.append(finding)
    return ordered([*merged, *alone])


def visited(timelines: Iterable[Timeline]) -> list[Site]:
    """The places of the events of a run."""
    return [event.site for past in timelines for event in past.events if event.site]


def _same(one: Finding, other: Finding) -> bool:
    if one.code != other.code:
        return False
    if one.symbol is not None and one.symbol == other.symbol:
        return True
    return bool(one.site and other.site and _overlap(one.site, other.site))


def _joined(live: Finding, source: Finding) -> Finding:
    """The live finding, with what the source half knows beyond it."""
    fix = source.fix if source.fix and source.fix.edits else live.fix or source.fix
    return replace(
        live,
        site=live.site or source.site,
        notes=_woven(live.notes, source.notes),
        fix=fix,
        severity=max(live.severity, source.severity),
    )


def _woven(live: Sequence[Note], source: Sequence[Note]) -> tuple[Note, ...]:
    """The notes of both in one order. Of two about one line, the live one is kept."""
    notes = list(live)
    at = 0
    for note in source:
        known = [i for i, other in enumerate(notes) if _alike(note, other)]
        if known:
            at = known[0] + 1
        else:
            notes.insert(at, note)
            at += 1
    return tuple(notes)


def _alike(one: Note, other: Note) -> bool:
    if one.site is None or other.site is None:
        return one.message == other.message
    return _overlap(one.site, other.site)


def _story(finding: Finding) -> list[Site]:
    sites = [finding.site, *(note.site for note in finding.notes)]
    return [site for site in sites if site is not None]


def _been(site: Site, lines: dict[str, set[int]]) -> bool:
    there = lines.get(_file(site), set())
    return any(line in there for line in _lines(site))


def _overlap(one: Site, other: Site) -> bool:
    """Two places in one statement: a run knows only the line, a text where it ends, too."""
    first, second = _lines(one), _lines(other)
    return _file(one) == _file(other) and first.start < second.stop and second.start < first.stop


def _lines(site: Site) -> range:
    return range(site.line, (site.end_line or site.line) + 1)


def _file(site: Site) -> str:
    return os.path.realpath(site.path)
