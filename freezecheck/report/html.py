"""A probe's report as one page that needs nothing else: no scripts, no network.

Its pictures are SVG within the page; what the user named is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

import freezecheck
from freezecheck.finding import Finding
from freezecheck.probe import panels, plot
from freezecheck.probe.panels import Panel
from freezecheck.report import frames
from freezecheck.report import warmup as told
from freezecheck.report.css import STYLE
from freezecheck.report.line import clean, plain
from freezecheck.report.table import Column
from freezecheck.warmup import INCONCLUSIVE, NEAR, SAFE, UNSAFE, Warmup

if TYPE_CHECKING:
    from freezecheck.probe.report import ProbeReport

_ZONES = {SAFE: "safe", NEAR: "near", UNSAFE: "unsafe", INCONCLUSIVE: "inconclusive"}
# The colours of the panels are those of the style sheet, which has others for the dark.
_COLOURS = {
    panels.INK: "ink",
    panels.QUIET: "quiet",
    panels.GRID: "grid",
    panels.PAPER: "paper",
    panels.ACCENT: "accent",
    panels.GOOD: "good",
    panels.WARN: "warn",
    panels.BAD: "bad",
}
_COLOUR = re.compile("|".join(_COLOURS))
_IDS = re.compile(r'(\bid="|xlink:href="#|\bhref="#|url\(#)')
_TAG = re.compile(r"<[^>]*>")
_SIZE = re.compile(r'\s(?:width|height)="[^"]*"')


def page(report: ProbeReport, title: str) -> str:
    """The page. Raises ImportError, with one line on what to install, without matplotlib."""
    plot.required()
    body = "\n".join(_body(report, title))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{_text(report.zone)}: {_text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _body(report: ProbeReport, title: str) -> Iterator[str]:
    warmup = report.warmup
    yield f"""<header class="{_ZONES[report.zone]}">
<h1>{_text(title)}</h1>
<p><span class="zone">{_text(report.zone)}</span>: {_text(told.verdict(report))}</p>
<p class="quiet">{_text(told.setting(warmup))}</p>
</header>"""
    if report.findings:
        yield _section("Findings", map(_finding, report.findings))
    shown = [*panels.panels(warmup)]
    if shown:
        yield _section("In pictures", ['<div class="grid">', *map(_picture, shown), "</div>"])
    numbers = [*_figures(warmup)]
    if numbers:
        yield _section("In numbers", numbers)
    if report.left_out:
        notes = "".join(f"<li>{_text(note)}</li>" for note in report.left_out)
        yield _section(
            "Not judged, and not as in the run", [f'<div class="box"><ul>{notes}</ul></div>']
        )
    yield f"<footer>freezecheck {_text(freezecheck.__version__)}</footer>"


def _section(heading: str, parts: Iterable[str]) -> str:
    return "\n".join((f"<section>\n<h2>{heading}</h2>", *parts, "</section>"))


def _finding(finding: Finding) -> str:
    severity = str(finding.severity)
    source = plain(frames.render(finding, 80)).strip("\n")
    parts = [
        f'<article class="{severity}">',
        f'<h3><span class="zone">{severity} {_text(finding.code)}</span> {_text(finding.name)}</h3>',
        f"<p>{_text(finding.message)}</p>",
        f'<pre tabindex="0">{_text(source)}</pre>' if source else "",
        f"<p><strong>Fix:</strong> {_text(finding.fix.message)}</p>" if finding.fix else "",
        "</article>",
    ]
    return "\n".join(filter(None, parts))


def _picture(panel: Panel) -> str:
    """A panel with its heading; what it shows in words is for whoever cannot see it."""
    drawn = _TAG.sub(lambda tag: _fitted(tag[0], panel.key), plot.svg(panel))
    head, _, rest = drawn.partition(">")
    named = f"{panel.key}-says"
    return f"""<figure>
<h3 id="{panel.key}-title">{_text(panel.title)}</h3>
{_SIZE.sub("", head)} role="img" aria-labelledby="{panel.key}-title" aria-describedby="{named}">
<desc id="{named}">{_text(panel.says)}</desc>{rest}
</figure>"""


def _fitted(tag: str, key: str) -> str:
    """With ids that no other panel has, and the colours of the style sheet."""
    tag = _IDS.sub(rf"\1{key}-", tag)
    return _COLOUR.sub(lambda found: f"var(--{_COLOURS[found[0]]})", tag)


def _figures(warmup: Warmup) -> Iterator[str]:
    facts = "".join(
        f"<dt>{_text(n)}</dt><dd>{_text(words)}</dd>" for n, words in told.facts(warmup)
    )
    if facts:
        yield f'<div class="box"><dl>{facts}</dl></div>'
    if warmup.critical:
        marks = [told.mark(of) for of in warmup.critical]
        yield _table("Learning rates by stage", told.critical(warmup), marks)
    if warmup.start is not None:
        yield _table("The same samples before and after", told.looks(warmup))
    if warmup.shares is not None:
        yield _table("Shares of the classes, at the end", told.shares(warmup.shares))


def _table(name: str, columns: Sequence[Column], marks: Sequence[str] = ()) -> str:
    """Scrolls in its own box where it is too wide."""
    heads = "".join(f'<th scope="col"{_side(c)}>{_text(c.heading)}</th>' for c in columns)
    rows = []
    for number in range(len(columns[0].cells)):
        first, *rest = (_text(column.cells[number]) for column in columns)
        cells = "".join(f"<td{_side(c)}>{cell}</td>" for c, cell in zip(columns[1:], rest))
        mark = f' class="{marks[number]}"' if marks and marks[number] else ""
        rows.append(f'<tr{mark}><th scope="row">{first}</th>{cells}</tr>')
    return (
        f'<div class="box" role="region" aria-label="{name}" tabindex="0"><table>'
        f"<caption>{name}</caption><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
        "</table></div>"
    )


def _side(column: Column) -> str:
    return ' class="right"' if column.right else ""


def _text(words: str) -> str:
    """Somebody else's words, as they are read."""
    return escape(clean(words))
