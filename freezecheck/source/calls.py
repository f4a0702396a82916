"""Calls: of the file's own functions, which are followed; of libraries, which are looked up;
and of what is not known, into whose hands models and optimizers escape."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from freezecheck import program
from freezecheck.program import Group, Module, Optimizer, Param, Scheduler
from freezecheck.source import iteration
from freezecheck.source.machine import DEPTH, Machine
from freezecheck.source.scope import Scope
from freezecheck.source.values import (
    Class,
    Dict,
    Foreign,
    Function,
    Instance,
    Iterator,
    Library,
    List,
    Method,
    Partial,
    Tensor,
    Unknown,
    is_constant,
    joined,
    key_of,
)

QUIET = re.compile(
    r"print|log|save|summary|count|plot|show|repr|describe|profil|flops|watch|dump|num_|report"
    r"|assert|check|test_|get_lr|debug|visual|info|writer|hash|size|len|memory|names?$|seed|type"
    r"|tqdm|add_graph|export|str|format|hook|loss|criterion|metric|accuracy|append|item|stat"
)
# Methods of libraries' modules that are forward passes, and those that may change the module.
FORWARDS = re.compile(r"forward_|encode_|extract_|get_\w+_features$|embed_|compute_loss$")
CHANGES = re.compile(
    r"freez|frozen|train|grad|adapter|lora|quant|reset|replace|resize|prun|prepare|fuse|merge|inject"
    r"|load|set_|add_|init|tie_"
)
MAKES = re.compile(r"^[A-Z]|model|net|backbone|encoder|head|build|create|make|load|optim|sched")
LOOKS = re.compile(r"eval|valid|test|predict|infer|score|generate|sample|embed|encode|extract")


class Call:
    """A call: its place, and what it gives. `open`: it may give more (`*args`, `**options`)."""

    __slots__ = ("args", "keywords", "name", "node", "open")

    def __init__(
        self, node: Any, args: list[Any], keywords: dict[str, Any] | None = None, open: bool = False
    ) -> None:
        self.node = node
        self.name = ""  # the last part of the name of what is called, if a library's
        self.args = args
        self.keywords = keywords or {}
        self.open = open

    def get(self, place: int, name: str = "", default: Any = None) -> Any:
        """The argument at a position, or of a name."""
        if 0 <= place < len(self.args):
            return self.args[place]
        return self.keywords.get(name, default)

    def all(self) -> list[Any]:
        """Every value that it gives."""
        return [*self.args, *self.keywords.values()]


Effect = Callable[[Machine, Call], Any]
EFFECTS: dict[str, Effect] = {}  # by the dotted name of what a library defines
PATTERNS: list[Callable[[Machine, str, Call], Any]] = []  # tried in turn; NotImplemented: not mine
METHODS: list[Callable[[Machine, Any, str, Call], Any]] = []  # of objects, likewise
MAKERS: list[Callable[[Machine, Class, Call], Any]] = []  # of the file's own classes, likewise


def effect(*names: str) -> Callable[[Effect], Effect]:
    """Registers what calls of these names do."""

    def register(function: Effect) -> Effect:
        EFFECTS.update(dict.fromkeys(names, function))
        return function

    return register


def evaluate(m: Machine, node: ast.Call) -> Any:
    """The value of a call."""
    function = m.evaluate(node.func)
    args: list[Any] = []
    keywords: dict[str, Any] = {}
    open = False
    for each in node.args:
        if isinstance(each, ast.Starred):
            more, complete = iteration.items(m, m.evaluate(each.value), each)
            args += more
            open = open or not complete
        else:
            args.append(m.evaluate(each))
    for keyword in node.keywords:
        value = m.evaluate(keyword.value)
        if keyword.arg is not None:
            keywords[keyword.arg] = value
        elif isinstance(value, Dict):
            keywords.update((k, v) for k, v in value.items.items() if isinstance(k, str))
            open = open or value.open
        else:
            open = True
    return call(m, function, Call(node, args, keywords, open))


def call(m: Machine, function: Any, given: Call) -> Any:
    """What calling a value gives, after it did what it does."""
    if isinstance(function, Function):
        return invoke(m, function, given.args, given.keywords, given.node, given.open)
    if isinstance(function, Method):
        return method(m, function, given.args, given.keywords, given.node, given.open)
    if isinstance(function, Library):
        return library(m, function.name, given)
    if isinstance(function, Class):
        return make(m, function, given)
    if isinstance(function, Partial):
        merged = {**function.keywords, **given.keywords}
        return call(
            m,
            function.function,
            Call(given.node, [*function.args, *given.args], merged, given.open),
        )
    if isinstance(function, Module):
        from freezecheck.source import forward

        return forward.run(m, function, given)
    if isinstance(function, Foreign):
        return function.call(m, given)
    if isinstance(function, Instance) and function.cls is not None:
        found = function.cls.find("__call__")
        if isinstance(found, Function):
            return invoke(m, found, [function, *given.args], given.keywords, given.node, given.open)
    if isinstance(function, Unknown):
        known = m.assumed.get(function.key)
        if known is not None:
            return call(m, known, given)
        if function.origin is not None and function.key not in m.overrides:
            return method(
                m, Method(*function.origin), given.args, given.keywords, given.node, given.open
            )
    return unknown(m, function, given)


def invoke(
    m: Machine,
    function: Function,
    args: list[Any],
    keywords: dict[str, Any],
    node: Any,
    open: bool = False,
) -> Any:
    """Run a function of the file's own. What it returns; unknown where it is too deep."""
    if m.active.count(function.node) >= 2 or len(m.active) > DEPTH:
        return Unknown(m.spot(node) if node is not None else function.name)
    scope = Scope(function.scope)
    _bind(scope, function, args, keywords, open)
    if isinstance(function.node, ast.Lambda):
        with m.inside(function, scope, None):
            return m.evaluate(function.node.body)
    if _is_generator(function.node):
        return _generator(m, function, scope, node)
    return _run(m, function, scope, node)


