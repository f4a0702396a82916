"""Conditions: what a test amounts to, and tests on names."""

from __future__ import annotations

import ast
import operator
from typing import Any

from freezecheck.program import Module, Optimizer, Param, Scheduler
from freezecheck.source import structure
from freezecheck.source.decisions import Formula, conjunction, negation
from freezecheck.source.machine import Machine, Split
from freezecheck.source.values import (
    Class,
    Dict,
    Function,
    Instance,
    Library,
    List,
    Method,
    Name,
    Tensor,
    Unknown,
    is_constant,
    key_of,
)

_OPERATORS: dict[type, Any] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_THINGS = (Module, Param, Optimizer, Scheduler, Class, Function, Instance, Method, Tensor)


class Condition:
    """The value of a comparison that is not known: a formula."""

    __slots__ = ("formula",)

    def __init__(self, formula: Formula) -> None:
        self.formula = formula


def truth(m: Machine, node: ast.expr) -> bool:
    """Whether a condition holds on this way, decided if need be."""
    return m.decide(test(m, node), node)


def test(m: Machine, node: ast.expr) -> Formula:
    """What a condition amounts to: True, False, or a formula."""
    if isinstance(node, ast.BoolOp):
        kind = "or" if isinstance(node.op, ast.Or) else "and"
        parts: list[Formula] = []
        for value in node.values:
            part = test(m, value)
            parts.append(part)
            if part is (kind == "or"):
                return part
        return conjunction(parts, kind)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return negation(test(m, node.operand))
    return formula(m.evaluate(node))


def formula(value: Any) -> Formula:
    """Whether a value is true."""
    if isinstance(value, Condition):
        return value.formula
    if is_constant(value):
        return bool(value)
    if isinstance(value, (List, Dict)):
        return True if value.items else ("is", key_of(value)) if value.open else False
    if isinstance(value, _THINGS):
        return True
    if isinstance(value, tuple):
        return bool(value)
    return ("is", key_of(value))


def wrapped(held: Formula) -> Any:
    """A formula as a value."""
    return held if isinstance(held, bool) else Condition(held)


def compare(m: Machine, node: ast.Compare) -> Any:
    """`a < b <= c`."""
    left = m.evaluate(node.left)
    parts: list[Formula] = []
    for op, right_node in zip(node.ops, node.comparators):
        right = m.evaluate(right_node)
        parts.append(_compare(m, op, left, right))
        left = right
    return wrapped(conjunction(parts))


def _compare(m: Machine, op: ast.cmpop, left: Any, right: Any) -> Formula:
    if isinstance(op, (ast.In, ast.NotIn)):
        held = contains(m, left, right)
        return negation(held) if isinstance(op, ast.NotIn) else held
    if isinstance(left, Name) or isinstance(right, Name):
        return _compare_name(m, op, left, right)
    if is_constant(left) and is_constant(right):
        try:
            return bool(_OPERATORS[type(op)](left, right))
        except TypeError:
            return ("is", f"{left!r} {type(op).__name__} {right!r}")
    if isinstance(op, (ast.Is, ast.IsNot, ast.Eq, ast.NotEq)):
        return _same(op, left, right)
    swapped = is_constant(left)
    value, constant = (right, left) if swapped else (left, right)
    if not isinstance(constant, (int, float)) or not isinstance(value, (Unknown, Library)):
        return ("is", f"{key_of(left)} {type(op).__name__} {key_of(right)}")
    kind = type(op)
    if swapped:
        kind = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}[kind]
    if kind in (ast.Lt, ast.LtE):
        return ("<" if kind is ast.Lt else "<=", key_of(value), constant)
    return negation(("<=" if kind is ast.Gt else "<", key_of(value), constant))


def _same(op: ast.cmpop, left: Any, right: Any) -> Formula:
    negative = isinstance(op, (ast.IsNot, ast.NotEq))
    if is_constant(left):
        left, right = right, left
    held: Formula
    if left is right:
        held = True
    elif isinstance(left, Library) and isinstance(right, Library):
        held = left.name == right.name
    elif isinstance(left, (Unknown, Library)) and is_constant(right):
        held = ("==", key_of(left), right)
    elif isinstance(left, Unknown) or isinstance(right, Unknown):
        first, second = sorted((key_of(left), key_of(right)))
        held = ("is", f"{first} == {second}")
    elif isinstance(left, Condition) and isinstance(right, bool):
        held = left.formula if right else negation(left.formula)
    elif isinstance(left, (List, Dict, Tensor, Name, Condition)) or isinstance(right, (List, Dict)):
        held = False if right is None else ("is", f"{key_of(left)} == {key_of(right)}")
    else:
        held = False
    return negation(held) if negative else held


