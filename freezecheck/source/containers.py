"""The methods of strings, lists, dicts, parameter groups, and names of parameters."""

from __future__ import annotations

from typing import Any

from freezecheck.program import Group
from freezecheck.source import calls, conditions, iteration
from freezecheck.source.calls import Call
from freezecheck.source.machine import Machine
from freezecheck.source.values import (
    Dict,
    List,
    Name,
    ParamGroups,
    Unknown,
    is_constant,
    key_of,
    taken,
)


def plain_method(m: Machine, owner: Any, name: str, given: Call) -> Any:
    """A method of one of Python's own types."""
    if isinstance(owner, Name):
        return _of_name(m, owner, name, given)
    if isinstance(owner, List):
        return _of_list(m, owner, name, given)
    if isinstance(owner, (Dict, Group)):
        return _of_dict(m, owner, name, given)
    if isinstance(owner, str) and all(is_constant(a) for a in given.all()):
        function = getattr(owner, name, None)
        if function is not None and name not in ("format", "format_map"):
            try:
                result = function(*given.args, **given.keywords)
            except (TypeError, ValueError, LookupError):
                return Unknown(m.spot(given.node))
            return List(result) if isinstance(result, list) else result
    if isinstance(owner, str) and name == "join":
        return Unknown(m.spot(given.node))
    if isinstance(owner, ParamGroups) and name == "append":
        from freezecheck.source.optim import add_group

        add_group(m, owner.optimizer, given.get(0), given.node)
        return None
    return NotImplemented


def _of_name(m: Machine, owner: Name, name: str, given: Call) -> Any:
    if name == "lower":
        return Name(owner.of, owner.prefix, True)
    if name in ("startswith", "endswith"):
        value = given.get(0)
        literals = (value,) if isinstance(value, str) else value
        if isinstance(literals, tuple) and all(isinstance(x, str) for x in literals):
            return conditions.wrapped(conditions.on_name(m, owner, name, literals))
    if name == "split" and given.args == ["."]:
        whole = owner.prefix.split(".")[:-1]
        return List(whole, open=True) if whole else Unknown(f"{id(owner)}.split")
    return Unknown(f"{id(owner)}.{name}{[key_of(a) for a in given.args]}")


def _of_list(m: Machine, owner: List, name: str, given: Call) -> Any:
    value = given.get(0)
    if name in ("append", "add"):
        owner.items.append(value)
    elif name in ("extend", "update"):
        found, complete = iteration.items(m, value, given.node)
        owner.items += found
        owner.open = owner.open or not complete
    elif name == "insert" and isinstance(value, int) and len(given.args) > 1:
        owner.items.insert(value, given.args[1])
    elif name == "pop":
        if owner.items and not owner.open and (value is None or isinstance(value, int)):
            try:
                return owner.items.pop(-1 if value is None else value)
            except IndexError:
                pass
        return Unknown(m.spot(given.node))
    elif name == "clear":
        owner.items, owner.open = [], False
    elif name == "reverse":
        owner.items.reverse()
    elif name == "copy":
        return List(owner.items, owner.open)
    elif name in ("remove", "discard"):
        owner.items = [x for x in owner.items if x is not value]
    return None


def _of_dict(m: Machine, owner: Any, name: str, given: Call) -> Any:
    if isinstance(owner, Group):
        contents: dict[Any, Any] = {"params": List(owner.params, owner.open), **owner.options}
        open = True
    else:
        contents, open = owner.items, owner.open
    if name in ("get", "pop", "setdefault"):
        key, default = given.get(0), given.get(1)
        if is_constant(key) and key in contents:
            return contents[key]
        if isinstance(owner, Dict) and not is_constant(key):
            taken(owner)
            owner.open = owner.open or name != "get"
        if open or not is_constant(key):
            return Unknown(f"{key_of(owner)}[{key_of(key)}]")
        if name == "setdefault":
            contents[key] = default
        return default
    if name == "items":
        return List(Dict(contents).pairs(), open)
    if name == "keys":
        return List([k for k, _ in Dict(contents).pairs()], open)
    if name == "values":
        return List(contents.values(), open)
    if name == "update" and isinstance(owner, Dict):
        value = given.get(0)
        if isinstance(value, Dict):
            owner.items.update(value.items)
        elif value is not None:
            owner.open = True
        owner.items.update(given.keywords)
    if name == "copy" and isinstance(owner, Dict):
        return Dict(dict(owner.items), owner.open)
    return None


calls.METHODS.append(plain_method)
