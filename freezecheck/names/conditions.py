"""An expression over a name to a condition as `pattern` knows it: `"fc" in name and p.dim() > 1`."""

from __future__ import annotations

import ast
from typing import Any

from freezecheck import pattern
from freezecheck.names.literals import Values


def condition(node: ast.expr, name: str, values: Values) -> Any:
    """A test as `pattern` knows it."""
    if isinstance(node, ast.BoolOp):
        kind = "and" if isinstance(node.op, ast.And) else "or"
        return (kind, *(condition(part, name, values) for part in node.values))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ("not", condition(node.operand, name, values))
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return _comparison(node.left, node.ops[0], node.comparators[0], name, values)
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        return _call(node.func, node.args[0], name, values)
    return pattern.UNKNOWN


def _comparison(
    left: ast.expr, operator: ast.cmpop, right: ast.expr, name: str, values: Values
) -> Any:
    """`"fc" in name`, `name in HEADS`, `name == "fc.weight"`, and their negations."""
    lower = _is_name(right, name)
    if isinstance(operator, (ast.In, ast.NotIn)) and lower is not None:
        test = _test("in", left, lower, values)
    elif (lower := _is_name(left, name)) is not None and isinstance(
        operator, (ast.In, ast.NotIn, ast.Eq, ast.NotEq)
    ):
        among = isinstance(operator, (ast.In, ast.NotIn))
        test = _test("==", right, lower, values, collection=among)
    else:
        return pattern.UNKNOWN
    negated = isinstance(operator, (ast.NotIn, ast.NotEq))
    return ("not", test) if negated and test[0] == "test" else test


def _call(function: ast.expr, argument: ast.expr, name: str, values: Values) -> Any:
    """`name.startswith("fc")`, `any(key in name for key in KEYS)`."""
    if isinstance(function, ast.Attribute) and function.attr in ("startswith", "endswith"):
        lower = _is_name(function.value, name)
        if lower is not None:
            return _test(function.attr, argument, lower, values)
    if isinstance(function, ast.Name) and function.id in ("any", "all"):
        return _quantified(function.id, argument, name, values)
    return pattern.UNKNOWN


def _quantified(kind: str, argument: ast.expr, name: str, values: Values) -> Any:
    if not isinstance(argument, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
        return pattern.UNKNOWN
    if len(argument.generators) != 1 or argument.generators[0].ifs:
        return pattern.UNKNOWN
    generator = argument.generators[0]
    items = values.items(generator.iter)
    if items is None or not isinstance(generator.target, ast.Name):
        return pattern.UNKNOWN
    parts = []
    for item in items:
        inner = values.binding(generator.target.id, item)
        parts.append(condition(argument.elt, name, inner))
    same = {part[:2] + part[3:] for part in parts if part[0] == "test"}
    if kind == "any" and len(same) == 1 and all(part[0] == "test" for part in parts):
        how, lower, each = parts[0][1], parts[0][3], parts[0][4]
        return ("test", how, tuple(s for part in parts for s in part[2]), lower, each)
    return ("or" if kind == "any" else "and", *parts) if parts else pattern.UNKNOWN


def _test(
    how: str, node: ast.expr, lower: bool, values: Values, collection: bool | None = None
) -> Any:
    found = values.strings(node, collection=how.endswith("with") or bool(collection))
    if found is None or not found.strings or "" in found.strings:
        return pattern.UNKNOWN
    return ("test", how, found.strings, lower, found.each)


def _is_name(node: ast.expr, name: str) -> bool | None:
    """Whether the names are lowered first; None if this is not the name at all."""
    if isinstance(node, ast.Name):
        return False if node.id == name else None
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "lower"
        and not node.args
    ):
        return None if _is_name(node.func.value, name) is None else True
    return None
