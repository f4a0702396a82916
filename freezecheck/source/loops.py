"""Loops: over parts of a model, all of them; over epochs and batches, a few telling passes.

A loop over numbers takes the first two, and those around each number that its body
compares the variable with, so that `if epoch == 5` is reached with what five epochs left.
"""

from __future__ import annotations

import ast
import contextlib
from typing import Any

from freezecheck.program import Module, Param
from freezecheck.source import conditions, digest, iteration
from freezecheck.source.iteration import LONGEST
from freezecheck.source.machine import Machine
from freezecheck.source.scope import MISSING
from freezecheck.source.values import Dict, Instance, List, Stream

_PASSES = 2
_SAMPLES = 10
_PARTS = 400  # of a model, taken by their number


class Break(Exception):
    """`break`."""


class Continue(Exception):
    """`continue`."""


def run(m: Machine, node: ast.For | ast.AsyncFor) -> None:
    """A `for` loop."""
    from freezecheck.source.statements import bind

    value = m.evaluate(node.iter)
    found: list[Any] = []
    complete = False
    if not isinstance(value, Stream):
        found, complete = iteration.items(m, value, node.iter)
    number = 0
    length = _length(value, found, complete)
    m.world.lengths[node.lineno] = (
        length if m.world.lengths.get(node.lineno, length) == length else None
    )

    def once(item: Any) -> None:
        nonlocal number
        with m.passing(node, number):
            number += 1
            bind(m, node.target, item)
            with contextlib.suppress(Continue):
                m.run(node.body)

    try:
        if complete and len(found) > LONGEST and not _has_parts(found):
            # A long list of plain values: its first items stand for the rest.
            found = found[:_PASSES]
        iteration.each(m, found, once)
        if not complete and not found:
            source = iteration.stream(m, value, node.iter)
            for index in _samples(m, node, source):
                number = index
                once(source.at(index))
    except Break:
        m.world.lengths[node.lineno] = None
        return
    m.run(node.orelse)


def _length(value: Any, found: list[Any], complete: bool) -> int | str | None:
    """How often a loop goes round; None if it is not known."""
    if isinstance(value, Stream):
        return value.limit if value.length is None else value.length
    return len(found) if complete and not (found and _has_parts(found)) else None


def _has_parts(found: list[Any]) -> bool:
    first = iteration._flat(found[0])
    return any(isinstance(each, (Param, Module)) for each in first)


def _samples(m: Machine, node: ast.For | ast.AsyncFor, source: Stream) -> list[int]:
    """The passes to go through, by their number."""
    inner = any(number > 0 for _, number in m.loops)
    chosen = set(range(1 if inner else _PASSES))
    name = node.target
    while isinstance(name, (ast.Tuple, ast.List)) and name.elts:
        name = name.elts[0]
    first, second = (_number(source.at(i)) for i in (0, 1))
    if isinstance(name, ast.Name) and source.length and _indexes_parts(m, node, name.id):
        return list(range(min(source.length, _PARTS)))
    if isinstance(name, ast.Name) and first is not None and second is not None and second != first:
        step = second - first
        for limit in _limits(m, node, name.id):
            for value in (limit - 1, limit, limit + 1):
                index, odd = divmod(value - first, step)
                if not odd and index >= 0:
                    chosen.add(int(index))
    if source.length is not None:
        chosen = {index for index in chosen if index < source.length}
    return sorted(chosen)[:_SAMPLES]


def _number(value: Any) -> int | None:
    while isinstance(value, tuple) and value:
        value = value[0]
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _indexes_parts(m: Machine, node: ast.For | ast.AsyncFor, name: str) -> bool:
    """The body takes parts of a model by the variable, as in `layers[i]`."""
    for statement in node.body:
        for part in ast.walk(statement):
            if (
                isinstance(part, ast.Subscript)
                and isinstance(part.slice, ast.Name)
                and part.slice.id == name
                and isinstance(part.value, ast.Name)
            ):
                value = m.scope.get(part.value.id)
                if isinstance(value, List) and value.items and _has_parts(value.items[:1]):
                    return True
    return False


def _limits(m: Machine, node: ast.For | ast.AsyncFor, name: str) -> set[int]:
    """The numbers that the body compares the variable with, or looks it up among."""
    found: set[int] = set()
    for statement in node.body:
        if name not in digest.of(statement).words:
            continue
        for part in ast.walk(statement):
            if isinstance(part, (ast.Compare, ast.BinOp, ast.Subscript)) or _looks_up(part):
                inside = list(ast.walk(part))
                if any(isinstance(x, ast.Name) and x.id == name for x in inside):
                    for each in inside:
                        found.update(_values(m, each, node))
    return found


def _looks_up(part: ast.AST) -> bool:
    return (
        isinstance(part, ast.Call)
        and isinstance(part.func, ast.Attribute)
        and part.func.attr in ("get", "pop")
    )


def _values(m: Machine, node: ast.AST, loop: ast.For | ast.AsyncFor) -> set[int]:
    value: Any = None
    if isinstance(node, ast.Constant):
        value = node.value
    elif isinstance(node, ast.Name):
        value = m.scope.get(node.id)
        if value is MISSING:
            return _assigned(loop, node.id)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        owner = m.scope.get(node.value.id)
        value = owner.attributes.get(node.attr) if isinstance(owner, (Instance, Module)) else None
    elif isinstance(node, ast.BinOp):
        value = m.evaluate(node)
    items = value.items if isinstance(value, (List, Dict)) else (value,)
    return {x for x in items if isinstance(x, int) and not isinstance(x, bool)}


def _assigned(loop: ast.For | ast.AsyncFor, name: str) -> set[int]:
    """The numbers in what the loop's own body will bind to a name."""
    return {
        each.value
        for statement in loop.body
        for part in ast.walk(statement)
        if isinstance(part, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == name for target in part.targets)
        for each in ast.walk(part.value)
        if isinstance(each, ast.Constant) and type(each.value) is int
    }


def run_while(m: Machine, node: ast.While) -> None:
    """A `while` loop: as long as its condition is known to hold, else two passes."""
    number = unknown = 0
    try:
        while number < 2 * _SAMPLES and unknown < _PASSES:
            held = conditions.test(m, node.test)
            if held is False:
                break
            if held is not True or isinstance(node.test, ast.Constant):
                unknown += 1
            with m.passing(node, number):
                number += 1
                with contextlib.suppress(Continue):
                    m.run(node.body)
    except Break:
        return
    m.run(node.orelse)
