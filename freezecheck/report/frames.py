"""A finding's story as excerpts of the user's source, each step under its line."""

from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Site
from freezecheck.records import dataclass
from freezecheck.report import source
from freezecheck.report.line import Line, clean, inline, line, wrap

_WORDS = 30  # columns that words need beside a mark; with less they go below it


@dataclass(slots=True)
class Step:
    """A place and what is said there."""

    site: Site
    says: list[str]
    primary: bool = False


def story(finding: Finding) -> tuple[list[Step], list[str]]:
    """The steps in the order of the notes, and the notes that have no place.

    Notes on one line are one step. The finding's own place, if no note is there,
    comes before the first later line of its file, else at the end.
    """
    steps: list[Step] = []
    loose: list[str] = []
    for note in finding.notes:
        if note.site is None:
            loose.append(note.message)
        elif steps and _spot(steps[-1].site) == _spot(note.site):
            if note.message not in steps[-1].says:
                steps[-1].says.append(note.message)
        else:
            steps.append(Step(note.site, [note.message]))
    if finding.site is not None:
        _mark_primary(steps, finding.site, finding.symbol or "here")
    return steps, loose


def _spot(site: Site) -> tuple[str, int]:
    return site.path, site.line


def _mark_primary(steps: list[Step], site: Site, label: str) -> None:
    for step in steps:
        if _spot(step.site) == _spot(site):
            step.site, step.primary = site, True
            return
    later = (i for i, s in enumerate(steps) if s.site.path == site.path and s.site.line > site.line)
    steps.insert(next(later, len(steps)), Step(site, [label], primary=True))


def frames(steps: list[Step]) -> list[list[Step]]:
    """Steps that go down one file belong to one frame."""
    result: list[list[Step]] = []
    for step in steps:
        last = result[-1][-1].site if result else None
        if last and last.path == step.site.path and last.line < step.site.line:
            result[-1].append(step)
        else:
            result.append([step])
    return result


def render(finding: Finding, width: int, cut: int | None = None) -> Iterator[Line]:
    """The frames of a finding, each followed by a blank line.

    What is said is wrapped at `width` columns; source lines are cut at `cut`.
    """
    steps, loose = story(finding)
    for frame in frames(steps):
        yield from _frame(frame, width, cut)
        yield line()
    for message in loose:
        yield from wrap(message, width, first="  note: ", rest="        ", mark="secondary")
    if loose:
        yield line()


def excerpt(site: Site, says: str, width: int, cut: int | None = None) -> Iterator[Line]:
    """One place and what is said there, as a frame."""
    return _frame([Step(site, [says], primary=True)], width, cut)


def _frame(steps: list[Step], width: int, cut: int | None) -> Iterator[Line]:
    text = source.lines(steps[0].site.path)
    shown = [_extent(step.site) for step in steps]
    margin = max(len(str(span[-1])) for span in shown) + 2
    head = next((s.site for s in steps if s.primary), steps[0].site)
    yield line(" " * (margin - 1), ("--> ", "secondary"), (inline(str(head)), "path"))
    last = 0
    for step, span in zip(steps, shown):
        if last and span[0] > last + 1:
            yield line(" " * (margin - 2), ("...", "quiet"))
        for at in span:
            if at > last:
                yield _source(at, text[at - 1] if at <= len(text) else "", margin, cut)
        last = max(last, span[-1])
        yield from _says(step, text, margin, width)


def _extent(site: Site) -> range:
    """The lines to show for a place."""
    if site.end_line is not None and 0 < site.end_line - site.line < 6:
        return range(site.line, site.end_line + 1)
    return source.statement(site.path, site.line)


def _source(number: int, code: str, margin: int, cut: int | None) -> Line:
    code = clean(code).rstrip()
    if cut is not None and len(code) > (room := cut - margin - 3):
        code = code[: room - 3] + "..."
    return line((f"{number:>{margin}} | ", "quiet"), code)


def _says(step: Step, text: tuple[str, ...], margin: int, width: int) -> Iterator[Line]:
    """What is said about a line, behind a mark under its first character or its columns."""
    kind = "primary" if step.primary else "secondary"
    gutter = (" " * margin + " | ", "quiet")
    before, length = _columns(step.site, text)
    mark = " " * before + ("^" if step.primary else "-") * length
    room = width - margin - 3
    beside = len(mark) + _WORDS <= room
    if not beside:
        yield line(gutter, (mark[:room], kind))
        mark = " " * min(before, max(room - _WORDS, 0))
    rest = " " * len(mark)
    for number, says in enumerate(step.says):
        lead = mark if beside and number == 0 else rest
        for row in wrap(says, room, first=f"{lead} ", rest=f"{rest} ", mark=kind):
            (indent, _), words = row
            yield line(gutter, (indent, kind), words)


def _columns(site: Site, text: tuple[str, ...]) -> tuple[int, int]:
    """Columns to leave before a mark, and its length; tabs are four columns wide."""
    code = text[site.line - 1] if site.line <= len(text) else ""
    if site.end_column is None or site.end_line not in (None, site.line):
        code = code.expandtabs(4)
        return len(code) - len(code.lstrip()), 1
    before = len(code[: site.column - 1].expandtabs(4))
    return before, max(len(code[: site.end_column - 1].expandtabs(4)) - before, 1)
