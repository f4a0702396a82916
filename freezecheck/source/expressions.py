"""What expressions amount to."""

from __future__ import annotations

import ast
import operator
from typing import Any

from freezecheck.program import Module
from freezecheck.source import attributes, calls, conditions, iteration, structure, subscripts
from freezecheck.source.decisions import negation
from freezecheck.source.machine import Machine, evaluates
from freezecheck.source.scope import MISSING, Scope
from freezecheck.source.values import (
    Dict,
    Foreign,
    Function,
    Iterator,
    Library,
    List,
    Name,
    Stream,
    Tensor,
    Unknown,
    is_constant,
    joined,
    key_of,
)

_BINARY: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}


@evaluates(ast.Constant)
def constant(m: Machine, node: ast.Constant) -> Any:
    return node.value


@evaluates(ast.Name)
def name(m: Machine, node: ast.Name) -> Any:
    value = m.scope.get(node.id)
    if value is not MISSING:
        return value
    if m.stars:
        from freezecheck.source.imports import starred

        return Library(starred(m, node.id))
    return Library(node.id)


@evaluates(ast.Attribute)
def attribute(m: Machine, node: ast.Attribute) -> Any:
    return attributes.load(m, m.evaluate(node.value), node.attr, node)


@evaluates(ast.Call)
def call(m: Machine, node: ast.Call) -> Any:
    return calls.evaluate(m, node)


@evaluates(ast.Compare)
def compare(m: Machine, node: ast.Compare) -> Any:
    return conditions.compare(m, node)


@evaluates(ast.BoolOp)
def boolean(m: Machine, node: ast.BoolOp) -> Any:
    """`a or b` as a value: the first that decides it, if that is known."""
    either = isinstance(node.op, ast.Or)
    for part in node.values[:-1]:
        value = m.evaluate(part)
        held = conditions.formula(value)
        if not isinstance(held, bool):
            return conditions.wrapped(conditions.test(m, node))
        if held is either:
            return value
    return m.evaluate(node.values[-1])


@evaluates(ast.UnaryOp)
def unary(m: Machine, node: ast.UnaryOp) -> Any:
    value = m.evaluate(node.operand)
    if isinstance(node.op, ast.Not):
        return conditions.wrapped(negation(conditions.formula(value)))
    if isinstance(node.op, ast.USub) and isinstance(value, (int, float)):
        return -value
    return _tensorial(value) or Unknown(f"{type(node.op).__name__} {key_of(value)}")


@evaluates(ast.BinOp)
def binary_operation(m: Machine, node: ast.BinOp) -> Any:
    return binary(m, node, node.op, m.evaluate(node.left), m.evaluate(node.right))


def binary(m: Machine, node: Any, op: ast.operator, left: Any, right: Any) -> Any:
    """`left op right`."""
    if is_constant(left) and is_constant(right) and type(op) in _BINARY:
        try:
            if not (
                isinstance(op, ast.Mult) and any(isinstance(x, (str, tuple)) for x in (left, right))
            ):
                return _BINARY[type(op)](left, right)
        except (TypeError, ValueError, ArithmeticError):
            pass
    if isinstance(op, ast.Pow) and _is_small(left, 1e6) and _is_small(right, 200):
        try:
            return left**right
        except ArithmeticError:
            pass
    if (
        isinstance(op, ast.Add)
        and isinstance(left, (List, tuple))
        and isinstance(right, (List, tuple))
    ):
        if isinstance(left, tuple) and isinstance(right, tuple):
            return left + right
        parts = [iteration.items(m, side, node) for side in (left, right)]
        return List([*parts[0][0], *parts[1][0]], not (parts[0][1] and parts[1][1]))
    if isinstance(left, Dict) and isinstance(right, Dict) and isinstance(op, ast.BitOr):
        return Dict({**left.items, **right.items}, left.open or right.open)
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        return _tensorial(left, right)
    return Unknown(f"({key_of(left)} {type(op).__name__} {key_of(right)})")


