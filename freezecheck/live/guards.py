"""Under which conditions a line runs, read from the user's source.

A condition that lies around a line, or lets a function end before it, was decided on the way.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import FrameType

from freezecheck.live import frames, syntax

_LEAVES = (ast.Return, ast.Continue, ast.Break, ast.Raise)


class Guards:
    """Reads each file once."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[tuple[int, int, int], ...]] = {}

    def choices(self, frame: FrameType | None) -> tuple[str, ...]:
        """The conditions on the way to `frame`, in all of the user's functions on the stack."""
        found: dict[str, None] = {}
        for each in frames.users(frame):
            filename = each.f_code.co_filename
            if filename not in self._files:
                self._files[filename] = _guarded(filename)
            for first, last, line in self._files[filename]:
                if first <= each.f_lineno <= last:
                    found[f"{frames.shown(filename)}:{line}:{first}"] = None
        return tuple(found)


def _guarded(filename: str) -> tuple[tuple[int, int, int], ...]:
    """First and last line of each stretch of a file that hangs on a condition, and the line of
    that condition."""
    tree = syntax.tree(filename)
    nodes = () if tree is None else ast.walk(tree)
    return tuple(stretch for node in nodes for stretch in _stretches(node))


def _stretches(node: ast.AST) -> Iterator[tuple[int, int, int]]:
    for body in _blocks(node):
        last = body[-1].end_lineno or body[-1].lineno
        if isinstance(node, (ast.If, ast.ExceptHandler, ast.match_case)):
            yield body[0].lineno, last, _line(node)
        for statement in body:
            if isinstance(statement, ast.If) and _leaves(statement):
                yield (statement.end_lineno or statement.lineno) + 1, last, statement.lineno


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse"):
        body = getattr(node, name, None)
        if isinstance(body, list) and body:
            yield body


def _line(node: ast.AST) -> int:
    where = node.pattern if isinstance(node, ast.match_case) else node
    return getattr(where, "lineno", 0)


def _leaves(statement: ast.If) -> bool:
    return any(isinstance(inner, _LEAVES) for inner in ast.walk(statement))
