"""Findings for whoever reads them: a person, an editor, a code host, another program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from freezecheck.finding import Finding, Severity
from freezecheck.report.line import Line, clean, inline, line, text, wrap
from freezecheck.report.linted import Linted
from freezecheck.report.streams import Stream
from freezecheck.snapshot import count

FORMATS = ("text", "concise", "json", "sarif", "github")
WIDEST = 100  # beyond this, paragraphs are hard to read


def show(linted: Linted, format: str, out: Stream, *, quiet: bool, statistics: bool) -> None:
    """Write what linting found to `out`, in one of `FORMATS`.

    `quiet` leaves the summary out. `statistics` gives the number of findings of each
    rule in place of the findings; the formats for other programs are what they are
    with or without it.
    """
    if format == "json":
        from freezecheck.report.json import linted_to_dict

        out.json(linted_to_dict(linted))
    elif format == "sarif":
        from freezecheck.report.sarif import log

        out.json(log(linted))
    elif statistics and format != "github":
        from freezecheck.report.statistics import table

        out.show(lambda width, cut: [*table(linted.findings), *_closing(linted, width, quiet)])
    else:
        body = _BODIES[format]()
        out.show(lambda width, cut: [*body(linted, width, cut), *_closing(linted, width, quiet)])


Body = Callable[[Linted, int, bool], Iterator[Line]]  # the findings, width, whether to cut


def _text() -> Body:
    return lambda linted, width, cut: (
        row for finding in linted.findings for row in render_finding(finding, width, cut=cut)
    )


def _concise() -> Body:
    from freezecheck.report import concise

    return lambda linted, width, cut: concise.lines(linted.findings)


def _github() -> Body:
    from freezecheck.report import github

    return lambda linted, width, cut: github.lines(linted.findings)


_BODIES: dict[str, Callable[[], Body]] = {"text": _text, "concise": _concise, "github": _github}


def render_finding(finding: Finding, width: int, *, cut: bool = False) -> Iterator[Line]:
    """Heading, message, the lines of source that it is about, the remedy; a blank line last."""
    from freezecheck.report import frames

    narrow = min(width, WIDEST)
    severity = str(finding.severity)
    yield line((f"{severity} {finding.code}", severity), (f" {finding.name}", "title"))
    yield from wrap(clean(finding.message), narrow, first="  ", rest="  ")
    if not finding.certain:
        yield line("  ", ("only where a particular branch is taken", "quiet"))
    if finding.step is not None:
        yield line("  ", (f"from step {finding.step:,} on", "quiet"))
    yield line()
    yield from frames.render(finding, narrow, width if cut else None)
    if finding.fix:
        fixes = wrap(clean(finding.fix.message), narrow, first="  fix: ", rest="       ")
        yield line(("  fix: ", "good"), *fixes[0][1:])
        yield from fixes[1:]
        yield line()


def tally(findings: Sequence[Finding]) -> Line:
    """`3 findings: 1 error, 2 info`."""
    if not findings:
        return line(("no findings", "good"))
    by_severity = Counter(finding.severity for finding in findings)
    parts = [
        f"{number} info" if severity is Severity.INFO else count(number, str(severity))
        for severity, number in sorted(by_severity.items(), reverse=True)
    ]
    worst = str(max(by_severity))
    return line((count(len(findings), "finding"), worst), f": {', '.join(parts)}")


def _closing(linted: Linted, width: int, quiet: bool) -> Iterator[Line]:
    """How much there is of everything, and what the silence rests on."""
    if quiet:
        return
    facts = count(linted.files, "file")
    if linted.skipped:
        facts += f", {linted.skipped:,} skipped"
    if linted.calls:
        facts += f"; {count(linted.calls, 'call')} not understood"
    found = tally(linted.findings)
    if len(text(found)) + len(facts) + 2 <= width:
        yield (*found, (f"; {facts}", ""))
    else:
        yield from (found, line(facts))
    for path in linted.unfinished:
        yield from wrap(
            f"{inline(path)}: too much to follow to its end; a finding may be missing",
            min(width, WIDEST),
        )
