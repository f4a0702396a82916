"""What Python's own functions do, and the methods of its own types."""

from __future__ import annotations

from typing import Any

from freezecheck import program
from freezecheck.program import Group, Module, Param
from freezecheck.source import (
    assignment,
    assumed,
    attributes,
    calls,
    conditions,
    iteration,
    structure,
)
from freezecheck.source.calls import Call, effect
from freezecheck.source.decisions import conjunction
from freezecheck.source.machine import Machine
from freezecheck.source.values import (
    Class,
    Dict,
    Function,
    Instance,
    Iterator,
    Library,
    List,
    Name,
    Partial,
    Stream,
    Super,
    Tensor,
    Unknown,
    is_constant,
    key_of,
)


@effect("range")
def range_(m: Machine, given: Call) -> Any:
    args = given.args
    start: Any
    stop: Any
    step: Any
    start, stop, step = 0, args[0] if args else None, 1
    if len(args) > 1:
        start, stop = args[0], args[1]
    if len(args) > 2:
        step = args[2]
    numbers = [isinstance(x, int) for x in (start, stop, step)]
    if all(numbers) and step:
        whole = range(start, stop, step)
        return Stream(lambda i: whole[i] if i < len(whole) else start + i * step, len(whole))
    if numbers[0] and numbers[2]:
        limit = key_of(stop) if (start, step) == (0, 1) else None
        return Stream(lambda i: start + i * step, limit=limit)
    key = key_of(start)
    return Stream(lambda i: Unknown(f"({key} Add {i})" if i else key))


@effect("enumerate")
def enumerate_(m: Machine, given: Call) -> Any:
    value, start = given.get(0), given.get(1, "start", 0)
    offset = start if isinstance(start, int) else 0
    known = isinstance(start, int)
    if isinstance(value, (Unknown, Stream)):
        source = iteration.stream(m, value, given.node)
        return Stream(
            lambda i: (i + offset if known else Unknown(f"{key_of(start)}+{i}"), source.at(i)),
            source.length,
        )

    def make() -> tuple[list[Any], bool]:
        found, complete = iteration.items(m, value, given.node)
        result: list[Any] = []
        counted = known
        for each in iteration.apart(m, found):
            result.append((offset + len(result) if counted else Unknown(m.spot(given.node)), each))
            counted = counted and iteration.is_one(each)
        return result, not complete

    return Iterator(make)


@effect("zip")
def zip_(m: Machine, given: Call) -> Any:
    if any(isinstance(v, (Unknown, Stream)) for v in given.args):
        sources = [_source(m, v, given) for v in given.args]
        lengths = [s.length for s in sources if s.length is not None]
        return Stream(lambda i: tuple(s.at(i) for s in sources), min(lengths, default=None))

    def make() -> tuple[list[Any], bool]:
        pairs = [iteration.items(m, value, given.node) for value in given.args]
        return list(zip(*(found for found, _ in pairs))), not all(whole for _, whole in pairs)

    return Iterator(make)


def _source(m: Machine, value: Any, given: Call) -> Stream:
    if isinstance(value, (Unknown, Stream)):
        return iteration.stream(m, value, given.node)
    found, complete = iteration.items(m, value, given.node)
    return Stream(
        lambda i: found[i] if i < len(found) else Unknown(m.spot(given.node)),
        len(found) if complete else None,
    )


@effect("list", "set", "sorted", "reversed", "frozenset")
def list_(m: Machine, given: Call) -> Any:
    if not given.args:
        return List()
    found, complete = iteration.items(m, given.args[0], given.node)
    if given.name == "reversed":
        found = found[::-1]
    return List(found, not complete)


@effect("tuple")
def tuple_(m: Machine, given: Call) -> Any:
    if not given.args:
        return ()
    found, complete = iteration.items(m, given.args[0], given.node)
    return tuple(found) if complete else List(found, open=True)


@effect("dict", "collections.OrderedDict", "collections.defaultdict")
def dict_(m: Machine, given: Call) -> Any:
    result = Dict(dict(given.keywords), given.open)
    if given.args:
        value = given.args[-1]
        if isinstance(value, Dict):
            result.items = {**value.items, **result.items}
            result.open = result.open or value.open
            return result
        found, complete = iteration.items(m, value, given.node)
        result.open = result.open or not complete
        for pair in found:
            if isinstance(pair, tuple) and len(pair) == 2 and is_constant(pair[0]):
                result.items[pair[0]] = pair[1]
            elif not isinstance(pair, Library):
                result.open = True
    return result


@effect("filter")
def filter_(m: Machine, given: Call) -> Any:
    function, value = given.get(0), given.get(1)

    def make() -> tuple[list[Any], bool]:
        found, complete = iteration.items(m, value, given.node)
        kept: list[Any] = []
        unsure = False

        def once(item: Any) -> None:
            nonlocal unsure
            answer = item if function is None else calls.call(m, function, Call(given.node, [item]))
            held = conditions.formula(answer)
            if held is True:
                kept.append(item)
            unsure = unsure or not isinstance(held, bool)

        iteration.each(m, found, once)
        return kept, unsure or not complete

    return Iterator(make)


