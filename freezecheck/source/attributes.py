"""Reading attributes, and statements that only read."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from freezecheck import program
from freezecheck.program import Group, Module, Optimizer, Param, Scheduler
from freezecheck.source import (
    assignment,
    assumed,
    calls,
    conditions,
    structure,
)
from freezecheck.source.machine import Machine
from freezecheck.source.scope import MISSING, Scope
from freezecheck.source.values import (
    Class,
    Foreign,
    Function,
    Instance,
    Library,
    Method,
    Object,
    ParamGroups,
    Super,
    Tensor,
    Unknown,
    joined,
    key_of,
)

_PARAM_VALUES = frozenset("data grad shape dtype device is_leaf ndim T size".split())


# What libraries' modules show beside their parts; tried in turn, NotImplemented: not mine.
READERS: list[Callable[[Machine, Module, str], Any]] = []


def load(m: Machine, owner: Any, name: str, node: Any) -> Any:
    """`owner.name`."""
    if isinstance(owner, Library):
        return class_name(owner) if name == "__name__" else Library(f"{owner.name}.{name}")
    if isinstance(owner, Unknown):
        known = m.assumed.get(owner.key)
        if known is None:
            key = f"{owner.key}.{name}"
            return m.overrides.get(key, Unknown(key, (owner, name)))
        owner = known
    if isinstance(owner, Module):
        return _of_module(m, owner, name, node)
    if isinstance(owner, Param):
        return _of_param(m, owner, name)
    if isinstance(owner, Tensor):
        if name in ("data",):
            return owner.severed("data", m.site(node), copy="data")
        if name in ("loss", "logits", "last_hidden_state", "pooler_output", "T", "mT"):
            found = joined([owner], loss=name == "loss")
            found.needs = owner.needs
            return found
        if name in ("shape", "dtype", "device", "requires_grad", "ndim", "grad", "grad_fn"):
            return Unknown(f"{key_of(owner)}.{name}")
        return Method(owner, name)
    if isinstance(owner, Foreign):
        return owner.load(m, name, node)
    if isinstance(owner, Instance):
        return _of_instance(m, owner, name, node)
    if isinstance(owner, Super):
        return _of_super(m, owner, name)
    if isinstance(owner, Class):
        member = owner.name if name == "__name__" else owner.find(name)
        return Method(owner, name) if member is None else member
    if isinstance(owner, Scope):
        found = owner.names.get(name, MISSING)
        return Unknown(f"{owner.file.name}.{name}") if found is MISSING else found
    if isinstance(owner, Optimizer):
        if name == "param_groups":
            return ParamGroups(owner)
        if name in ("state", "defaults"):
            if name == "state":  # whatever is done with it
                m.event(program.ATTRIBUTE, node, owner, attribute=name)
            return Unknown(f"<optimizer {owner.id}>.{name}")
        return Method(owner, name)
    if isinstance(owner, Scheduler):
        return owner.optimizer if name == "optimizer" and owner.optimizer else Method(owner, name)
    if isinstance(owner, Group):
        return Method(owner, name)
    return Method(owner, name)


def _of_module(m: Machine, owner: Module, name: str, node: Any) -> Any:
    if name in owner.children:
        return owner.children[name]
    if name in owner.params:
        return owner.params[name]
    if name in owner.attributes:
        return owner.attributes[name]
    if owner.cls is not None:
        found = owner.cls.find(name)
        if found is not None:
            return _bound(m, owner, found, name, node)
    if name == "__class__":
        return class_of(owner)
    if name == "training":
        return owner.training if owner.training is not None else Unknown(f"{owner.id}.training")
    if name in owner.options and name not in assumed.MODULE_METHODS:
        return owner.options[name]
    if name in ("requires_grad", "grad"):
        return Unknown(f"<module {owner.id}>.{name}")
    if structure.is_folded(owner):
        structure.unfold(m, owner)
        if name in owner.children or name in owner.params:
            return owner.children.get(name, owner.params.get(name))
    if name in assumed.MODULE_METHODS:
        return Method(owner, name)
    for reader in READERS:
        value = reader(m, owner, name)
        if value is not NotImplemented:
            return value
    if owner.wrapper == "compile":
        return load(m, owner.children["_orig_mod"], name, node)
    if owner.open:
        return Unknown(f"<module {owner.id}>.{name}", (owner, name))
    if owner.type == "torch.nn.Linear" or owner.norm or not owner.cls:
        return Method(owner, name)
    return Unknown(f"<module {owner.id}>.{name}", (owner, name))


def class_of(owner: Module | Instance) -> Any:
    """`type(owner)`."""
    known = owner.attributes.get("__class__", owner.cls)
    if known is not None:
        return known
    kind = owner.type if isinstance(owner, Module) and not owner.name.startswith("<") else ""
    return Library(kind) if kind else Unknown(f"type({key_of(owner)})")


def class_name(owner: Library) -> Any:
    """`owner.__name__`, for a class and no function that builds a model."""
    last = owner.name.rpartition(".")[2]
    return last if last[:1].isupper() else Unknown(f"{owner.name}.__name__")


def _bound(m: Machine, owner: Any, found: Any, name: str, node: Any) -> Any:
    if not isinstance(found, Function):
        return found
    kinds = {ast.unparse(d) for d in found.decorators}
    if "staticmethod" in kinds:
        return found
    method = Method(owner, name, found)
    if kinds & {"property", "cached_property", "functools.cached_property"}:
        return calls.method(m, method, [], {}, node)
    return method


def _of_param(m: Machine, owner: Param, name: str) -> Any:
    if name == "requires_grad":
        held = owner.trainable
        return conditions.wrapped(
            ("is", f"param {owner.id} requires grad") if held is None else held
        )
    if name == "data":
        return Tensor(copy="data", cut="data", param=owner)
    if name in ("ndim", "shape"):
        size = structure.dimensions(m, owner)
        if size is not None:
            parts = tuple(Unknown(f"<param {owner.id}>.shape[{i}]") for i in range(size))
            return size if name == "ndim" else parts
    if name in _PARAM_VALUES:
        return Unknown(f"<param {owner.id}>.{name}")
    return Method(owner, name)


def _of_instance(m: Machine, owner: Instance, name: str, node: Any) -> Any:
    if name in owner.attributes:
        return owner.attributes[name]
    if owner.cls is not None:
        found = owner.cls.find(name)
        if found is not None:
            return _bound(m, owner, found, name, node)
    key = f"{owner.key or f'<{id(owner)}>'}.{name}"
    origin = (owner, name) if isinstance(owner, Object) else None
    return m.overrides.get(key, Unknown(key, origin))


def _of_super(m: Machine, owner: Super, name: str) -> Any:
    from freezecheck.source.conditions import is_constant  # noqa: F401

    cls = owner.owner.cls
    found = cls.find(name, owner.cls) if cls is not None else None
    if isinstance(found, Function):
        return Method(owner.owner, name, found)
    return Method(owner, name)


def dropped(m: Machine, node: ast.Call) -> None:
    """`p.data.requires_grad_(False)` as a statement: the tensor that it changes is gone."""
    event = m.world.events[-1] if m.world.events else None
    if event is None or event.kind != program.ATTRIBUTE or event.site != m.site(node):
        return
    if isinstance(node.func, ast.Attribute):
        event.data["passing"] = assignment.is_passing(node.func.value)


def statement(m: Machine, node: ast.expr, result: Any) -> None:
    """An expression statement that does nothing: `model.eval`, `p.requires_grad == False`."""
    if isinstance(node, ast.Attribute):
        if isinstance(result, Method) and isinstance(
            result.owner, (Module, Optimizer, Scheduler, Param, Tensor)
        ):
            m.event(program.STATEMENT, node, result.owner, value=result.name)
        elif isinstance(result, Unknown) and result.origin and node.attr in ("eval", "train"):
            m.event(program.STATEMENT, node, None, value=node.attr, owner=ast.unparse(node.value))
    elif isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute):
        m.event(program.STATEMENT, node, m.evaluate(node.left.value), value=ast.unparse(node))
