"""Tests on parameter names: `for name, p in model.named_parameters(): if "fc" in name`.

The loop around the call that asks for names is read into if/elif chains. Only loops that
choose what is trained count; printing ones do not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Any

from freezecheck import pattern
from freezecheck.names.conditions import condition
from freezecheck.names.literals import Lookup, Values
from freezecheck.names.loops import COMPREHENSIONS, FUNCTIONS, Loop, by_line
from freezecheck.records import dataclass, field

_STATISTICS = ("all", "any", "len", "max", "min", "print", "set", "sum")
_COLLECTING = ("add", "add_param_group", "append", "extend", "insert")
_CONTAINERS = (ast.Tuple, ast.List, ast.Set, ast.Dict, ast.Starred)


@dataclass(slots=True)
class Arms:
    """An if/elif chain, or one conditional expression, before its literals are known."""

    arms: list[tuple[ast.expr, str]]  # test, action
    otherwise: str | None  # what the else does; None: there is none
    guards: list[ast.expr] = field(default_factory=list)  # what holds of names that come here


@dataclass(slots=True)
class Told:
    """A chain with its literals: conditions, actions and tests of its branches, what its else
    does, and the conditions of the names that come to it."""

    branches: list[tuple[Any, str, ast.expr]]
    otherwise: str | None
    guards: tuple[Any, ...]


Loops = dict[tuple[int, str], list[tuple[Loop, list[Arms]]]]


def choosing(tree: ast.AST) -> Loops:
    """The loops of a file that choose what is trained, with their chains; by the line of the
    call that asks for names, and its method."""
    found: Loops = {}
    for key, loops in by_line(tree).items():
        for loop in loops:
            if chains := list(_chains(loop)):
                found.setdefault(key, []).append((loop, chains))
    return found


def told(loops: Loops, line: int, method: str, lookup: Lookup) -> Iterator[Told]:
    """The chains of tests on the names that are asked for there, with their literals."""
    for loop, chains in loops.get((line, method), ()):
        values = Values(lookup, loop.scope)
        for chain in chains:
            branches = [
                (condition(test, loop.name, values), action, test) for test, action in chain.arms
            ]
            if any(any(pattern.atoms(branch[0])) for branch in branches):
                guards = tuple(condition(guard, loop.name, values) for guard in chain.guards)
                yield Told(branches, chain.otherwise, guards)


def reached(names: Iterable[str], guards: Iterable[Any]) -> tuple[str, ...]:
    """Those of `names` that no condition before the chain keeps out."""
    guards = tuple(guards)
    return tuple(
        name for name in names if all(pattern.value(guard, name) is not False for guard in guards)
    )


def _chains(loop: Loop) -> Iterator[Arms]:
    if isinstance(loop.node, (ast.For, ast.AsyncFor)):
        yield from _in_body(loop.node.body, loop.thing)
    elif isinstance(loop.node, COMPREHENSIONS):
        yield from _in_comprehension(loop.node, loop.parent, loop.thing)


def _in_comprehension(
    node: ast.ListComp | ast.SetComp | ast.GeneratorExp, parent: ast.AST | None, thing: str
) -> Iterator[Arms]:
    """`[p for n, p in model.named_parameters() if "fc" in n]`."""
    counted = isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name)
    if counted and parent.func.id in _STATISTICS:  # type: ignore[union-attr]
        return
    if not _hands_on(node.elt, thing):
        return
    ifs = [test for generator in node.generators for test in generator.ifs]
    if ifs:
        whole = ifs[0] if len(ifs) == 1 else ast.BoolOp(ast.And(), ifs)
        yield Arms([(ast.copy_location(whole, ifs[0]), "collect")], None)
    for inner in ast.walk(node.elt):
        if isinstance(inner, ast.IfExp):
            yield Arms([(inner.test, "collect")], "collect", ifs)


def _in_body(body: list[ast.stmt], thing: str) -> Iterator[Arms]:
    """The chains in the body of a `for`."""
    actions = {a for statement in body if (a := _action([statement], thing)) not in ("", "skip")}
    if actions:
        yield from _statements(body, thing, "collect" in actions, [])


def _statements(
    body: list[ast.stmt], thing: str, collects: bool, guards: list[ast.expr]
) -> Iterator[Arms]:
    guards = list(guards)
    for statement in body:
        if isinstance(statement, ast.If):
            arms, rest = _arms(statement)
            acting = [(test, _effect(block, thing, collects)) for test, block in arms]
            otherwise = _effect(rest, thing, collects) if rest else None
            if otherwise or any(action for _, action in acting):
                yield Arms(acting, otherwise, guards)
            passed: list[ast.expr] = []
            for test, block in arms:
                yield from _statements(block, thing, collects, [*guards, *passed, test])
                passed.append(ast.UnaryOp(ast.Not(), test))
            yield from _statements(rest, thing, collects, [*guards, *passed])
            # A new list: the chain above keeps the one that it was given.
            guards = guards + [
                other
                for other, (_, block) in zip(passed, arms)
                if isinstance(block[-1], ast.Continue)
            ]
        elif isinstance(statement, FUNCTIONS):
            continue
        elif hasattr(statement, "body"):  # for, with, try
            for name in ("body", "orelse", "finalbody"):
                inner: list[ast.stmt] = getattr(statement, name, [])
                yield from _statements(inner, thing, collects, guards)
        else:
            yield from _in_statement(statement, thing, collects, guards)


def _arms(statement: ast.If) -> tuple[list[tuple[ast.expr, list[ast.stmt]]], list[ast.stmt]]:
    """The tests and blocks of an if/elif chain, and the block of its else."""
    arms, rest = [(statement.test, statement.body)], statement.orelse
    while len(rest) == 1 and isinstance(rest[0], ast.If):
        arms.append((rest[0].test, rest[0].body))
        rest = rest[0].orelse
    return arms, rest


def _in_statement(
    statement: ast.stmt, thing: str, collects: bool, guards: list[ast.expr]
) -> Iterator[Arms]:
    """`p.requires_grad = "fc" in name`, `lr = 1e-3 if "head" in name else 1e-5`."""
    flag = _flag_value(statement)
    if isinstance(flag, ast.IfExp):
        yield Arms([(flag.test, _flag(flag.body))], _flag(flag.orelse), guards)
    elif flag is not None and not isinstance(flag, ast.Constant):
        yield Arms([(flag, "unfreeze")], "freeze", guards)
    elif collects and (_assigns_name(statement) or _action([statement], thing)):
        for inner in ast.walk(statement):
            if isinstance(inner, ast.IfExp):
                yield Arms([(inner.test, "collect")], "collect", guards)


def _effect(block: list[ast.stmt], thing: str, collects: bool) -> str:
    """What a block does; setting a variable counts where the loop collects by it."""
    action = _action(block, thing)
    if collects and action == "skip":
        return "collect"
    return action or ("collect" if collects and any(map(_assigns_name, block)) else "")


def _assigns_name(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)


def _action(block: list[ast.stmt], thing: str) -> str:
    """What statements do to what is trained; see `pattern.Branch.action`."""
    for statement in block:
        for node in ast.walk(statement):
            if isinstance(node, ast.Continue):
                return "skip"
            if (flag := _flag_value(node)) is not None:
                return _flag(flag)
            if isinstance(node, ast.AugAssign) and _hands_on(node.value, thing):
                return "collect"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = node.func.attr
                if called in _COLLECTING and any(_hands_on(a, thing) for a in node.args):
                    return "collect"
                if called in ("eval", "train") and not node.keywords and len(node.args) < 2:
                    off = called == "eval" or (node.args and _flag(node.args[0]) == "freeze")
                    return "eval" if off else "train"
    return ""


def _flag_value(node: ast.AST) -> ast.expr | None:
    """What `x.requires_grad = value` or `x.requires_grad_(value)` writes."""
    if isinstance(node, ast.Expr):
        node = node.value
    if isinstance(node, ast.Assign):
        target = node.targets[0]
        if isinstance(target, ast.Attribute) and target.attr == "requires_grad":
            return node.value
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "requires_grad_"
    ):
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        return given[0] if given else ast.Constant(True)
    return None


def _flag(value: ast.expr) -> str:
    """A flag that is written, as an action."""
    if isinstance(value, ast.Constant) and value.value in (True, False):
        return "unfreeze" if value.value else "freeze"
    return "flag"


def _hands_on(node: ast.AST, thing: str) -> bool:
    """The expression is `thing` itself, its parameters, or a container of these."""
    if isinstance(node, ast.Name):
        return node.id == thing
    if isinstance(node, _CONTAINERS):
        return any(_hands_on(child, thing) for child in ast.iter_child_nodes(node))
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):
            return node.func.attr == "parameters" and _hands_on(node.func.value, thing)
        if isinstance(node.func, ast.Name) and node.func.id in ("dict", "list", "tuple"):
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            return any(_hands_on(child, thing) for child in given)
    return False