@effect("map")
def map_(m: Machine, given: Call) -> Any:
    def make() -> tuple[list[Any], bool]:
        pairs = [iteration.items(m, value, given.node) for value in given.args[1:]]
        made: list[Any] = []
        iteration.each(
            m,
            list(zip(*(found for found, _ in pairs))),
            lambda item: made.append(calls.call(m, given.args[0], Call(given.node, list(item)))),
        )
        return made, not all(whole for _, whole in pairs)

    return Iterator(make)


@effect("itertools.chain")
def chain(m: Machine, given: Call) -> Any:
    def make() -> tuple[list[Any], bool]:
        pairs = [iteration.items(m, value, given.node) for value in given.args]
        return [x for found, _ in pairs for x in found], given.open or not all(w for _, w in pairs)

    return Iterator(make)


@effect("itertools.chain.from_iterable")
def chain_from(m: Machine, given: Call) -> Any:
    outer, complete = iteration.items(m, given.get(0), given.node)
    return chain(m, Call(given.node, outer, open=not complete))


@effect("iter")
def iter_(m: Machine, given: Call) -> Any:
    value = given.get(0)
    if isinstance(value, (Iterator, Stream)):
        return value
    found, complete = iteration.items(m, value, given.node)
    return (
        Iterator(lambda: (found, not complete))
        if complete
        else iteration.stream(m, value, given.node)
    )


@effect("next")
def next_(m: Machine, given: Call) -> Any:
    value = given.get(0)
    if isinstance(value, Iterator):
        found = iteration.first_apart(m, value.take())
        if found:
            first, rest, open = found[0], found[1:], value.open
            value.spent, value._make = False, lambda: (rest, open)
            return first
    return Unknown(m.spot(given.node))


@effect("len")
def len_(m: Machine, given: Call) -> Any:
    value = given.get(0)
    if isinstance(value, Module):
        found, complete = list(value.children.values()), not value.open and not value.rest
    elif isinstance(value, (List, tuple, Dict, str)):
        iteration.count(m, value)
        found, complete = iteration.items(m, value, given.node)
    else:
        return Unknown(f"len({key_of(value)})")
    if complete and all(iteration.is_one((each,)) for each in found):
        return len(found)
    return Unknown(f"len({key_of(value)})")


@effect("any", "all")
def any_(m: Machine, given: Call) -> Any:
    kind = "or" if given.name == "any" else "and"
    value = given.get(0)
    found, complete = iteration.items(m, value, given.node)
    parts = [conditions.formula(item) for item in found]
    if not complete and (kind == "or") not in parts:
        return Unknown(f"{kind} {key_of(value)}")
    return conditions.wrapped(conjunction(parts, kind))


@effect("sum", "max", "min")
def consumed(m: Machine, given: Call) -> Any:
    """It reads an iterator to its end."""
    if len(given.args) == 1 and isinstance(given.args[0], Iterator):
        given.args[0].take()
    elif all(isinstance(x, (int, float)) for x in given.args) and len(given.args) > 1:
        return {"max": max, "min": min}.get(given.name, sum)(*given.args)
    elif any(isinstance(x, Tensor) for x in given.args):
        return next(x for x in given.args if isinstance(x, Tensor))
    return Unknown(m.spot(given.node))


@effect("getattr")
def getattr_(m: Machine, given: Call) -> Any:
    owner, name = given.get(0), given.get(1)
    if not isinstance(name, str):
        return Unknown(f"{key_of(owner)}.?{key_of(name)}")
    if isinstance(owner, Module) and len(given.args) > 2:
        held = has(m, owner, name)
        if held is False:
            return given.args[2]
    return attributes.load(m, owner, name, given.node)


@effect("hasattr")
def hasattr_(m: Machine, given: Call) -> Any:
    held = has(m, given.get(0), given.get(1))
    return conditions.wrapped(
        ("is", f"hasattr({key_of(given.get(0))}, {key_of(given.get(1))})") if held is None else held
    )


def has(m: Machine, owner: Any, name: Any) -> bool | None:
    """Whether an object has an attribute; None if not known."""
    if isinstance(owner, Module) and isinstance(name, str):
        structure.unfold(m, owner)
        if name in owner.children or name in owner.params or name in owner.attributes:
            return True
        if name in assumed.MODULE_METHODS or (
            owner.cls is not None and owner.cls.find(name) is not None
        ):
            return True
        return None if owner.open or owner.cls is not None else name in owner.options
    if isinstance(owner, Instance) and (
        name in owner.attributes or (owner.cls is not None and owner.cls.find(name) is not None)
    ):
        return True
    return None


