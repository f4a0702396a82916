"""A probe's report as text: the verdict, the figures, the critical rates, what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from freezecheck.report import warmup as told
from freezecheck.report.findings import WIDEST, render_finding, tally
from freezecheck.report.line import WIDTH, Line, clean, line, plain, wrap
from freezecheck.report.spark import logarithmic, sparkline
from freezecheck.report.table import Column, figure, fit, joined
from freezecheck.warmup import Shares, Warmup

if TYPE_CHECKING:
    from freezecheck.probe.report import ProbeReport
    from freezecheck.report.streams import Stream

_NAMES = 17  # columns of the names of facts
_SPARK = 60  # characters of a course of losses, at most


def show(report: ProbeReport, out: Stream, *, quiet: bool = False) -> None:
    """Write the report to `out`, as wide and as colourful as it is; `quiet`: the findings alone."""
    blocks = out.blocks
    out.show(lambda width, cut: layout(report, width, cut=cut, brief=quiet, blocks=blocks))


def render(report: ProbeReport, width: int = WIDTH) -> str:
    """The report as plain text, the same everywhere."""
    return plain(layout(report, width))


def layout(
    report: ProbeReport, width: int, *, cut: bool = False, brief: bool = False, blocks: bool = False
) -> list[Line]:
    """The report in lines of marked words, about `width` columns wide.

    `cut` shortens source lines to the width, too; `brief` leaves the findings alone; `blocks` are
    characters that not every terminal has.
    """
    narrow = min(width, WIDEST)
    lines = [] if brief else [*_verdict(report), *_figures(report.warmup, narrow, blocks)]
    for finding in report.findings:
        lines += [*render_finding(finding, width, cut=cut)]
    if brief:
        return lines
    lines.append(tally(report.findings))
    for remark in report.left_out:
        lines += wrap(clean(remark), narrow)
    return lines


def _verdict(report: ProbeReport) -> Iterator[Line]:
    yield line((report.zone, told.MARKS[report.zone]), f": {told.verdict(report)}")
    yield line((told.setting(report.warmup), "quiet"))
    yield line()


def _figures(warmup: Warmup, width: int, blocks: bool) -> Iterator[Line]:
    yield from _course(warmup, width, blocks)
    for name, words in told.facts(warmup):
        yield from _fact(name, clean(words), width)
    yield line()
    if warmup.start is not None:
        yield from _table(told.looks(warmup), width)
    if warmup.shares is not None:
        yield from _shares(warmup.shares, width)
    if warmup.critical:
        marks = [told.mark(of) for of in warmup.critical]
        yield from _table(_fitting(told.critical(warmup), width), width, marks)


def _fact(name: str, words: str, width: int) -> Iterator[Line]:
    first, *rest = wrap(words, width, first=name.ljust(_NAMES), rest=" " * _NAMES)
    yield line((name.ljust(_NAMES), "quiet"), *first[1:])
    yield from rest


def _course(warmup: Warmup, width: int, blocks: bool) -> Iterator[Line]:
    """`1.69 ▇▆▅▃▂▁ 0.24`: the losses from the first step to the last."""
    if not warmup.losses:
        return
    first, last = figure(warmup.losses[0]), figure(warmup.losses[-1])
    scale = " (log scale)" if logarithmic(warmup.losses) else ""
    room = width - _NAMES - len(first) - len(last) - len(scale) - 2
    drawn = sparkline(warmup.losses, min(room, _SPARK), blocks=blocks)
    yield line(
        ("loss by step".ljust(_NAMES), "quiet"),
        f"{first} ",
        (drawn, "secondary"),
        f" {last}{scale}",
    )


def _table(columns: list[Column], width: int, marks: list[str] | None = None) -> Iterator[Line]:
    gap = fit(columns, width)
    yield line((joined(columns, [column.heading for column in columns], gap).rstrip(), "quiet"))
    for number in range(len(columns[0].cells)):
        cells = [clean(column.cells[number]) for column in columns]
        yield line((joined(columns, cells, gap).rstrip(), marks[number] if marks else ""))
    yield line()


def _fitting(columns: list[Column], width: int) -> list[Column]:
    """Without the margin, which follows from the rest, where room is scarce."""
    if sum(column.width + 2 for column in columns) - 2 <= width:
        return columns
    return [column for column in columns if column.heading != told.MARGIN]


def _shares(of: Shares, width: int) -> Iterator[Line]:
    """As many classes as there is room for, the rest in silence."""
    columns = told.shares(of)
    while len(columns) > 2 and sum(column.width + 1 for column in columns) - 1 > width:
        columns.pop()
    yield from _table(columns, width)
