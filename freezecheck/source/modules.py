"""What the methods of modules do."""

from __future__ import annotations

from typing import Any

from freezecheck import program
from freezecheck.program import Module, Param
from freezecheck.source import (
    assignment,
    assumed,
    calls,
    conditions,
    iteration,
    making,
    patterns,
    structure,
    subscripts,
    tensors,
)
from freezecheck.source.calls import Call
from freezecheck.source.machine import Machine
from freezecheck.source.values import (
    STATE,
    Dict,
    Function,
    Iterator,
    Library,
    List,
    Super,
    Tensor,
    Unknown,
)


def method(m: Machine, owner: Any, name: str, given: Call) -> Any:
    """A method that nn.Module defines."""
    if isinstance(owner, Super) and isinstance(owner.owner, Module):
        owner = owner.owner
        if name == "__init__":
            making.fill_own(m, owner, given, owner.cls.libraries())
            if owner.open and not owner.rest:
                structure.open_up(m, owner)
            return None
        if name == "forward":
            return Tensor((owner,))
    elif isinstance(owner, Unknown) and (
        name in assumed.TELLING or (name in ("train", "eval") and _is_mode_call(given))
    ):
        owner = assumed.as_module(m, owner, given.node)
    if isinstance(owner, Module):
        function = _METHODS.get(name)
        if function is not None:
            return function(m, owner, given)
        if name in ("buffers", "named_buffers"):
            m.event(program.ATTRIBUTE, given.node, owner, attribute="buffers()")
        if name in assumed.MODULE_METHODS:
            return None
    if isinstance(owner, Param):
        return _of_param(m, owner, name, given)
    return NotImplemented


def _is_mode_call(given: Call) -> bool:
    values = given.all()
    return not values or (len(values) == 1 and isinstance(values[0], bool))


calls.METHODS.append(method)


def _parameters(m: Machine, owner: Module, given: Call) -> Any:
    if not given.get(0, "recurse", True):
        return Iterator(lambda: ([p for _, p in iteration.own(owner)], not m.loops))
    return Iterator(
        lambda: ([p for _, p in iteration.parameters(m, owner)], False)
    )  # an open module has a rest


def _named_parameters(m: Machine, owner: Module, given: Call) -> Any:
    patterns.record(m, owner, "named_parameters", given)
    prefix = given.get(0, "prefix", "")
    if not given.get(1, "recurse", True):
        return Iterator(lambda: (list(iteration.own(owner)), not m.loops))
    return Iterator(
        lambda: (
            list(iteration.parameters(m, owner, prefix if isinstance(prefix, str) else "")),
            False,
        )
    )


def _modules(m: Machine, owner: Module, given: Call) -> Any:
    return Iterator(lambda: ([x for _, x in iteration.modules(m, owner)], iteration.is_open(owner)))


def _named_modules(m: Machine, owner: Module, given: Call) -> Any:
    patterns.record(m, owner, "named_modules", given)
    return Iterator(lambda: (list(iteration.modules(m, owner)), iteration.is_open(owner)))


def _children(m: Machine, owner: Module, given: Call) -> Any:
    def make() -> tuple[list[Any], bool]:
        structure.unfold(m, owner)
        if owner.open and program.REST not in owner.children:
            structure.carve(m, owner, program.REST)
        return list(owner.children.values()), owner.open

    return Iterator(make)


def _named_children(m: Machine, owner: Module, given: Call) -> Any:
    patterns.record(m, owner, "named_children", given)

    def make() -> tuple[list[Any], bool]:
        structure.unfold(m, owner)
        found = [(n, c) for n, c in owner.children.items() if not n.startswith("<")]
        return found, owner.open

    return Iterator(make)


def _requires_grad(m: Machine, owner: Module, given: Call) -> Any:
    value = given.get(0, "requires_grad", True)
    m.write_flag(
        given.node, list(owner.parameters()), assignment.flag(m, value, given.node), via=owner
    )
    return owner


