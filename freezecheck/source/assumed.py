"""Values that are not known, and that turn out to be modules by how they are used."""

from __future__ import annotations

from typing import Any

from freezecheck.program import Module
from freezecheck.source import (
    structure,
)
from freezecheck.source.machine import Machine
from freezecheck.source.values import (
    Unknown,
)

# What is asked of a module alone: an unknown value that is asked for it is one.
MODULE_METHODS = frozenset(
    "parameters named_parameters modules named_modules children named_children requires_grad_"
    " train eval apply state_dict load_state_dict zero_grad to cuda cpu half float double"
    " bfloat16 register_buffer buffers named_buffers get_submodule get_parameter add_module"
    " register_module register_parameter forward __call__ extra_repr register_forward_hook"
    " share_memory type compile to_empty append extend insert keys values items pop clear"
    " register_forward_pre_hook register_full_backward_hook".split()
)
TELLING = frozenset(
    "parameters named_parameters modules named_modules children named_children requires_grad_"
    " load_state_dict".split()
)


def as_module(m: Machine, value: Any, node: Any = None) -> Module | None:
    """A value as a module: an unknown one that is used like a module is taken for one."""
    if isinstance(value, Module):
        return value
    if not isinstance(value, Unknown):
        return None
    found = m.assumed.get(value.key)
    if found is not None:
        return found
    owner, name = value.origin or (None, "")
    if isinstance(owner, Unknown) and _is_inside(m, owner):
        owner = as_module(m, owner)
    if isinstance(owner, Module) and owner.open and name:
        found = owner.children.get(name) or structure.carve(m, owner, name)
    else:
        found = m.new_module("", None)
        found.label = _label(value.key)
        found.born = None  # in whatever mode it was handed over
        structure.open_up(m, found)
        for rest in found.rest:
            rest.born = rest.trainable = None
        _gather(m, found, value.key)
    found.key = value.key
    m.assumed[value.key] = found
    return found


def _label(key: str) -> str:
    """What people call the value of a key: `model` for the argument `train(model)`."""
    function, bracket, rest = key.partition("(")
    argument, _, behind = rest.partition(")")
    text = f"{argument}{behind}" if bracket and function.isidentifier() else key
    return text if text.replace(".", "").replace("_", "").isalnum() else ""


def _is_inside(m: Machine, value: Unknown) -> bool:
    """A value that is not known was read from a module, or from what was."""
    if value.key in m.assumed:
        return True
    owner = value.origin[0] if value.origin else None
    return isinstance(owner, Module) or (isinstance(owner, Unknown) and _is_inside(m, owner))


def _gather(m: Machine, module: Module, key: str) -> None:
    """Modules that were found before the one around them turned out to be one, too."""
    for inner_key, inner in list(m.assumed.items()):
        if inner.parent is not None or not inner_key.startswith(f"{key}."):
            continue
        if any(each is module for each in inner.walk()):
            continue
        *between, name = inner_key[len(key) + 1 :].split(".")
        owner = module
        for part in between:
            owner = owner.children.get(part) or structure.carve(m, owner, part)
        owner.children[name] = inner
        inner.parent, inner.name = owner, name
