"""Comments that suppress findings: `# freezecheck: ignore[FC201]`, `# noqa: FC201`.

`ignore` without codes means all rules; `ignore-file` the whole file. A comment holds for
the statement that it is in, however many lines that has.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator

from freezecheck.finding import Finding, Site
from freezecheck.source.read import Source
from freezecheck.text import Comment

# Compiled when first needed: most files have no such comment.
_OURS = r"(?i)#\s*freezecheck\s*:\s*ignore(?P<file>-file)?\s*(?:\[(?P<codes>[^\]]*)\])?(?![\w-])"
_NOQA = r"(?i)#\s*noqa\b(?:\s*:\s*(?P<codes>[A-Z]+\d+(?:[,\s]+[A-Z]+\d+)*))?"
_WORDS = r"(?i)freezecheck\s*:|noqa"
_CODE = r"(?i)FC\d+"

# Rules about these comments themselves.
ABOUT_COMMENTS = {"FC001", "FC002"}


def comments(source: Source) -> list[Comment]:
    """The comments of a file that suppress something, in order. Strings are not comments."""
    if source.tree is None or not re.search(_WORDS, source.text):
        return []
    statements: dict[int, range] | None = None
    found: list[Comment] = []
    for text, site in _comment_tokens(source):
        for comment in sorted(_read(text, site), key=lambda comment: comment.site.column):
            if statements is None:
                statements = _statements(source.tree)
            comment.lines = statements.get(site.line, range(site.line, site.line + 1))
            found.append(comment)
    return found


def _comment_tokens(source: Source) -> Iterator[tuple[str, Site]]:
    tokens = tokenize.generate_tokens(io.StringIO(source.text).readline)
    try:
        for kind, text, (line, column), (_, end), _ in tokens:
            if kind == tokenize.COMMENT and re.search(_WORDS, text):
                yield text, Site(source.path, line, column + 1, line, end + 1)
    except (tokenize.TokenError, SyntaxError):
        return  # a cell of a notebook that is no Python


def _read(text: str, site: Site) -> Iterator[Comment]:
    for match in re.finditer(_OURS, text):
        words = re.split(r"[,\s]+", match["codes"] or "")
        codes = tuple(dict.fromkeys(filter(None, words)))
        if codes or match["codes"] is None:
            yield Comment(_part(site, match), codes, whole_file=bool(match["file"]))
    for match in re.finditer(_NOQA, text):
        codes = tuple(re.findall(_CODE, match["codes"] or ""))
        if codes or match["codes"] is None:
            yield Comment(_part(site, match), codes, foreign=True)


def _part(site: Site, match: re.Match[str]) -> Site:
    start = site.column + match.start()
    return Site(site.path, site.line, start, site.line, site.column + match.end())


def _statements(tree: ast.Module) -> dict[int, range]:
    """The lines of the statement that each line is in; of a block's head, the head's."""
    found: dict[int, range] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            first = getattr(node, "lineno", 0)
            last = getattr(node, "end_lineno", None) or first
            inside = getattr(node, "body", None)
            if isinstance(inside, list) and inside:
                last = max(inside[0].lineno - 1, first)
            for decorator in getattr(node, "decorator_list", ()):
                first = min(first, decorator.lineno)
            if last > first:
                span = range(first, last + 1)
                found.update(dict.fromkeys(span, span))
    return found


class Looked:
    """What was looked for: `names` are the codes of all rules by the rules' names,
    `able` the codes that linting can find, `asked(path)` those that were looked for there."""

    __slots__ = ("able", "asked", "names")

    def __init__(
        self, names: dict[str, str], able: set[str], asked: Callable[[str], set[str]]
    ) -> None:
        self.names = names
        self.able = able
        self.asked = asked

    def code(self, word: str) -> str:
        """What a comment says, as the beginning of codes."""
        return self.names.get(word.lower(), word.upper())

    def meant(self, word: str) -> set[str]:
        """The codes that a word of a comment stands for; "" for all."""
        return {code for code in self.names.values() if code.startswith(self.code(word))}


def apply(
    findings: Iterable[Finding], comments: dict[str, list[Comment]], looked: Looked
) -> list[Finding]:
    """The findings that no comment suppresses.

    The comments then know which of their codes were good for nothing.
    """
    used: set[tuple[int, str]] = set()
    kept: list[Finding] = []
    for finding in findings:
        matching = {(id(comment), word) for comment, word in _matching(finding, comments, looked)}
        used |= matching
        if not matching:
            kept.append(finding)
    for path, those in comments.items():
        asked = looked.asked(path)
        for comment in those:
            _take_stock(comment, asked, looked, used)
    return kept


def apply_to_own(
    findings: Iterable[Finding], comments: dict[str, list[Comment]], looked: Looked
) -> list[Finding]:
    """The same for findings about the comments: only one that names their codes speaks of them."""
    return [
        finding
        for finding in findings
        if not any(word for _, word in _matching(finding, comments, looked))
    ]


def _matching(
    finding: Finding, comments: dict[str, list[Comment]], looked: Looked
) -> Iterator[tuple[Comment, str]]:
    """The comments that suppress a finding, each with the word that does."""
    site = finding.site
    for comment in comments.get(site.path, ()) if site else ():
        if comment.whole_file or (site and site.line in comment.lines):
            for word in comment.codes or ("",):
                if finding.code.startswith(looked.code(word)):
                    yield comment, word


def _take_stock(
    comment: Comment, asked: set[str], looked: Looked, used: set[tuple[int, str]]
) -> None:
    unused, unknown = [], []
    for word in comment.codes or ("",):
        meant = looked.meant(word)
        if not meant:
            unknown.append((word, _nearest(word, looked)))
        elif (id(comment), word) not in used and (word or not comment.foreign):
            # Of a rule that was not looked for nothing can be said.
            able = meant & looked.able - ABOUT_COMMENTS
            if able and able <= asked:
                unused.append(word)
    comment.unused, comment.unknown = tuple(unused), tuple(unknown)


def _nearest(word: str, looked: Looked) -> str:
    from freezecheck import catalogue

    return catalogue.nearest(word, [*looked.names, *looked.names.values()])