def _run(m: Machine, function: Function, scope: Scope, node: Any) -> Any:
    from freezecheck.source.statements import Return

    quiet = any(
        "no_grad" in ast.unparse(d) or "inference_mode" in ast.unparse(d)
        for d in function.decorators
    )
    with m.inside(function, scope, node), m.gradient(False) if quiet else nullcontext():
        try:
            m.run(function.node.body)  # type: ignore[arg-type]
        except Return as returned:
            return returned.value
    return None


def _bind(
    scope: Scope, function: Function, args: list[Any], keywords: dict[str, Any], open: bool
) -> None:
    spec = function.node.args
    positional = [a.arg for a in (*spec.posonlyargs, *spec.args)]
    names = scope.names
    names.update(zip(positional, args))
    if spec.vararg is not None:
        names[spec.vararg.arg] = (
            List(args[len(positional) :], True) if open else tuple(args[len(positional) :])
        )
    every = {*positional, *(a.arg for a in spec.kwonlyargs)}
    extra = {}
    for name, value in keywords.items():
        if name in every:
            names[name] = value
        else:
            extra[name] = value
    if spec.kwarg is not None:
        names[spec.kwarg.arg] = Dict(extra, open)
    for name in every:
        if name in names:
            continue
        if name in function.defaults and not open:
            names[name] = function.defaults[name]
        else:
            names[name] = Unknown(f"{function.name}({name})")


def _is_generator(node: Any) -> bool:
    found = getattr(node, "_freezecheck_yields", None)
    if found is None:
        found = any(isinstance(each, (ast.Yield, ast.YieldFrom)) for each in _own_nodes(node))
        node._freezecheck_yields = found
    return bool(found)


def _own_nodes(node: Any) -> Any:
    stack = list(node.body)
    while stack:
        each = stack.pop()
        yield each
        if not isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            stack.extend(ast.iter_child_nodes(each))


def _generator(m: Machine, function: Function, scope: Scope, node: Any) -> Iterator:
    def make() -> tuple[list[Any], bool]:
        m.yielded.append([])
        try:
            _run(m, function, scope, node)
        finally:
            found = m.yielded.pop()
        return found, False

    return Iterator(make)


def yielded(m: Machine, value: Any) -> None:
    """`yield value`."""
    if m.yielded:
        m.yielded[-1].append(value)


def method(
    m: Machine,
    bound: Method,
    args: list[Any],
    keywords: dict[str, Any],
    node: Any,
    open: bool = False,
) -> Any:
    """A call of a method."""
    if isinstance(bound.function, Function):
        first = (
            []
            if any(ast.unparse(d) == "staticmethod" for d in bound.function.decorators)
            else [bound.owner]
        )
        return invoke(m, bound.function, [*first, *args], keywords, node, open)
    given = Call(node, args, keywords, open)
    given.name = bound.name
    for handler in METHODS:
        found = handler(m, bound.owner, bound.name, given)
        if found is not NotImplemented:
            return found
    return unknown(m, bound, given)


def library(m: Machine, name: str, given: Call) -> Any:
    """A call of something that a library defines."""
    name = m.like.get(name, name)
    given.name = name.rpartition(".")[2]
    found = EFFECTS.get(name)
    if found is not None:
        return found(m, given)
    for handler in PATTERNS:
        result = handler(m, name, given)
        if result is not NotImplemented:
            return result
    return unknown(m, Library(name), given)


