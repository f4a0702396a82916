"""Lines of text in which some words have a meaning of their own.

The report is laid out once, as lines of marked words; a pipe gets the words, a
terminal gives each mark a colour (`report.terminal`).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

WIDTH = 80  # of text that does not go to a terminal

# The marks, and how a terminal shows them (in rich's words).
STYLES = {
    "": "",
    "error": "bold red",
    "warning": "bold yellow",
    "info": "bold cyan",
    "title": "bold",
    "path": "cyan",
    "quiet": "dim",
    "good": "green",
    "primary": "red",
    "secondary": "blue",
}

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Span = tuple[str, str]  # text, mark
Line = tuple[Span, ...]


def line(*spans: str | Span) -> Line:
    """A line; bare strings are unmarked."""
    return tuple((span, "") if isinstance(span, str) else span for span in spans)


def text(line: Line) -> str:
    """The words alone."""
    return "".join(part for part, _ in line).rstrip()


def plain(lines: Iterable[Line]) -> str:
    """Lines as text, without a final newline."""
    return "\n".join(text(each) for each in lines)


def clean(words: str) -> str:
    """Somebody else's text without what would steer the terminal; tabs as four columns."""
    return _CONTROL.sub("", words).expandtabs(4)


def inline(words: str) -> str:
    """The same on one line: a path may contain anything."""
    return clean(words).replace("\n", "\\n")


def wrap(words: str, width: int, *, first: str = "", rest: str = "", mark: str = "") -> list[Line]:
    """A paragraph of at most `width` columns; `first` and `rest` begin its lines."""
    parts = textwrap.wrap(
        words,
        max(width - max(len(first), len(rest)), 20),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]
    return [line(rest if number else first, (part, mark)) for number, part in enumerate(parts)]
