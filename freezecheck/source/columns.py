"""Columns of a syntax tree in characters, as people and editors count them.

Python's own count the bytes of UTF-8.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_left


def count_characters(tree: ast.AST, text: str) -> None:
    """Change the columns of every node on a line that is not ASCII."""
    if text.isascii():
        return
    lines = re.split("\r\n|\r|\n", text)
    wide = [number for number, line in enumerate(lines, 1) if not line.isascii()]
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        first = getattr(node, "lineno", None)
        if first is not None:
            last = node.end_lineno  # type: ignore[attr-defined]
            first = min([first, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            near = bisect_left(wide, first)
            if near == len(wide) or wide[near] > last:
                continue  # nor is anything in it
            node.col_offset = _character(lines, node.lineno, node.col_offset)  # type: ignore[attr-defined]
            node.end_col_offset = _character(lines, last, node.end_col_offset)  # type: ignore[attr-defined]
        stack.extend(ast.iter_child_nodes(node))


def _character(lines: list[str], number: int, column: int) -> int:
    line = lines[number - 1] if number <= len(lines) else ""
    if line.isascii():
        return column
    return len(line.encode(errors="replace")[:column].decode(errors="ignore"))
