"""What the source half says about a text."""

from __future__ import annotations

import ast
import textwrap

from freezecheck import catalogue
from freezecheck.check import check_source
from freezecheck.finding import Finding
from freezecheck.source.analysis import analyze


def findings(code: str, *, strict: bool = False) -> list[Finding]:
    """The findings in a text that are certain; all of them with `strict`."""
    tree = ast.parse(textwrap.dedent(code))
    found = check_source(catalogue.load(), analyze(tree, "train.py").worlds)
    return [f for f in found if f.certain or strict]


def lint(code: str, *, strict: bool = False) -> list[tuple[int, str]]:
    """Line and code of each, in order."""
    return sorted((f.site.line if f.site else 0, f.code) for f in findings(code, strict=strict))
