"""What statements do."""

from __future__ import annotations

import ast
from typing import Any

from freezecheck import program
from freezecheck.source import assignment, attributes, conditions, loops, relevance, subscripts
from freezecheck.source.machine import Machine, Raised, executes
from freezecheck.source.scope import MISSING, Scope
from freezecheck.source.values import Class, Function, GradMode, Library, List, Tensor, Unknown


class Return(Exception):
    """`return value`."""

    def __init__(self, value: Any) -> None:
        self.value = value


@executes(ast.Expr)
def expression(m: Machine, node: ast.Expr) -> None:
    value = node.value
    if isinstance(value, ast.Constant):
        return
    result = m.evaluate(value)
    if isinstance(value, (ast.Attribute, ast.Compare)):
        attributes.statement(m, value, result)
    elif isinstance(value, ast.Call) and isinstance(result, Tensor):
        attributes.dropped(m, value)
    elif (
        isinstance(value, ast.Call)
        and isinstance(result, program.Module)
        and result.site == m.site(value)
    ):
        m.event(program.RESULT, value, result, value=ast.unparse(value.func))


@executes(ast.Assign)
def assign(m: Machine, node: ast.Assign) -> None:
    value = m.evaluate(node.value)
    for target in node.targets:
        bind(m, target, value)


@executes(ast.AnnAssign)
def annotated(m: Machine, node: ast.AnnAssign) -> None:
    if node.value is not None:
        bind(m, node.target, m.evaluate(node.value))


@executes(ast.AugAssign)
def augmented(m: Machine, node: ast.AugAssign) -> None:
    from freezecheck.source.expressions import binary

    target = node.target
    load = ast.copy_location(
        ast.Name(target.id, ast.Load())
        if isinstance(target, ast.Name)
        else ast.Attribute(target.value, target.attr, ast.Load())
        if isinstance(target, ast.Attribute)
        else ast.Subscript(target.value, target.slice, ast.Load()),
        target,
    )
    old, value = m.evaluate(load), m.evaluate(node.value)
    if isinstance(old, List) and isinstance(node.op, ast.Add):
        from freezecheck.source.iteration import items

        more, complete = items(m, value, node)
        old.items += more
        old.open = old.open or not complete
        return
    bind(m, target, binary(m, node, node.op, old, value))


def bind(m: Machine, target: ast.expr, value: Any) -> None:
    """`target = value`."""
    if isinstance(target, ast.Name):
        assignment.label(value, target.id)
        m.scope.set(target.id, value)
    elif isinstance(target, (ast.Tuple, ast.List)):
        unpack(m, target, value)
    elif isinstance(target, ast.Attribute):
        assignment.store(m, target, m.evaluate(target.value), target.attr, value)
    elif isinstance(target, ast.Subscript):
        subscripts.store_item(m, target, m.evaluate(target.value), m.evaluate(target.slice), value)
    elif isinstance(target, ast.Starred):
        bind(m, target.value, value)


def unpack(m: Machine, target: ast.Tuple | ast.List, value: Any) -> None:
    """`a, b = value`."""
    from freezecheck.source.iteration import items

    parts, complete = items(m, value, target)
    star = next((i for i, e in enumerate(target.elts) if isinstance(e, ast.Starred)), None)
    if star is not None and complete:
        behind = len(target.elts) - star - 1
        middle = List(parts[star : len(parts) - behind])
        parts = [*parts[:star], middle, *parts[len(parts) - behind :]]
    from freezecheck.source.values import key_of

    for place, each in enumerate(target.elts):
        if complete and place < len(parts):
            bind(m, each, parts[place])
        else:
            bind(m, each, Unknown(f"{key_of(value)}[{place}]"))


@executes(ast.Delete)
def delete(m: Machine, node: ast.Delete) -> None:
    for target in node.targets:
        if isinstance(target, ast.Name):
            m.scope.names.pop(target.id, None)
        elif isinstance(target, ast.Attribute):
            assignment.delete(m, m.evaluate(target.value), target.attr)
        elif isinstance(target, ast.Subscript):
            m.evaluate(target.value)


@executes(ast.If)
def branch(m: Machine, node: ast.If) -> None:
    held = conditions.test(m, node.test)
    if not isinstance(held, bool):
        if _gives_up(node.body):
            held = False
        elif node.orelse and _gives_up(node.orelse):
            held = True
        elif m.defining == len(m.active):
            held = True  # is a library there, which version is it: what follows needs the names
        elif relevance.matters(m, [*node.body, *node.orelse]):
            held = m.decide(held, node.test)
        else:
            relevance.forget(m, [*node.body, *node.orelse], node)
            return
    m.run(node.body if held else node.orelse)


def _gives_up(body: list[ast.stmt]) -> bool:
    """It ends the program: such a branch is not the one that people mean."""
    last = body[-1]
    if isinstance(last, ast.Raise):
        return True
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Call):
        return ast.unparse(last.value.func) in (
            "sys.exit",
            "exit",
            "quit",
            "os._exit",
            "parser.error",
        )
    return False


@executes(ast.For, ast.AsyncFor)
def for_loop(m: Machine, node: ast.For) -> None:
    loops.run(m, node)


@executes(ast.While)
def while_loop(m: Machine, node: ast.While) -> None:
    loops.run_while(m, node)


