"""Reading and setting attributes and items."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from freezecheck import program
from freezecheck.finding import Site
from freezecheck.program import Group, Module, Optimizer, Param, Scheduler
from freezecheck.source import calls, conditions, iteration, structure
from freezecheck.source.machine import Machine
from freezecheck.source.scope import MISSING, Scope
from freezecheck.source.values import (
    STATE,
    Class,
    Dict,
    Foreign,
    Function,
    Instance,
    Iterator,
    Library,
    List,
    Method,
    Object,
    ParamGroups,
    Super,
    Tensor,
    Unknown,
    is_constant,
    joined,
    key_of,
    taken,
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
_PARAM_VALUES = frozenset("data grad shape dtype device is_leaf ndim T size".split())
_COPIES = frozenset("data".split())


# What libraries' modules show beside their parts; tried in turn, NotImplemented: not mine.
READERS: list[Callable[[Machine, Module, str], Any]] = []


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
    if name in owner.options and name not in MODULE_METHODS:
        return owner.options[name]
    if name in ("requires_grad", "grad"):
        return Unknown(f"<module {owner.id}>.{name}")
    if structure.is_folded(owner):
        structure.unfold(m, owner)
        if name in owner.children or name in owner.params:
            return owner.children.get(name, owner.params.get(name))
    if name in MODULE_METHODS:
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
        owner = as_module(m, owner, target)
    if isinstance(owner, Foreign):
        owner.store(m, target, name, value)
    elif isinstance(owner, Param):
        _set_on_param(m, target, owner, name, value)
    elif isinstance(owner, Module):
        set_on_module(m, target, owner, name, value)
    elif isinstance(owner, Instance):
        label(value, f"self.{name}" if ast.unparse(target.value) == "self" else name)
        hides = hiding(owner, name, value)
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


def hiding(owner: Any, name: str, value: Any) -> dict[str, Any]:
    """The method of its class that an attribute hides, as data of the event: where it is
    defined (`hides`), and whether the value is one that cannot be called (`plain`)."""
    method = owner.cls.find(name) if owner.cls is not None else None
    plain = is_constant(value) or isinstance(value, (List, Dict, tuple))
    if not isinstance(method, Function) or method.decorators or not (plain or _may_be(value)):
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
        made = as_module(m, value, target)
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
        **hiding(owner, name, value),
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
            return load(m, owner, str(index), node)
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
            put(m, target, owner, str(index), value)
    elif isinstance(owner, (Param, Tensor)):
        param = owner if isinstance(owner, Param) else owner.param
        if param is not None:
            filled(param)
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
            known = as_module(m, owner, target)
            if known is not None:
                put(m, target, known, str(index), value)


def dropped(m: Machine, node: ast.Call) -> None:
    """`p.data.requires_grad_(False)` as a statement: the tensor that it changes is gone."""
    event = m.world.events[-1] if m.world.events else None
    if event is None or event.kind != program.ATTRIBUTE or event.site != m.site(node):
        return
    if isinstance(node.func, ast.Attribute):
        event.data["passing"] = is_passing(node.func.value)


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


__all__ = ["Iterator", "Super", "as_module", "label", "load", "store"]
