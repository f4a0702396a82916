"""Setting attributes: flags, children and parameters of modules, and what nothing reads."""

from __future__ import annotations

import ast
from typing import Any

from freezecheck import program
from freezecheck.finding import Site
from freezecheck.program import Module, Optimizer, Param, Scheduler
from freezecheck.source import (
    assumed,
    conditions,
    structure,
)
from freezecheck.source.machine import Machine
from freezecheck.source.values import (
    Class,
    Dict,
    Foreign,
    Function,
    Instance,
    Library,
    List,
    Method,
    Tensor,
    Unknown,
    is_constant,
)


def label(value: Any, name: str) -> None:
    """A module, an optimizer or a scheduler is called after the first name that it gets."""
    if isinstance(value, Foreign):
        value.named(name)
    root = isinstance(value, Module) and value.parent is None
    if (root or isinstance(value, (Optimizer, Scheduler))) and not value.label:
        value.label = name


def store(m: Machine, target: ast.Attribute, owner: Any, name: str, value: Any) -> None:
    """`owner.name = value`."""
    if isinstance(owner, Unknown) and (
        owner.key in m.assumed
        or (isinstance(value, Module) and name not in ("model", "net", "module"))
    ):
        owner = assumed.as_module(m, owner, target)
    if isinstance(owner, Foreign):
        owner.store(m, target, name, value)
    elif isinstance(owner, Param):
        _set_on_param(m, target, owner, name, value)
    elif isinstance(owner, Module):
        set_on_module(m, target, owner, name, value)
    elif isinstance(owner, Instance):
        label(value, f"self.{name}" if ast.unparse(target.value) == "self" else name)
        hides = hiding(m, owner, name, value)
        owner.attributes[name] = value
        if not isinstance(value, (Module, Optimizer, Scheduler)):
            m.event(program.ATTRIBUTE, target, owner, value=value, attribute=name, **hides)
    elif isinstance(owner, Unknown):
        label(value, name)
        m.overrides[f"{owner.key}.{name}"] = value
        on = ast.unparse(target.value)
        m.event(program.ATTRIBUTE, target, owner, value=value, attribute=name, on=on)
    elif isinstance(owner, Class):
        owner.members[name] = value
    elif isinstance(owner, (Tensor, Method, Library, Optimizer, Scheduler)):
        if isinstance(owner, Tensor) and name == "requires_grad":
            owner.needs, owner.cut = (value if isinstance(value, bool) else None), ""
        event = m.event(program.ATTRIBUTE, target, owner, value=value, attribute=name)
        if isinstance(owner, Tensor):
            event.data.update(passing=is_passing(target.value), before=owner.needs)


def hiding(m: Machine, owner: Any, name: str, value: Any) -> dict[str, Any]:
    """The method of its class that an attribute hides, as data of the event: where it is
    defined (`hides`), and whether the value is one that cannot be called (`plain`)."""
    method = owner.cls.find(name) if owner.cls is not None else None
    plain = is_constant(value) or isinstance(value, (List, Dict, tuple))
    if not isinstance(method, Function) or method.decorators or not (plain or _may_be(value)):
        return {}
    if id(method.node) in m.reached:  # it has done its work: `self.size = self.size(data)`
        return {}
    path = method.scope.file.path
    return {"hides": Site(path, method.node.lineno), "plain": plain and value is not None}


def _may_be(value: Any) -> bool:
    return isinstance(value, (Unknown, conditions.Condition))