def _train(m: Machine, owner: Module, given: Call) -> Any:
    value = given.get(0, "mode", True)
    held = conditions.formula(value)
    _set_mode(m, owner, held if isinstance(held, bool) else None, given.node, owner)
    return owner


def _eval(m: Machine, owner: Module, given: Call) -> Any:
    turn(m, owner, False, given.node)
    return owner


def turn(m: Machine, owner: Module, value: bool, node: Any) -> None:
    """`owner.train(value)`, as `eval()` and frameworks call it: a class's own `train` is run."""
    if not _own_train(m, owner, value, node):
        _set_mode(m, owner, value, node, owner)


def _own_train(m: Machine, owner: Module, value: bool | None, node: Any) -> bool:
    """Run what takes the place of `nn.Module.train` in it, if anything does."""
    own = owner.cls.find("train") if owner.cls is not None else None
    put = owner.attributes.get("train")
    if isinstance(put, Function):
        calls.invoke(m, put, [value], {}, node)  # not bound: it was set on the object
    elif put is not None:
        m.write_mode(node, owner, None)
    elif isinstance(own, Function) and value is not None:
        calls.invoke(m, own, [owner, value], {}, node)
    else:
        return False
    return True


def _set_mode(m: Machine, owner: Module, value: bool | None, node: Any, called: Module) -> None:
    """The mode of a module and of all below; a child's own `train()` is run, as torch does."""
    event = m.write_mode(node, owner, value, deep=False)
    _spread(m, owner, value, node, event, called)


def _spread(
    m: Machine, owner: Module, value: bool | None, node: Any, event: Any, called: Module
) -> None:
    for child in list(owner.children.values()):
        if not _own_train(m, child, value, node):
            child.modes.append(event)
            _spread(m, child, value, node, event, called)


def _apply(m: Machine, owner: Module, given: Call) -> Any:
    function = given.get(0, "fn")
    if isinstance(function, (Function,)):
        found = [x for _, x in iteration.modules(m, owner)]
        iteration.each(m, found, lambda x: calls.call(m, function, Call(given.node, [x])))
    elif not isinstance(function, Library):
        calls.call(m, function, Call(given.node, [owner]))
    return owner


def _state_dict(m: Machine, owner: Module, given: Call) -> Any:
    return Dict({STATE: Tensor((owner,), cut="state_dict", copy="state_dict")}, open=True)


def _load_state_dict(m: Machine, owner: Module, given: Call) -> Any:
    state = given.get(0, "state_dict")
    strict, assign = given.get(1, "strict", True), given.get(2, "assign", False)
    misses = strict is False and _names_differ(owner, state)
    m.event(
        program.LOAD, given.node, owner,
        value="model", strict=strict, assign=assign, state=state, misses=misses,
    )  # fmt: skip
    for each in () if misses else owner.walk():
        each.pretrained = True
    return Unknown(m.spot(given.node))


def _names_differ(owner: Module, state: Any) -> bool:
    """The state is that of a model which is wrapped otherwise, so that no name is the same."""
    held = state.items.get(STATE) if isinstance(state, Dict) and len(state.items) == 1 else None
    return isinstance(held, Tensor) and bool(held.through[0].wrapper) != bool(owner.wrapper)


def _zero_grad(m: Machine, owner: Module, given: Call) -> Any:
    m.event(program.ZERO_GRAD, given.node, owner, value=given.get(0, "set_to_none", True))


def _same(m: Machine, owner: Module, given: Call) -> Any:
    return owner


def _to(m: Machine, owner: Module, given: Call) -> Any:
    if any(isinstance(a, str) and a == "meta" for a in given.all()):
        m.event(program.ATTRIBUTE, given.node, owner, value="meta", attribute="to")
    return owner


