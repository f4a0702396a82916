"""The user's own source, as a syntax tree."""

from __future__ import annotations

import ast
import linecache


def tree(filename: str) -> ast.Module | None:
    """Of a file that is running; None where there is no text that parses."""
    try:
        return ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError, RecursionError):
        return None