def is_passing(node: ast.expr) -> bool:
    """The expression makes a tensor that nothing else holds: `p.data`, `p.detach()`,
    `model.state_dict()["fc.bias"]`."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return isinstance(node, ast.Call) or (isinstance(node, ast.Attribute) and node.attr == "data")


def flag(m: Machine, value: Any, node: Any) -> bool | None:
    """A value as `requires_grad`: decided where it hangs on a condition."""
    held = conditions.formula(value)
    return held if isinstance(held, bool) else m.decide(held, node)


def _set_on_param(m: Machine, target: ast.Attribute, param: Param, name: str, value: Any) -> None:
    if name == "requires_grad":
        m.write_flag(target, [param], flag(m, value, target))
        return
    if name == "data":
        filled(param)
    m.event(program.ATTRIBUTE, target, param, (param,), value=value, attribute=name)


def filled(param: Param) -> None:
    """Its values come from somewhere: its module is no longer as it was drawn."""
    if param.module is not None and param.module.pretrained is False:
        param.module.pretrained = None


def set_on_module(m: Machine, target: Any, owner: Module, name: str, value: Any) -> None:
    """`module.name = value`: a child, a parameter, or a plain attribute."""
    from freezecheck.source.making import parameter_of

    structure.unfold(m, owner)
    if isinstance(value, Module):
        put(m, target, owner, name, value)
        return
    if isinstance(value, Unknown) and name in owner.children:
        made = assumed.as_module(m, value, target)
        if made is not None:
            put(m, target, owner, name, made)
        return
    old = owner.params.get(name)
    param = parameter_of(m, value, owner, name)
    if param is not None:
        owner.params[name] = param
        m.event(program.ATTRIBUTE, target, owner, (param,), attribute=name, old=old)
        return
    if value is None and name in owner.children:
        _detach(m, target, owner, name, None)
        return
    if isinstance(value, Unknown) and value.key in m.assumed:
        put(m, target, owner, name, m.assumed[value.key])
        return
    if name == "training":
        m.write_mode(target, owner, value if isinstance(value, bool) else None, deep=False)
        return
    own = owner.cls is not None and ast.unparse(getattr(target, "value", target)) == "self"
    before = owner.attributes.get(name, owner.options.get(name))
    owner.attributes[name] = value
    m.event(
        program.ATTRIBUTE, target, owner, value=value, attribute=name, own=own, before=before,
        **hiding(m, owner, name, value),
    )  # fmt: skip


def put(m: Machine, target: Any, owner: Module, name: str, value: Module) -> None:
    """Make `value` the child `name`, in the place of what was there."""
    old = owner.children.get(name)
    if old is value or any(each is owner for each in value.walk()):  # a ring: no run gets past it
        return
    inherited = owner.open and old is None and owner.cls is None
    if inherited:
        old = structure.carve(m, owner, name)
    event = m.event(
        program.REPLACE, target, owner, name=name, old=old, new=value, building=bool(m.building)
    )
    if old is not None:
        _leave(old, value, event)
    owner.children[name] = value
    library = owner.cls is None and not owner.open
    value.added = (
        library and old is None and owner.type.startswith(("torchvision.models.", "timm."))
    )
    if value is not owner.root:
        value.parent, value.name, value.detached = owner, name, None
        _settle(value, owner.root)


def _settle(module: Module, root: Module) -> None:
    """Parts of another model that come along in a container are this model's from now on."""
    for each in module.walk():
        for name, child in each.children.items():
            if child.parent is not each and child.root is not root:
                child.parent, child.name = each, name


def _leave(old: Module, new: Module, event: Any) -> None:
    """`old` gives way to `new`, of which it may become a part."""
    for each in new.walk():
        for name, child in each.children.items():
            if child is old:
                old.parent, old.name = each, name
                return
    old.detached = event


def _detach(m: Machine, target: Any, owner: Module, name: str, new: Module | None) -> None:
    old = owner.children.pop(name)
    old.detached = m.event(program.REPLACE, target, owner, name=name, old=old, new=new)


def delete(m: Machine, owner: Any, name: str) -> None:
    """`del owner.name`."""
    if isinstance(owner, Module) and name in owner.children:
        owner.children.pop(name).detached = m.world.events[-1] if m.world.events else None
    elif isinstance(owner, (Instance, Module)):
        owner.attributes.pop(name, None)