def contains(m: Machine, left: Any, right: Any) -> Formula:
    """`left in right`."""
    if isinstance(right, Name):
        return on_name(m, right, "in", (left,) if isinstance(left, str) else None)
    if isinstance(left, Name):
        options = _strings(right)
        return on_name(m, left, "==", options)
    if isinstance(right, Dict):
        if is_constant(left) and left in right.items:
            return True
        return ("is", f"{key_of(left)} in {key_of(right)}") if right.open else False
    if is_constant(left) and is_constant(right):
        try:
            return bool(left in right)
        except TypeError:
            return False
    items = right.items if isinstance(right, List) else right if isinstance(right, tuple) else None
    if items is not None:
        if any(item is left for item in items):
            return True
        if is_constant(left) and all(is_constant(item) for item in items):
            return True if left in items else _perhaps(left, right)
        if (
            isinstance(left, _THINGS)
            and not isinstance(left, Tensor)
            and not any(isinstance(item, Unknown) for item in items)
        ):
            return _perhaps(left, right)
        if (
            isinstance(left, Unknown)
            and all(is_constant(item) for item in items)
            and not (isinstance(right, List) and right.open)
        ):
            return conjunction([("==", left.key, item) for item in items], "or")
    return ("is", f"{key_of(left)} in {key_of(right)}")


def _perhaps(left: Any, right: Any) -> Formula:
    if isinstance(right, List) and right.open:
        return ("is", f"{key_of(left)} in {key_of(right)}")
    return False


def _strings(value: Any) -> tuple[str, ...] | None:
    items = value.items if isinstance(value, List) and not value.open else value
    if isinstance(value, Dict) and not value.open:
        items = tuple(value.items)
    if isinstance(items, (list, tuple)) and all(isinstance(item, str) for item in items):
        return tuple(items)
    return None


def _compare_name(m: Machine, op: ast.cmpop, left: Any, right: Any) -> Formula:
    name, other = (left, right) if isinstance(left, Name) else (right, left)
    if isinstance(op, (ast.Eq, ast.NotEq)) and isinstance(other, str):
        held = on_name(m, name, "==", (other,))
        return negation(held) if isinstance(op, ast.NotEq) else held
    return ("is", f"name {id(name.of)} {key_of(other)}")


def on_name(m: Machine, name: Name, how: str, literals: tuple[str, ...] | None) -> Formula:
    """A test on the name of something that stands for several: takes it apart if the
    answer is not the same for all (`Split`)."""
    if literals is None or not literals:
        return False if literals == () else ("is", f"name of {id(name.of)}")
    atom = ("test", how, literals, name.lower, False)
    if not isinstance(name.of, Param):
        held = structure.certain(name.prefix, atom)
        return ("is", f"{atom} {name.prefix}") if held is None else held
    held = structure.holds(name.of, name.prefix, atom)
    if held is None:
        structure.cut(m, name.of, atom)
        raise Split(name.of)
    return held


def matches(m: Machine, subject: Any, pattern: ast.pattern) -> Formula:
    """Whether a `case` pattern matches; binds what it captures."""
    if isinstance(pattern, ast.MatchValue):
        return _compare(m, ast.Eq(), subject, m.evaluate(pattern.value))
    if isinstance(pattern, ast.MatchSingleton):
        return _compare(m, ast.Is(), subject, pattern.value)
    if isinstance(pattern, ast.MatchOr):
        return conjunction([matches(m, subject, part) for part in pattern.patterns], "or")
    if isinstance(pattern, ast.MatchAs):
        if pattern.name:
            m.scope.set(pattern.name, subject)
        return True if pattern.pattern is None else matches(m, subject, pattern.pattern)
    return ("is", f"{key_of(subject)} matches {ast.unparse(pattern)}")
