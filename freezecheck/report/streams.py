"""Standard output and standard error, as whoever reads them wants them.

A terminal gets colours and its own width, through rich, which is imported for
nothing else; a pipe or a file gets plain text that is the same everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO, Any

from freezecheck.report.line import WIDTH, Line, plain

Layout = Callable[[int, bool], list[Line]]  # width, and whether nothing may be wider


class Stream:
    """One of the two. Characters that it cannot encode are escaped."""

    def __init__(self, file: IO[str], *, color: bool = True) -> None:
        self._file = file
        self._color = color
        if hasattr(file, "reconfigure"):
            file.reconfigure(errors="backslashreplace")

    @property
    def is_terminal(self) -> bool:
        """Somebody looks at it, or FORCE_COLOR says so."""
        return bool(os.environ.get("FORCE_COLOR")) or self._file.isatty()

    @property
    def blocks(self) -> bool:
        """It is a terminal, and can show bars made of block characters."""
        try:
            "█".encode(getattr(self._file, "encoding", None) or "ascii")
        except (UnicodeEncodeError, LookupError):
            return False
        return self.is_terminal

    def show(self, layout: Layout) -> None:
        """Write lines, laid out for this stream."""
        if self.is_terminal:
            from freezecheck.report.terminal import Terminal

            terminal = Terminal(self._file, color=self._color)
            self.write(terminal.lines(layout(terminal.width, True)))
        else:
            self.write("".join(f"{plain([each])}\n" for each in layout(WIDTH, False)))

    def markdown(self, page: str) -> None:
        """Write a Markdown page: set for reading on a terminal, as it is elsewhere."""
        if self.is_terminal:
            from freezecheck.report.terminal import Terminal

            page = Terminal(self._file, color=self._color).markdown(page)
        self.write(page.rstrip("\n") + "\n")

    def json(self, data: Any) -> None:
        """Write one JSON object."""
        import json

        self.write(json.dumps(data, indent=2, allow_nan=False) + "\n")

    def write(self, text: str) -> None:
        """Write text now. A reader that has gone away (`| head`) is no error."""
        try:
            self._file.write(text)
            self._file.flush()
        except BrokenPipeError:
            # Python flushes once more at exit, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._file.fileno())
