"""Reading and setting items: of lists and dicts, of parameter groups, of containers of modules."""

from __future__ import annotations

import ast
from typing import Any

from freezecheck import program
from freezecheck.program import Group, Module, Param
from freezecheck.source import (
    assignment,
    assumed,
    attributes,
    iteration,
    structure,
)
from freezecheck.source.machine import Machine
from freezecheck.source.values import (
    STATE,
    Dict,
    Library,
    List,
    ParamGroups,
    Tensor,
    Unknown,
    is_constant,
    key_of,
    taken,
)


def load_item(m: Machine, owner: Any, index: Any, node: Any) -> Any:
    """`owner[index]`."""
    if isinstance(owner, Module):
        structure.unfold(m, owner)
        values = list(owner.children.values())
        if isinstance(index, int) and not owner.open and -len(values) <= index < len(values):
            return values[index]
        if isinstance(index, str) and index in owner.children:
            return owner.children[index]
        if owner.open and isinstance(index, (int, str)):
            return attributes.load(m, owner, str(index), node)
        return Unknown(f"<module {owner.id}>[{key_of(index)}]")
    if isinstance(owner, (List, tuple)):
        iteration.count(m, owner)
        values = owner.items if isinstance(owner, List) else list(owner)
        closed = isinstance(owner, tuple) or not owner.open
        if isinstance(index, int) and closed and -len(values) <= index < len(values):
            return values[index]
        if isinstance(owner, List) and isinstance(index, Unknown):
            taken(owner)
    elif isinstance(owner, Dict):
        if not is_constant(index):
            taken(owner)
        if is_constant(index) and index in owner.items:
            return owner.items[index]
        if STATE in owner.items:
            return owner.items[STATE]
    elif isinstance(owner, ParamGroups):
        groups = owner.optimizer.groups
        if isinstance(index, int) and -len(groups) <= index < len(groups):
            return groups[index]
    elif isinstance(owner, Group):
        if index == "params":
            return List(owner.params, owner.open)
        found = owner.options.get(index) if isinstance(index, str) else None
        if found is not None and not (index == "lr" and _is_scheduled(m, owner)):
            return found
        return Unknown(f"<group {id(owner)}>[{key_of(index)}]")
    elif isinstance(owner, str) and isinstance(index, int) and -len(owner) <= index < len(owner):
        return owner[index]
    elif isinstance(owner, Tensor):
        return owner
    elif isinstance(owner, Library):
        return owner  # a generic alias
    key = f"{key_of(owner)}[{key_of(index)}]"
    origin = (
        (owner, str(index))
        if isinstance(owner, Unknown) and isinstance(index, (int, str))
        else None
    )
    return m.overrides.get(key, Unknown(key, origin))


def _is_scheduled(m: Machine, group: Group) -> bool:
    """A scheduler sets its rate."""
    return any(s.optimizer is not None and group in s.optimizer.groups for s in m.world.schedulers)


def store_item(m: Machine, target: ast.Subscript, owner: Any, index: Any, value: Any) -> None:
    """`owner[index] = value`."""
    if isinstance(owner, Module):
        structure.unfold(m, owner)
        if isinstance(index, int) and index < 0 and not owner.open:
            index += len(owner.children)
        if isinstance(value, Module) and isinstance(index, (int, str)):
            assignment.put(m, target, owner, str(index), value)
    elif isinstance(owner, (Param, Tensor)):
        param = owner if isinstance(owner, Param) else owner.param
        if param is not None:
            assignment.filled(param)
    elif isinstance(owner, Dict):
        if is_constant(index):
            owner.items[index] = value
        else:
            owner.open = True
    elif isinstance(owner, List):
        if (
            isinstance(index, int)
            and not owner.open
            and -len(owner.items) <= index < len(owner.items)
        ):
            owner.items[index] = value
        else:
            owner.open = True
    elif isinstance(owner, Group):
        optimizer = next((o for o in m.world.optimizers if owner in o.groups), None)
        if index == "params":
            found, complete = iteration.items(m, value, target)
            owner.members = [p for p in found if isinstance(p, Param)]
            owner.open = not complete or len(owner.members) < len(found)
        elif isinstance(index, str):
            m.event(
                program.RATE,
                target,
                optimizer,
                value=value if is_constant(value) else None,
                group=owner,
                option=index,
                before=owner.options.get(index, optimizer and optimizer.options.get(index)),
            )
            owner.options[index] = value if is_constant(value) else None
    elif isinstance(owner, Unknown):
        m.overrides[f"{owner.key}[{key_of(index)}]"] = value
        if isinstance(value, Module) and isinstance(index, (int, str)):
            known = assumed.as_module(m, owner, target)
            if known is not None:
                assignment.put(m, target, known, str(index), value)
