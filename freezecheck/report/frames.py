"""A finding's story as excerpts of the user's source, each step under its line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from freezecheck.finding import Finding, Site
from freezecheck.report import source
from freezecheck.report.line import Line, line, wrap


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
    yield line(" " * (margin - 1), ("--> ", "secondary"), (str(head), "path"))
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
    code = code.expandtabs(4).rstrip()
    if cut is not None and len(code) > (room := cut - margin - 3):
        code = code[: room - 3] + "..."
    return line((f"{number:>{margin}} | ", "quiet"), code)


def _says(step: Step, text: tuple[str, ...], margin: int, width: int) -> Iterator[Line]:
    """What is said about a line, under its first character (or the marked columns)."""
    mark = "primary" if step.primary else "secondary"
    indent, carets = _carets(step, text, width - margin - 3)
    gutter = " " * margin + " | "
    lead = indent + carets + " "
    for number, says in enumerate(step.says):
        rest = gutter + " " * len(lead)
        first = gutter + lead if number == 0 else rest
        for row in wrap(says, width, first=first, rest=rest, mark=mark):
            yield _coloured(row, margin, mark)


def _coloured(row: Line, margin: int, mark: str) -> Line:
    """The gutter quiet, carets in the colour of what is said."""
    (lead, _), *said = row
    return line((lead[: margin + 3], "quiet"), (lead[margin + 3 :], mark), *said)


def _carets(step: Step, text: tuple[str, ...], room: int) -> tuple[str, str]:
    site = step.site
    code = text[site.line - 1] if site.line <= len(text) else ""
    sign = "^" if step.primary else "-"
    if site.end_column is not None and site.end_line in (None, site.line) and site.column > 1:
        before = len(code[: site.column - 1].expandtabs(4))
        length = max(len(code[: site.end_column - 1].expandtabs(4)) - before, 1)
    else:
        expanded = code.expandtabs(4)
        before, length = len(expanded) - len(expanded.lstrip()), 1
    # Far to the right there is no room for words under the mark.
    return (" " * before, sign * length) if before + length < room // 2 else ("", sign)
