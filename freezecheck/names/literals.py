"""What an expression of the user's is right now, without running any of their code.

Who asks says how a variable and an attribute are looked up (`Lookup`); only plain strings,
numbers and containers of them are believed.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Protocol

from freezecheck.records import dataclass, replace

_PLAIN = (str, int)
_COLLECTIONS = (list, tuple, set, frozenset, range)
_FUNCTIONS = ("list", "tuple", "set", "str", "range", "reversed", "sorted")
_LIMIT = 10_000  # items that are looked at


class Strings(NamedTuple):
    """The strings of an expression; `each`: one after the other, in a loop around."""

    strings: tuple[str, ...]
    each: bool


class _Options(NamedTuple):
    values: list[Any]
    each: bool


@dataclass(frozen=True, slots=True)
class Scope:
    """What the source says of the variables that an expression can see.

    A variable of a loop around it stands for all its values. One that is set only once
    may be looked up before it is. `hidden` ones have another value by the time that the
    expression is reached.
    """

    around: Mapping[str, ast.expr]  # loop variables, and what their loops go through
    assigned: Mapping[str, ast.expr]  # variables set once, and to what
    hidden: Collection[str]


class Lookup(Protocol):
    """Where variables have values."""

    def variable(self, name: str) -> Any:
        """The value of a variable; KeyError where it has none."""

    def attribute(self, base: Any, name: str) -> Any:
        """An attribute, without running any code; AttributeError where there is none."""


class Values:
    """Values of expressions at one place."""

    def __init__(
        self, lookup: Lookup, scope: Scope, bound: Mapping[str, Any] | None = None
    ) -> None:
        self._lookup = lookup
        self._scope = scope
        self._bound = bound or {}

    def binding(self, name: str, value: Any) -> Values:
        """The same with one more variable."""
        return Values(self._lookup, self._scope, {**self._bound, name: value})

    def strings(self, node: ast.expr, *, collection: bool) -> Strings | None:
        """The string that `node` is, or with `collection` those that it holds; None: not known."""
        options = self._options(node)
        if options is None:
            return None
        found: list[str] = []
        for value in options.values:
            if isinstance(value, str):
                found.append(value)
            elif collection and type(value) in _COLLECTIONS and len(value) <= _LIMIT:
                found += sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
            elif collection and type(value) is dict:
                found += value.keys()
            else:
                return None
        if not all(isinstance(item, str) for item in found):
            return None
        return Strings(tuple(dict.fromkeys(found)), options.each)

    def items(self, node: ast.expr) -> list[Any] | None:
        """The plain items of a collection; None: not known."""
        options = self._options(node)
        if options is None or options.each or type(options.values[0]) not in _COLLECTIONS:
            return None
        items = options.values[0]
        if len(items) > _LIMIT or not all(type(item) in _PLAIN for item in items):
            return None
        return sorted(items, key=str) if isinstance(items, (set, frozenset)) else list(items)

    def _options(self, node: ast.expr) -> _Options | None:
        """The values that an expression takes: one, or all those that a loop around gives it."""
        if isinstance(node, ast.Constant):
            return _one(node.value)
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.Attribute):
            return self._within(node.value, lambda base: self._lookup.attribute(base, node.attr))
        if isinstance(node, ast.Subscript):
            key = self._options(node.slice)
            if key is None or key.each:
                return None
            return self._within(node.value, lambda base: _item(base, key.values[0]))
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            return self._combined(node.elts, list)
        if isinstance(node, ast.JoinedStr):
            return self._combined(node.values, lambda parts: "".join(map(str, parts)))
        if (
            isinstance(node, ast.FormattedValue)
            and node.conversion < 0
            and node.format_spec is None
        ):
            return self._options(node.value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
            sign = 1 if isinstance(node.op, ast.Add) else -1
            return self._combined(
                [node.left, node.right], lambda pair: _sum(pair[0], pair[1], sign)
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            function = node.func.id
            if function in _FUNCTIONS:
                return self._combined(node.args, lambda given: _call(function, given))
        return None

    def _name(self, name: str) -> _Options | None:
        if name in self._bound:
            return _one(self._bound[name])
        if name in self._scope.hidden:
            return None
        if name in self._scope.around:
            around = dict(self._scope.around)
            node = around.pop(name)
            items = self._within_scope(replace(self._scope, around=around))._options(node)
            if items is None or items.each or type(items.values[0]) not in _COLLECTIONS:
                return None
            values = items.values[0]
            return _Options(list(values), True) if 0 < len(values) <= _LIMIT else None
        try:
            return _one(self._lookup.variable(name))
        except KeyError:
            pass
        if name in self._scope.assigned:
            assigned = dict(self._scope.assigned)
            node = assigned.pop(name)
            return self._within_scope(replace(self._scope, assigned=assigned))._options(node)
        return None

    def _within_scope(self, scope: Scope) -> Values:
        return Values(self._lookup, scope, self._bound)

    def _within(self, node: ast.expr, read: Any) -> _Options | None:
        base = self._options(node)
        if base is None or base.each:
            return None
        try:
            return _one(read(base.values[0]))
        except (AttributeError, KeyError, IndexError, TypeError):
            return None

    def _combined(self, nodes: list[ast.expr], join: Any) -> _Options | None:
        """An expression of several parts, at most one of which varies."""
        known = [self._options(node) for node in nodes]
        parts = [part for part in known if part is not None]
        varying = [part for part in parts if part.each]
        if len(varying) > 1 or len(parts) < len(known):
            return None
        results = []
        for value in varying[0].values if varying else [None]:
            given = [value if part.each else part.values[0] for part in parts]
            if not all(type(item) in (*_PLAIN, *_COLLECTIONS) for item in given):
                return None
            try:
                results.append(join(given))
            except TypeError:
                return None
        return _Options(results, bool(varying))


def _one(value: Any) -> _Options:
    return _Options([value], False)


def _item(base: Any, key: Any) -> Any:
    if type(base) not in (dict, list, tuple):
        raise TypeError
    return base[key]


def _sum(left: Any, right: Any, sign: int) -> Any:
    if sign > 0 and type(left) is type(right):
        return left + right
    if type(left) is type(right) is int:
        return left - right
    raise TypeError


def _call(name: str, given: list[Any]) -> Any:
    result = getattr(builtins, name)(*given)
    return list(result) if name == "reversed" else result
