"""What there is to iterate over, and iterating over parts that may be taken apart on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from freezecheck.program import Module, Param
from freezecheck.source import structure
from freezecheck.source.machine import Machine, Split
from freezecheck.source.values import (
    Dict,
    Iterator,
    List,
    Name,
    ParamGroups,
    Stream,
    Unknown,
    key_of,
)

LONGEST = 40  # items of a list or range that are all gone through


def items(m: Machine, value: Any, node: Any) -> tuple[list[Any], bool]:
    """The items of a value, and whether these are all."""
    if isinstance(value, (tuple, list)):
        return list(value), True
    if isinstance(value, List):
        return list(value.items), not value.open
    if isinstance(value, Dict):
        return [key for key, _ in value.pairs()], not value.open
    if isinstance(value, Iterator):
        found = value.take()
        return found, not value.open
    if isinstance(value, str):
        return list(value), True
    if isinstance(value, ParamGroups):
        return list(value.optimizer.groups), not value.optimizer.open
    if isinstance(value, Stream) and value.length is not None and value.length <= LONGEST:
        return [value.at(i) for i in range(value.length)], True
    if isinstance(value, Module) and not value.open:
        structure.unfold(m, value)
        return list(value.children.values()), True
    return [], False


def stream(m: Machine, value: Any, node: Any) -> Stream:
    """A value of which not all items are known, as something to take samples of."""
    if isinstance(value, Stream):
        return value
    key = key_of(value)
    m.streams.add(f"{key}[")
    return Stream(lambda index: Unknown(f"{key}[{index}]"))


def each(m: Machine, found: list[Any], run: Callable[[Any], None]) -> None:
    """Do something with each item. One that a test takes apart is begun again, in parts."""
    queue = list(found)
    while queue:
        item = queue.pop(0)
        parts = refreshed(item)
        if len(parts) != 1:
            queue[:0] = parts
            continue
        try:
            run(parts[0])
        except Split:
            again = refreshed(parts[0])  # may be one part, too
            if again[0] is parts[0]:
                raise
            queue[:0] = again


def apart(m: Machine, found: list[Any]) -> list[Any]:
    """Parameters one by one, where they can be counted."""
    for each in found:
        for part in _flat((each,)):
            for leaf in list(part.leaves()) if isinstance(part, Param) and not part.one else ():
                if not leaf.one and structure.is_folded(leaf.module):
                    structure.unfold_all(m, leaf.module)
    return [part for each in found for part in refreshed(each)]


def first_apart(m: Machine, found: list[Any]) -> list[Any]:
    """The same, with one parameter at the beginning, where it can be told which one that is."""
    while found and not is_one((found[0],)):
        whole = next(
            part for part in _flat((found[0],)) if isinstance(part, Param) and not part.one
        )
        if not structure.is_folded(whole.module):
            break
        structure.unfold(m, whole.module)
        found = [*refreshed(found[0]), *found[1:]]
    return found


def is_one(item: Any) -> bool:
    """No parameter in it stands for several."""
    return all(part.one for part in _flat(item) if isinstance(part, Param))


def count(m: Machine, value: Any) -> None:
    """Let each item of a list be one thing, where it can be: it is asked for by number."""
    if isinstance(value, List) and not all(is_one((item,)) for item in value.items):
        value.items = apart(m, value.items)


def refreshed(item: Any) -> list[Any]:
    """The parts into which an item was taken apart; itself if it was not.

    A tuple that has such a parameter in it (an index, its name) becomes several.
    """
    if isinstance(item, Param):
        return list(item.leaves()) if item.parts else [item]
    if not isinstance(item, tuple):
        return [item]
    whole = next((x for x in _flat(item) if isinstance(x, Param) and x.parts), None)
    if whole is None:
        return [item]
    return [_replaced(item, whole, part) for part in whole.leaves()]


def _flat(item: Any) -> list[Any]:
    return [y for x in item for y in _flat(x)] if isinstance(item, tuple) else [item]


def _replaced(item: Any, whole: Param, part: Param) -> Any:
    if isinstance(item, tuple):
        return tuple(_replaced(each, whole, part) for each in item)
    if item is whole:
        return part
    if isinstance(item, Name) and item.of is whole:
        return name_of(part, item.prefix, whole.module, item.lower)
    return item


def name_of(param: Param, prefix: str, base: Module, lower: bool = False) -> str | Name:
    """The name of a parameter in `named_parameters()`, where `base`'s begin with `prefix`."""
    parts: list[str] = []
    module = param.module
    while module is not base and module.parent is not None:
        if not module.name.startswith("<"):
            parts.append(module.name)
        module = module.parent
    inner = "".join(f"{part}." for part in reversed(parts))
    if param.one and not any(map(_is_vague, param.module.around())):
        text = prefix + inner + param.name
        return text.lower() if lower else text
    return Name(param, prefix + inner, lower)


def _is_vague(module: Module) -> bool:
    return module.name.startswith("<")


def parameters(m: Machine, module: Module, prefix: str = "") -> list[tuple[Any, Param]]:
    """What `named_parameters()` gives: each parameter once."""
    found: list[tuple[Any, Param]] = []
    seen: set[int] = set()
    for path, each_module in modules(m, module, prefix, unfold=False):
        lead = f"{path}." if path else ""
        for whole in (*each_module.params.values(), *each_module.rest):
            for leaf in whole.leaves():
                if leaf.id not in seen:
                    seen.add(leaf.id)
                    found.append((name_of(leaf, lead, each_module), leaf))
    return found


def own(module: Module) -> list[tuple[Any, Param]]:
    """What `named_parameters(recurse=False)` gives in a loop over modules, where those that are
    not listed have their turn with the one whose rest they are."""
    return [
        (name_of(leaf, "", module), leaf)
        for whole in (*module.params.values(), *module.rest)
        for leaf in whole.leaves()
    ]


def modules(
    m: Machine, module: Module, prefix: str = "", *, unfold: bool = True
) -> list[tuple[str, Module]]:
    """What `named_modules()` gives, as far as listed; with `unfold` everything is."""
    if unfold:
        structure.unfold(m, module)
        structure.norms_of(m, module)
    found = [(prefix, module)]
    for name, child in module.children.items():
        lead = prefix if name.startswith("<") else f"{prefix}.{name}" if prefix else name
        found += modules(m, child, lead, unfold=unfold)
    return found


def is_open(module: Module) -> bool:
    """It, or something below, may have parts that are not listed."""
    return any(each.open for each in module.walk())
