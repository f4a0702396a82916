"""Fixes carried out: the edits of findings, applied to texts.

A fix is applied whole or not at all. What no edit covers keeps every byte: line ends,
tabs, form feeds, a byte order mark, a missing newline at the end. A text that was
Python stays Python, or it is left as it was.
"""

from __future__ import annotations

import ast
import itertools
import re
import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

from freezecheck.finding import Edit, Finding
from freezecheck.records import dataclass, field

_END = re.compile(r"\r\n|\r|\n")  # of a line, as Python counts them; \f and \v end none


@dataclass(slots=True)
class Fixed:
    """The new texts of the files that changed, by path, and the number of fixes in them.

    `unsafe` are the fixes that were left because they are not safe.
    """

    texts: dict[str, str] = field(default_factory=dict)
    applied: int = 0
    unsafe: int = 0


class Change(NamedTuple):
    """Replace `text[start:end]`."""

    start: int
    end: int
    content: str


def apply(findings: Iterable[Finding], read: Callable[[str], str], *, unsafe: bool) -> Fixed:
    """Apply the fixes that have edits, safe ones unless `unsafe`.

    `read` gives the text of a path with its line ends as they are. Of fixes that touch the
    same text, the first finding's is applied; the rest may be when it is checked again.
    """
    fixed = Fixed()
    pages: dict[str, Page] = {}
    for edits, safe in _distinct(findings).items():
        if not safe and not unsafe:
            fixed.unsafe += 1
            continue
        for edit in edits:
            if edit.site.path not in pages:
                pages[edit.site.path] = Page(read(edit.site.path))
        fixed.applied += _take(edits, pages)
    fixed.texts = {path: page.new for path, page in pages.items() if page.new != page.old}
    return fixed


def _distinct(findings: Iterable[Finding]) -> dict[tuple[Edit, ...], bool]:
    """The edits of each fix, once, and whether they are safe: so is none of what needs a
    particular branch of the program."""
    safe: dict[tuple[Edit, ...], bool] = {}
    for finding in findings:
        fix = finding.fix
        if fix is not None and fix.edits:
            safe[fix.edits] = safe.get(fix.edits, False) or (fix.safe and finding.certain)
    return safe


def _take(edits: Iterable[Edit], pages: dict[str, Page]) -> bool:
    """Add all edits of a fix to their pages, or none of them."""
    taken: list[tuple[Page, list[Change]]] = []
    by_path: dict[str, list[Edit]] = {}
    for edit in edits:
        by_path.setdefault(edit.site.path, []).append(edit)
    for path, those in by_path.items():
        before = pages[path].changes
        if not pages[path].take(those):
            for page, changes in taken:
                page.changes = changes
            return False
        taken.append((pages[path], before))
    return True


class Page:
    """A text and the changes to be made to it, in order, none touching another."""

    def __init__(self, text: str) -> None:
        self.old = text
        self.changes: list[Change] = []
        self._python = _is_python(text)
        self._ends = [(match.start(), match.end()) for match in _END.finditer(text)]

    @property
    def new(self) -> str:
        """The text with all changes."""
        return _changed(self.old, self.changes)

    def take(self, edits: Iterable[Edit]) -> bool:
        """Add the changes of all these edits; False, and nothing is added, where one does
        not fit in the text, touches an earlier one, or leaves no valid Python."""
        changes = list(self.changes)
        for edit in edits:
            change = self._change(edit)
            if change is None:
                return False
            if change not in changes:  # two fixes may need the same import
                changes.append(change)
        changes.sort()
        if any(_touch(a, b) for a, b in itertools.pairwise(changes)):
            return False
        if self._python and not _is_python(_changed(self.old, changes)):
            return False
        self.changes = changes
        return True

    def _change(self, edit: Edit) -> Change | None:
        """An edit as offsets; its lines end as those of the text do."""
        site = edit.site
        start = self._offset(site.line, site.column)
        end = self._offset(site.end_line or site.line, site.end_column or site.column)
        if start is None or end is None or end < start:
            return None
        return Change(start, end, edit.content.replace("\n", self._newline(site.line)))

    def _offset(self, line: int, column: int) -> int | None:
        """Where a place is in the text; None if it is outside."""
        if not 1 <= line <= len(self._ends) + 1 or column < 1:
            return None
        start = self._ends[line - 2][1] if line > 1 else int(self.old.startswith("\ufeff"))
        end = self._ends[line - 1][0] if line <= len(self._ends) else len(self.old)
        at = start + column - 1
        return at if at <= end else None

    def _newline(self, line: int) -> str:
        """How a line ends; the last one as the one before it."""
        if not self._ends:
            return "\n"
        start, end = self._ends[min(line, len(self._ends)) - 1]
        return self.old[start:end]


def _touch(first: Change, second: Change) -> bool:
    """They overlap, or both insert at one place, so that their order would matter."""
    return second.start < first.end or first[:2] == second[:2]


def _changed(text: str, changes: Iterable[Change]) -> str:
    parts, last = [], 0
    for change in changes:
        parts += [text[last : change.start], change.content]
        last = change.end
    return "".join((*parts, text[last:]))


def _is_python(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the user's own, such as invalid escapes
            ast.parse(text.removeprefix("\ufeff"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def diff(path: str, old: str, new: str) -> str:
    """What changed, as `patch` and `git apply` read it."""
    import difflib

    rows = difflib.unified_diff(_rows(old), _rows(new), path, path)
    return "".join(
        row if row.endswith("\n") else f"{row}\n\\ No newline at end of file\n" for row in rows
    )


def _rows(text: str) -> list[str]:
    """Lines with their ends; to a patch, only a line feed ends one."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)
