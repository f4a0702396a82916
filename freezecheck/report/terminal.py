"""Text for a terminal: in colour, as wide as it is. The only importer of rich."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from freezecheck.report.line import STYLES, Line
from freezecheck.report.spark import bars, sparkline
from freezecheck.warmup import Progress as Warming


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
def display(file: IO[str], *, color: bool = True) -> Iterator[Callable[[str | Warming], None]]:
    """A run as it goes: a spinner with the time elapsed, and of a probe the losses so far and the
    shares of the predicted classes. The function that it gives takes words, or how far a probe is."""
    console = Console(file=file, no_color=None if color else True, highlight=False)
    head = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console
    )
    task = head.add_task("starting", total=None)
    with Live(head, console=console, transient=True, refresh_per_second=10) as live:

        def told(news: str | Warming) -> None:
            if isinstance(news, str):
                head.update(task, description=escape(news))
                return
            head.update(task, description=f"{escape(news.stage)}, step {news.step} of {news.of}")
            live.update(Group(head, *_warming(news, console.width, _blocks(console))))

        yield told


def _warming(news: Warming, width: int, blocks: bool) -> Iterator[Text]:
    """The losses and the shares, a row each."""
    from freezecheck.report.table import figure  # which a probe alone needs

    if news.losses:
        first, last = figure(news.losses[0]), figure(news.losses[-1])
        room = max(width - len(first) - len(last) - 16, 1)
        drawn = sparkline(news.losses, min(room, 60), blocks=blocks)
        yield Text.assemble("  loss       ", f"{first} ", (drawn, "blue"), f" {last}", no_wrap=True)
    if news.shares:
        top = max(news.shares)
        words = f" class {news.shares.index(top)}: {top:.0%}"
        drawn = bars(news.shares, blocks=blocks)
        yield Text.assemble("  predicted  ", (drawn, "blue"), words, no_wrap=True)


def _blocks(console: Console) -> bool:
    return console.encoding.startswith("utf")
