"""What a piece of syntax mentions, gathered once: identifiers, names bound, functions called."""

from __future__ import annotations

import ast

_EXITS = (ast.Return, ast.Break, ast.Continue)


class Digest:
    """`words` are the identifiers in a piece of syntax, `binds` the names that it binds,
    `calls` those of functions called by a plain name. `leaves`: it has a `return`,
    `break` or `continue`."""

    __slots__ = ("binds", "calls", "leaves", "node", "words")

    def __init__(self, node: ast.AST) -> None:
        self.node = node
        self.words: set[str] = set()
        self.binds: set[str] = set()
        self.calls: set[str] = set()
        self.leaves = False
        self._gather(node)

    def _gather(self, start: ast.AST) -> None:
        # By hand: `ast.walk` took a third of the whole analysis.
        stack = [start]
        while stack:
            node = stack.pop()
            kind = node.__class__
            if kind is ast.Name:
                self.words.add(node.id)  # type: ignore[attr-defined]
                if node.ctx.__class__ is not ast.Load:  # type: ignore[attr-defined]
                    self.binds.add(node.id)  # type: ignore[attr-defined]
                continue
            if kind is ast.Constant:
                continue
            if node is not start and isinstance(node, ast.stmt):
                self._take(of(node))
                continue
            if kind is ast.Attribute:
                self.words.add(node.attr)  # type: ignore[attr-defined]
            elif kind is ast.keyword and node.arg:  # type: ignore[attr-defined]
                self.words.add(node.arg)  # type: ignore[attr-defined]
            elif kind is ast.Call and node.func.__class__ is ast.Name:  # type: ignore[attr-defined]
                self.calls.add(node.func.id)  # type: ignore[attr-defined]
            elif kind in _EXITS:
                self.leaves = True
            for name in node._fields:
                value = getattr(node, name, None)
                if value.__class__ is list:
                    stack += [each for each in value if isinstance(each, ast.AST)]
                elif isinstance(value, ast.AST):
                    stack.append(value)

    def _take(self, inner: Digest) -> None:
        self.words |= inner.words
        self.binds |= inner.binds
        self.calls |= inner.calls
        self.leaves = self.leaves or inner.leaves


_digests: dict[int, Digest] = {}


def of(node: ast.AST) -> Digest:
    """The digest of a piece of syntax; those of statements are kept."""
    found = _digests.get(id(node))
    if found is None or found.node is not node:
        found = _digests[id(node)] = Digest(node)
    return found


def forget() -> None:
    """Let go of the trees that were looked at."""
    _digests.clear()