def make(m: Machine, cls: Class, given: Call) -> Any:
    """An object of one of the file's own classes."""
    for maker in MAKERS:
        found = maker(m, cls, given)
        if found is not NotImplemented:
            return found
    made = Instance(cls)
    start = cls.find("__init__")
    if isinstance(start, Function):
        invoke(m, start, [made, *given.args], given.keywords, given.node, given.open)
    else:
        fields = [n for c in cls.mro() for n, v in c.members.items() if not isinstance(v, Function)]
        made.attributes.update(zip(fields, given.args))
        made.attributes.update(given.keywords)
    return made


def unknown(m: Machine, function: Any, given: Call) -> Any:
    """A call that is not understood: what it is given may be changed by it."""
    name = called(function, given.node)
    things = list(dict.fromkeys(t for value in given.all() for t in _things(value)))
    if isinstance(function, Method):
        if isinstance(function.owner, Module):
            return _of_module(m, function.owner, name, given)
        things += _things(function.owner)
    if things and not QUIET.search(name.lower()):
        if not LOOKS.search(name.lower()):
            m.misunderstood(given.node)
        for thing in things:
            escape(m, thing, given.node, name)
    from freezecheck.source.forward import tensors

    found = tensors(given)
    if found:
        return _computed(found, "loss" in name.lower() or "criterion" in name.lower())
    what = key_of(function)
    if not isinstance(function, (Library, Unknown)):
        what = f"{key_of(getattr(function, 'owner', function))}.{name}"
    key = f"{what}({', '.join(map(key_of, given.args))})"
    if MAKES.search(name) or not all(
        is_constant(a) or isinstance(a, (Unknown, Library)) for a in given.all()
    ):
        key += m.spot(given.node)  # two of the same call are two things
    elif given.keywords:
        key += f"({', '.join(f'{k}={key_of(v)}' for k, v in given.keywords.items())})"
    return Unknown(key)


def _computed(found: list[Tensor], loss: bool) -> Tensor:
    """What something unknown makes of tensors: whether a gradient goes through is not known."""
    result = joined(found, loss=loss)
    result.cut, result.needs = "", None
    return result


def _of_module(m: Machine, owner: Module, name: str, given: Call) -> Any:
    """A method of a module that is a library's own."""
    from freezecheck.source import forward

    if FORWARDS.match(name):
        return forward.use(m, owner, given)
    m.event(program.USE, given.node, owner, value=name)
    if CHANGES.search(name):
        escape(m, owner, given.node, name)
    for thing in dict.fromkeys(t for value in given.all() for t in _things(value)):
        escape(m, thing, given.node, name)
    found = forward.tensors(given)
    if found:
        return _computed(found, "loss" in name.lower())
    return Unknown(f"<module {owner.id}>.{name}(){m.spot(given.node)}")


def called(function: Any, node: Any) -> str:
    """The last part of the name of what is called."""
    if isinstance(function, Library):
        return function.name.rpartition(".")[2]
    if isinstance(function, Method):
        return function.name
    target = getattr(node, "func", None)
    if isinstance(target, ast.Attribute):
        return target.attr
    return target.id if isinstance(target, ast.Name) else ""


def _things(value: Any, depth: int = 0) -> list[Any]:
    """The models, optimizers and schedulers in a value."""
    if isinstance(value, (Module, Optimizer, Scheduler, Foreign)):
        return [value]
    if isinstance(value, Param):
        return [value.module]
    if isinstance(value, Group) or is_constant(value):
        return []
    if depth < 2:
        parts: Any = ()
        if isinstance(value, (List, Dict)):
            parts = value.items.values() if isinstance(value, Dict) else value.items
        elif isinstance(value, tuple):
            parts = value
        elif isinstance(value, Iterator):
            parts = value.peek()
        elif isinstance(value, Instance):
            parts = value.attributes.values()
        return [t for part in parts for t in _things(part, depth + 1)]
    return []


def escape(m: Machine, thing: Any, node: Any, name: str) -> None:
    """Something unknown got hold of `thing`: nothing that it may change is known any more."""
    event = m.event(program.ESCAPE, node, thing, value=name)
    if isinstance(thing, Module):
        if not LOOKS.search(name.lower()):
            m.write_flag(node, list(thing.parameters()), None, via="escape")
            for each in thing.walk():
                each.escaped = each.escaped or event
                each.batchnorm = None if each.open else each.batchnorm
        m.write_mode(node, thing, None)
    elif isinstance(thing, Optimizer):
        thing.escaped = thing.escaped or event