@executes(ast.Break)
def break_(m: Machine, node: ast.Break) -> None:
    raise loops.Break


@executes(ast.Continue)
def continue_(m: Machine, node: ast.Continue) -> None:
    raise loops.Continue


@executes(ast.Return)
def return_(m: Machine, node: ast.Return) -> None:
    raise Return(m.evaluate(node.value) if node.value is not None else None)


@executes(ast.Raise)
def raise_(m: Machine, node: ast.Raise) -> None:
    raise Raised


@executes(ast.Assert)
def assert_(m: Machine, node: ast.Assert) -> None:
    """It is taken to hold."""
    if not relevance.matters(m, [node]):
        return
    if conditions.test(m, node.test) is False:
        raise Raised


@executes(ast.With, ast.AsyncWith)
def with_(m: Machine, node: ast.With) -> None:
    from contextlib import ExitStack

    with ExitStack() as stack:
        for item in node.items:
            value = m.evaluate(item.context_expr)
            if isinstance(value, GradMode):
                stack.enter_context(m.gradient(value.on))
            if item.optional_vars is not None:
                bind(m, item.optional_vars, value)
        m.run(node.body)


@executes(ast.Try)
def try_(m: Machine, node: ast.Try) -> None:
    try:
        m.run(node.body)
        m.run(node.orelse)
    except Raised:
        if not node.handlers:
            raise
        m.run(node.handlers[0].body)
    finally:
        m.run(node.finalbody)


if hasattr(ast, "TryStar"):
    executes(ast.TryStar)(try_)


@executes(ast.FunctionDef, ast.AsyncFunctionDef)
def function(m: Machine, node: ast.FunctionDef) -> None:
    m.scope.set(node.name, make_function(m, node))  # decorators are taken to add nothing


def make_function(m: Machine, node: Any, owner: Class | None = None) -> Function:
    """A function, with its defaults evaluated where it is defined."""
    made = Function(node, m.scope, owner)
    positional = [*node.args.posonlyargs, *node.args.args]
    for arg, default in zip(reversed(positional), reversed(node.args.defaults)):
        made.defaults[arg.arg] = m.evaluate(default)
    for arg, default in zip(node.args.kwonlyargs, node.args.kw_defaults):
        if default is not None:
            made.defaults[arg.arg] = m.evaluate(default)
    return made


@executes(ast.ClassDef)
def class_(m: Machine, node: ast.ClassDef) -> None:
    made = Class(node, [m.evaluate(base) for base in node.bases], m.scope)
    scope = Scope(m.scope)
    outer, m.scope = m.scope, scope
    try:
        for statement in node.body:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                held = make_function(m, statement, made)
                held.scope = outer  # a method does not see the names of its class
                scope.names[statement.name] = held
            else:
                m.execute(statement)
    finally:
        m.scope = outer
    made.members = scope.names
    m.scope.set(node.name, made)


@executes(ast.Import)
def import_(m: Machine, node: ast.Import) -> None:
    for alias in node.names:
        if alias.asname:
            m.scope.set(alias.asname, imported(m, alias.name))
        else:
            first = alias.name.partition(".")[0]
            m.scope.set(first, imported(m, first))


@executes(ast.ImportFrom)
def import_from(m: Machine, node: ast.ImportFrom) -> None:
    from freezecheck.source.imports import absolute

    name, near = absolute(m.scope.file.name, node.module or "", node.level), node.level > 0
    module = imported(m, name, near)
    for alias in node.names:
        if alias.name == "*":
            if isinstance(module, Scope):
                for each, value in module.names.items():
                    m.scope.set(each, value)
            elif name not in m.stars and m.scope.file is m.file:
                m.stars.append(name)
            continue
        m.scope.set(alias.asname or alias.name, member(m, module, name, alias.name, near))


# More is known about what they define than following their files would tell.
_KNOWN = frozenset("torch torchvision timm transformers lightning accelerate peft".split())


def imported(m: Machine, name: str, near: bool = False) -> Any:
    """A module: the scope of a file that may be followed, else a library. `near`: by a
    relative import."""
    from freezecheck.source.imports import load
    from freezecheck.source.objects import meet

    meet(name)
    known = not near and name.partition(".")[0] in _KNOWN
    scope = None if known else load(m, name)
    return scope if scope is not None else Library(name)


def member(m: Machine, module: Any, name: str, attribute: str, near: bool) -> Any:
    """`from name import attribute`."""
    if isinstance(module, Scope):
        found = module.names.get(attribute, MISSING)
        if found is not MISSING:
            return found
    whole = imported(m, f"{name}.{attribute}", near)
    return (
        whole
        if isinstance(whole, Scope) or not isinstance(module, Scope)
        else Unknown(f"{name}.{attribute}")
    )


@executes(ast.Global, ast.Nonlocal)
def declare(m: Machine, node: ast.Global | ast.Nonlocal) -> None:
    for name in node.names:
        m.scope.declare(name, isinstance(node, ast.Global))


@executes(ast.Match)
def match(m: Machine, node: ast.Match) -> None:
    subject = m.evaluate(node.subject)
    for case in node.cases:
        held = conditions.matches(m, subject, case.pattern)
        if not isinstance(held, bool):
            held = m.decide(held, node.subject)
        if held and (case.guard is None or conditions.truth(m, case.guard)):
            m.run(case.body)
            return