def _is_small(value: Any, limit: float) -> bool:
    return isinstance(value, (int, float)) and abs(value) < limit


def _tensorial(*values: Any) -> Tensor | None:
    """What is computed from tensors: a tensor out of the same modules."""
    found = [v for v in values if isinstance(v, Tensor)]
    if not found:
        return None
    result = joined(found)
    if any(isinstance(v, Unknown) for v in values):
        result.cut, result.needs = "", True if result.needs else None
    return result


@evaluates(ast.IfExp)
def conditional(m: Machine, node: ast.IfExp) -> Any:
    held = conditions.test(m, node.test)
    if not isinstance(held, bool):
        from freezecheck.source import relevance

        names = [part.id for part in (node.body, node.orelse) if isinstance(part, ast.Name)]
        lists = any(isinstance(m.scope.get(name), (List, Dict)) for name in names)
        if not (lists or relevance.speaks_of(node.body) or relevance.speaks_of(node.orelse)):
            return Unknown(m.spot(node))
        held = m.decide(held, node.test)
    return m.evaluate(node.body if held else node.orelse)


@evaluates(ast.NamedExpr)
def named(m: Machine, node: ast.NamedExpr) -> Any:
    from freezecheck.source.statements import bind

    value = m.evaluate(node.value)
    bind(m, node.target, value)
    return value


@evaluates(ast.Tuple)
def tuple_(m: Machine, node: ast.Tuple) -> Any:
    found, complete = _elements(m, node.elts)
    return tuple(found) if complete else List(found, open=True)


@evaluates(ast.List, ast.Set)
def list_(m: Machine, node: ast.List | ast.Set) -> Any:
    found, complete = _elements(m, node.elts)
    return List(found, not complete)


def _elements(m: Machine, nodes: list[ast.expr]) -> tuple[list[Any], bool]:
    found: list[Any] = []
    complete = True
    for each in nodes:
        if isinstance(each, ast.Starred):
            more, whole = iteration.items(m, m.evaluate(each.value), each)
            found += more
            complete = complete and whole
        else:
            found.append(m.evaluate(each))
    return found, complete


@evaluates(ast.Dict)
def dict_(m: Machine, node: ast.Dict) -> Any:
    result = Dict()
    for key_node, value_node in zip(node.keys, node.values):
        value = m.evaluate(value_node)
        if key_node is None:
            if isinstance(value, Dict):
                result.items.update(value.items)
            result.open = result.open or not isinstance(value, Dict) or value.open
            continue
        key = m.evaluate(key_node)
        if is_constant(key):
            result.items[key] = value
        else:
            result.open = True
    return result


@evaluates(ast.Subscript)
def subscript(m: Machine, node: ast.Subscript) -> Any:
    owner = m.evaluate(node.value)
    if isinstance(node.slice, ast.Slice):
        parts = [
            None if part is None else m.evaluate(part)
            for part in (node.slice.lower, node.slice.upper, node.slice.step)
        ]
        return sliced(m, owner, parts, node)
    return subscripts.load_item(m, owner, m.evaluate(node.slice), node)


def sliced(m: Machine, owner: Any, parts: list[Any], node: ast.Subscript) -> Any:
    """`owner[a:b:c]`."""
    plain = all(part is None or isinstance(part, int) for part in parts)
    if isinstance(owner, Foreign):
        return owner.sliced(parts)
    if isinstance(owner, Tensor):
        return owner
    if isinstance(owner, (str, tuple)) and plain:
        return owner[slice(*parts)]
    if isinstance(owner, Module) and not owner.open and plain:
        structure.unfold(m, owner)
        made = m.new_module("torch.nn.Sequential", node)
        made.pretrained = owner.pretrained
        made.children = {
            str(i): child for i, child in enumerate(list(owner.children.values())[slice(*parts)])
        }
        made.parent = owner  # its children stay where they are
        made.name = "<slice>"
        return made
    if isinstance(owner, List):
        if not owner.open and plain:
            iteration.count(m, owner)
            return List(owner.items[slice(*parts)])
        return List(owner.items, open=True)
    return Unknown(f"{key_of(owner)}[{':'.join(map(str, parts))}]")


