"""Text for a terminal: in colour, as wide as it is. The only importer of rich."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from rich.console import Console, RenderableType
from rich.markdown import Markdown
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from freezecheck.report.line import STYLES, Line


class Terminal:
    """One output stream. Without `color` only bold and dim are used; rich honours
    NO_COLOR and TERM=dumb by itself."""

    def __init__(self, file: IO[str], *, color: bool = True) -> None:
        self._console = Console(file=file, no_color=None if color else True, highlight=False)

    @property
    def width(self) -> int:
        """Columns."""
        return self._console.width

    def lines(self, lines: Iterable[Line]) -> str:
        """Laid-out lines with their colours, ready to be written."""
        text = Text()
        for each in lines:
            for part, mark in each:
                text.append(part, STYLES[mark])
            text.append("\n")
        return self._rendered(text, end="")

    def markdown(self, page: str) -> str:
        """A Markdown page, set for reading."""
        return self._rendered(Markdown(page))

    def _rendered(self, what: RenderableType, end: str = "\n") -> str:
        with self._console.capture() as captured:
            self._console.print(what, end=end, soft_wrap=isinstance(what, Text))
        return captured.get()


@contextlib.contextmanager
def spinner(file: IO[str], *, color: bool = True) -> Iterator[Callable[[str], None]]:
    """A spinner with the time elapsed; the function that it gives changes its words."""
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(file=file, no_color=None if color else True),
        transient=True,
    )
    with progress:
        task = progress.add_task("starting", total=None)
        yield lambda phase: progress.update(task, description=phase)
