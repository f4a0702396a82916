"""The findings of `freezecheck lint` as a plugin of flake8.

flake8 chooses among them (`select`, `per-file-ignores`, `noqa`); what pyproject.toml and
`# freezecheck: ignore` comments say holds too.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator, Sequence

from freezecheck import __version__
from freezecheck.arguments import BadInput
from freezecheck.finding import Finding
from freezecheck.lint import Settings, lint


class Plugin:
    """What flake8 makes for each file. It asks for a `tree` so that flake8 itself reports
    the files that cannot be parsed."""

    name = "freezecheck"
    version = __version__

    def __init__(self, tree: ast.AST, filename: str, lines: Sequence[str]) -> None:
        self._filename = filename
        self._lines = lines

    def run(self) -> Iterator[tuple[int, int, str, type[Plugin]]]:
        """Line, column (from 0) and text of each finding in the file."""
        settings = Settings(texts={self._filename: _encoded("".join(self._lines))}, noqa=False)
        try:
            findings = lint([self._filename], settings).findings
        except BadInput as problem:
            yield 1, 0, f"FC003 its configuration cannot be read: {problem}", Plugin
            return
        for finding in findings:
            site = finding.site
            if site is not None and site.path == self._filename:
                yield site.line, site.column - 1, _text(finding), Plugin


def _text(finding: Finding) -> str:
    return f"{finding.code} {' '.join(finding.message.split())}"


def _encoded(text: str) -> bytes:
    """Bytes that are read as this text, column by column, whatever encoding it declares."""
    data = text.encode(errors="replace")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return text.encode(encoding, errors="replace")
    except (SyntaxError, LookupError, UnicodeError):
        return data