@evaluates(ast.ListComp, ast.SetComp)
def list_comprehension(m: Machine, node: ast.ListComp) -> Any:
    found, complete = comprehend(m, node, lambda: m.evaluate(node.elt))
    return List(found, not complete)


@evaluates(ast.GeneratorExp)
def generator(m: Machine, node: ast.GeneratorExp) -> Any:
    scope = m.scope

    def make() -> tuple[list[Any], bool]:
        outer, m.scope = m.scope, scope
        try:
            found, complete = comprehend(m, node, lambda: m.evaluate(node.elt))
        finally:
            m.scope = outer
        return found, not complete

    return Iterator(make)


@evaluates(ast.DictComp)
def dict_comprehension(m: Machine, node: ast.DictComp) -> Any:
    found, complete = comprehend(m, node, lambda: (m.evaluate(node.key), m.evaluate(node.value)))
    result = Dict(open=not complete)
    for key, value in found:
        if is_constant(key):
            result.items[key] = value
        else:
            result.open = True
    return result


def comprehend(m: Machine, node: Any, element: Any) -> tuple[list[Any], bool]:
    """The elements of a comprehension, and whether these are all."""
    found: list[Any] = []
    complete = True
    outer = m.scope
    m.scope = Scope(outer)

    def go(depth: int) -> None:
        nonlocal complete
        if depth == len(node.generators):
            found.append(element())
            return
        from freezecheck.source.statements import bind

        part = node.generators[depth]
        value = m.evaluate(part.iter)
        each, whole = iteration.items(m, value, part.iter)
        if not whole and not each and isinstance(value, (Stream, Unknown)):
            each = [iteration.stream(m, value, node).at(0)]
        complete = complete and whole

        def once(item: Any) -> None:
            nonlocal complete
            bind(m, part.target, item)
            for condition in part.ifs:
                held = conditions.test(m, condition)
                if not isinstance(held, bool):
                    complete = False  # it may be in it or not
                    return
                if not held:
                    return
            go(depth + 1)

        iteration.each(m, each, once)

    try:
        go(0)
    finally:
        m.scope = outer
    return found, complete


@evaluates(ast.Lambda)
def lambda_(m: Machine, node: ast.Lambda) -> Any:
    from freezecheck.source.statements import make_function

    made: Function = make_function(m, node)
    return made


@evaluates(ast.JoinedStr)
def formatted(m: Machine, node: ast.JoinedStr) -> Any:
    parts: list[str] = []
    for part in node.values:
        value = m.evaluate(part.value) if isinstance(part, ast.FormattedValue) else m.evaluate(part)
        if isinstance(part, ast.FormattedValue) and part.format_spec is not None:
            return Unknown(m.spot(node))
        if not isinstance(value, (str, int, float, bool)):
            return Unknown(
                f"f{[key_of(value)]}{m.spot(node)}" if isinstance(value, Name) else m.spot(node)
            )
        parts.append(str(value))
    return "".join(parts)


@evaluates(ast.Await, ast.Starred)
def inner(m: Machine, node: Any) -> Any:
    return m.evaluate(node.value)


@evaluates(ast.Yield)
def yield_(m: Machine, node: ast.Yield) -> Any:
    calls.yielded(m, m.evaluate(node.value) if node.value is not None else None)
    return Unknown(m.spot(node))


@evaluates(ast.YieldFrom)
def yield_from(m: Machine, node: ast.YieldFrom) -> Any:
    for item in iteration.items(m, m.evaluate(node.value), node)[0]:
        calls.yielded(m, item)
    return Unknown(m.spot(node))