@effect("setattr")
def setattr_(m: Machine, given: Call) -> Any:
    import ast

    owner, name, value = (given.get(i) for i in range(3))
    if isinstance(name, str):
        target = ast.copy_location(ast.Attribute(given.node.args[0], name, ast.Store()), given.node)
        assignment.store(m, target, owner, name, value)
    elif isinstance(owner, Module):
        owner.escaped = owner.escaped or m.event(program.ESCAPE, given.node, owner, value="setattr")


@effect("delattr")
def delattr_(m: Machine, given: Call) -> Any:
    owner, name = given.get(0), given.get(1)
    if isinstance(name, str):
        assignment.delete(m, owner, name)
    elif isinstance(owner, Module):
        owner.escaped = owner.escaped or m.event(program.ESCAPE, given.node, owner, value="delattr")


@effect("isinstance")
def isinstance_(m: Machine, given: Call) -> Any:
    value, kinds = given.get(0), given.get(1)
    found = (
        list(kinds)
        if isinstance(kinds, tuple)
        else kinds.items
        if isinstance(kinds, List)
        else [kinds]
    )
    parts = [instance_of(m, value, kind) for kind in found]
    return conditions.wrapped(conjunction(parts, "or"))


def instance_of(m: Machine, value: Any, kind: Any) -> Any:
    """Whether a value is of a class: a formula."""
    unsure = ("is", f"isinstance({key_of(value)}, {key_of(kind)})")
    if isinstance(value, Module):
        from freezecheck.source.making import is_kind

        held = is_kind(m, value, kind)
        return unsure if held is None else held
    if isinstance(value, Instance):
        if isinstance(kind, Class) and value.cls is not None:
            return kind in value.cls.mro()
        return unsure
    if isinstance(kind, Library) and not isinstance(value, Unknown):
        short = kind.name.rpartition(".")[2]
        plain = {"str": str, "int": int, "float": float, "bool": bool, "tuple": tuple}.get(short)
        if plain is not None:
            return isinstance(value, plain) or (plain is str and isinstance(value, Name))
        if short in ("list", "dict", "set"):
            return isinstance(value, (Dict, Group) if short == "dict" else List)
        if short == "Parameter":
            return isinstance(value, Param)
        if short == "Module":
            return False
    return unsure


@effect("super")
def super_(m: Machine, given: Call) -> Any:
    if len(given.args) == 2:
        cls, owner = given.args
    else:
        owner = m.scope.get("self")
        scope, cls = m.scope, None
        while scope is not None and cls is None:
            first = next(iter(scope.names.values()), None)
            if isinstance(first, (Module, Instance)):
                owner = first
            scope = scope.parent  # type: ignore[assignment]
        node = m.active[-1] if m.active else None
        cls = _owner(owner, node)
    if isinstance(owner, (Module, Instance)) and isinstance(cls, Class):
        return Super(owner, cls)
    return Unknown("super()")


def _owner(owner: Any, node: Any) -> Class | None:
    """The class that defines the function that is being run."""
    for cls in owner.cls.mro() if getattr(owner, "cls", None) is not None else ():
        for member in cls.members.values():
            if isinstance(member, Function) and member.node is node:
                return cls
    return None


@effect("functools.partial")
def partial(m: Machine, given: Call) -> Any:
    return (
        Partial(given.args[0], given.args[1:], given.keywords) if given.args else Unknown("partial")
    )


@effect("int", "float", "str", "bool", "abs", "round")
def convert(m: Machine, given: Call) -> Any:
    value, name = given.get(0), given.name
    if isinstance(value, (int, float, str)) and len(given.args) == 1:
        try:
            return {
                "int": int,
                "float": float,
                "str": str,
                "bool": bool,
                "abs": abs,
                "round": round,
            }[name](value)  # type: ignore[operator]
        except (ValueError, TypeError, OverflowError):
            pass
    if name == "str" and isinstance(value, Name):
        return value
    return Unknown(f"{name}({key_of(value)})")


@effect("print", "id", "hash", "repr", "open", "callable", "vars", "dir", "input", "format")
def nothing(m: Machine, given: Call) -> Any:
    return Unknown(m.spot(given.node))


@effect("type")
def type_(m: Machine, given: Call) -> Any:
    value = given.get(0)
    if isinstance(value, (Module, Instance)):
        return attributes.class_of(value)
    return Unknown(f"type({key_of(value)})")


@effect(
    "tqdm.tqdm",
    "tqdm.auto.tqdm",
    "tqdm",
    "tqdm.notebook.tqdm",
    "rich.progress.track",
    "tqdm.trange",
)
def progress(m: Machine, given: Call) -> Any:
    if given.name == "trange":
        return range_(m, given)
    return given.get(0, "iterable", Unknown(m.spot(given.node)))