def _add_module(m: Machine, owner: Module, given: Call) -> Any:
    name, value = given.get(0, "name"), given.get(1, "module")
    if isinstance(name, str) and isinstance(value, (Module, Unknown)):
        child = assumed.as_module(m, value, given.node)
        if child is not None:
            structure.unfold(m, owner)
            assignment.put(m, given.node, owner, name, child)
    else:
        owner.open = True
        m.new_param(owner, "", norm=None)
        if isinstance(value, Module):  # somewhere in it
            value.parent, value.name = owner, f"<{value.id}>"


def _append(m: Machine, owner: Module, given: Call) -> Any:
    making.attach(m, owner, str(len(owner.children)), given.get(0), given)
    return owner


def _extend(m: Machine, owner: Module, given: Call) -> Any:
    found, complete = iteration.items(m, given.get(0), given.node)
    for value in found:
        making.attach(m, owner, str(len(owner.children)), value, given)
    if not complete and not owner.open:
        structure.open_up(m, owner)
    return owner


def _get_submodule(m: Machine, owner: Module, given: Call) -> Any:
    path = given.get(0)
    found: Any = owner
    for part in path.split(".") if isinstance(path, str) and path else ():
        found = subscripts.load_item(m, found, part, given.node)
    return found if isinstance(path, str) else Unknown(m.spot(given.node))


def _register_parameter(m: Machine, owner: Module, given: Call) -> Any:
    name = given.get(0, "name")
    if isinstance(name, str):
        assignment.set_on_module(m, given.node, owner, name, given.get(1, "param"))


def _items(m: Machine, owner: Module, given: Call) -> Any:
    structure.unfold(m, owner)
    return List([(k, v) for k, v in owner.children.items()], owner.open)


def _values(m: Machine, owner: Module, given: Call) -> Any:
    structure.unfold(m, owner)
    return List(owner.children.values(), owner.open)


def _from_pretrained(m: Machine, owner: Module, given: Call) -> Any:
    """The class's method, called on one of its objects."""
    if owner.type not in ("torch.nn.Embedding", "torch.nn.EmbeddingBag"):
        return NotImplemented
    return calls.library(m, f"{owner.type}.from_pretrained", given)


def _forward(m: Machine, owner: Module, given: Call) -> Any:
    return calls.call(m, owner, given)


_METHODS = {
    "parameters": _parameters,
    "named_parameters": _named_parameters,
    "modules": _modules,
    "named_modules": _named_modules,
    "children": _children,
    "named_children": _named_children,
    "requires_grad_": _requires_grad,
    "train": _train,
    "eval": _eval,
    "apply": _apply,
    "state_dict": _state_dict,
    "load_state_dict": _load_state_dict,
    "zero_grad": _zero_grad,
    "cuda": _same, "cpu": _same, "half": _same, "float": _same, "double": _same, "bfloat16": _same,
    "type": _same, "share_memory": _same, "to_empty": _same,
    "to": _to,
    "compile": lambda m, owner, given: None,
    "add_module": _add_module,
    "register_module": _add_module,
    "append": _append,
    "extend": _extend,
    "get_submodule": _get_submodule,
    "register_parameter": _register_parameter,
    "items": _items,
    "values": _values,
    "forward": _forward,
    "from_pretrained": _from_pretrained,
}  # fmt: skip


def _of_param(m: Machine, owner: Param, name: str, given: Call) -> Any:
    if name == "requires_grad_":
        value = given.get(0, "requires_grad", True)
        m.write_flag(given.node, [owner], assignment.flag(m, value, given.node))
        return owner
    if name == "detach":
        return Tensor(cut="detach", copy="detach", param=owner)
    if name in tensors.IN_PLACE:
        m.event(program.ATTRIBUTE, given.node, owner, (owner,), attribute=f"{name}()")
    if name == "copy_":
        assignment.filled(owner)
    if name in ("cuda", "to", "half", "float", "clone"):
        return Tensor(copy=name, param=owner)
    if name in ("dim", "ndimension"):
        size = structure.dimensions(m, owner)
        if size is not None:
            return size
    return Unknown(m.spot(given.node))
