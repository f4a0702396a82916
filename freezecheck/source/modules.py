"""Modules: making them, and what their methods do."""

from __future__ import annotations

from typing import Any

from freezecheck import program
from freezecheck.program import Module, Param
from freezecheck.source import attributes, calls, conditions, iteration, structure
from freezecheck.source.calls import Call, effect
from freezecheck.source.knowledge import layers
from freezecheck.source.machine import Machine
from freezecheck.source.values import (
    Class,
    Dict,
    Function,
    Iterator,
    Library,
    List,
    Super,
    Tensor,
    Unknown,
    is_constant,
)

BASES = frozenset(
    "torch.nn.Module torch.nn.modules.module.Module torch.nn.Sequential torch.nn.ModuleList"
    " torch.nn.ModuleDict transformers.PreTrainedModel lightning.LightningModule"
    " pytorch_lightning.LightningModule lightning.pytorch.LightningModule"
    " pytorch_lightning.core.LightningModule lightning.pytorch.core.LightningModule".split()
)
_CONTAINERS = ("torch.nn.Sequential", "torch.nn.ModuleList", "torch.nn.ModuleDict")


def is_module_class(cls: Class) -> bool:
    """A class of the file's own makes modules."""
    names = cls.libraries()
    if any(name in BASES or layers.find(name) for name in names):
        return True
    if any(
        name.rpartition(".")[2] in ("Module", "LightningModule", "PreTrainedModel")
        for name in names
    ):
        return True
    forward = isinstance(cls.find("forward"), Function)
    return forward and bool(
        names or any(not isinstance(b, Class) for c in cls.mro() for b in c.bases)
    )


def make_own(m: Machine, cls: Class, given: Call) -> Any:
    """A module of one of the file's own classes: its `__init__` is run."""
    if not is_module_class(cls):
        return NotImplemented
    made = m.new_module(f"{m.scope.file.name}.{cls.name}", given.node)
    made.cls = cls
    made.pretrained = False
    known = all(
        name in BASES or name.rpartition(".")[2] in ("Module", "LightningModule")
        for name in cls.libraries()
    )
    if not known or any(isinstance(b, Unknown) for c in cls.mro() for b in c.bases):
        structure.open_up(m, made)
    start = cls.find("__init__")
    if isinstance(start, Function):
        calls.invoke(m, start, [made, *given.args], given.keywords, given.node, given.open)
    else:
        _fill(m, made, given, cls.libraries())
    for base in cls.libraries():
        if base in _CONTAINERS:
            made.options.setdefault("container", base)
    return made


calls.MAKERS.append(make_own)


def _fill(m: Machine, made: Module, given: Call, bases: list[str]) -> None:
    """What the constructor of a container among the bases does."""
    if any(base in _CONTAINERS for base in bases):
        fill(m, made, given)


def fill(m: Machine, made: Module, given: Call) -> None:
    """`nn.Sequential(...)`, `nn.ModuleList([...])`: children from arguments."""
    found: list[Any] = given.args
    open = given.open
    if len(found) == 1 and isinstance(found[0], Dict):
        for name, value in found[0].items.items():
            _child(m, made, str(name), value, given)
        if found[0].open:
            structure.open_up(m, made)
        return
    if len(found) == 1 and not isinstance(found[0], (Module, Unknown)):
        found, complete = iteration.items(m, found[0], given.node)
        open = open or not complete
    for index, value in enumerate(found):
        _child(m, made, str(index), value, given)
    if open:
        structure.open_up(m, made)


def _child(m: Machine, made: Module, name: str, value: Any, given: Call) -> None:
    child = attributes.as_module(m, value, given.node)
    if child is None:
        child = m.new_module("", given.node)
        structure.open_up(m, child)
    made.children[name] = child
    if child.parent is None or child.detached:
        child.parent, child.name, child.detached = made, name, None


def of_library(m: Machine, name: str, given: Call) -> Any:
    """A layer of torch.nn or of another library that is known."""
    layer = layers.find(name)
    if layer is None:
        if name.startswith("torch.nn.") and name.count(".") == 2 and name[9:10].isupper():
            made = m.new_module(name, given.node)  # an activation, a loss, a pooling
            made.pretrained = False
            return made
        return NotImplemented
    made = m.new_module(layer.type, given.node)
    made.pretrained = False
    if layer.container:
        fill(m, made, given)
        return made
    plain = [a if is_constant(a) else None for a in given.args]
    named = {k: v if is_constant(v) else None for k, v in given.keywords.items()}
    node = None if given.open else layer.node(plain, named)
    if node is None:
        structure.open_up(m, made, batchnorm=False)
    else:
        structure.grow(m, made, node)
        made.architecture = node if made.rest else None
        made.options.update(node.options)
    if layer.arguments is not None:
        bound = layer.arguments.bind(given.args, given.keywords) or {}
        made.options = {
            **{k: v for k, v in layer.arguments.defaults.items() if v is not None},
            **made.options,
        }
        made.options.update((k, v) for k, v in bound.items() if is_constant(v) and v is not None)
        for argument, child in layer.given.items():
            if isinstance(bound.get(argument), Module):
                _child(m, made, child, bound[argument], given)
        if layer.copies and not made.rest:
            structure.open_up(m, made, batchnorm=False)
    return made


def built(m: Machine, name: str, given: Call) -> Any:
    """A model from a builder whose architecture is known: torchvision, timm."""
    from freezecheck.source.knowledge import builders

    found = builders.find(name, given)
    if found is None:
        return NotImplemented
    made = m.new_module(found.name, given.node)
    made.pretrained = found.pretrained
    if found.node is None:
        structure.open_up(m, made)
    else:
        structure.grow(m, made, found.node)
    made.options.update(found.options)
    return made


calls.PATTERNS += [of_library, built]


def is_kind(m: Machine, module: Module, kind: Any) -> bool | None:
    """Whether a module is of a class; None if not known."""
    if isinstance(kind, Class):
        if module.cls is not None:
            return kind in module.cls.mro()
        return None if not module.type else False
    if not isinstance(kind, Library):
        return None
    wanted = layers.canonical(kind.name)
    short = wanted.rpartition(".")[2]
    if short == "Module":
        return True
    if module.cls is not None:
        return wanted in module.cls.libraries()
    own = module.type
    if module.wrapper:
        return short == module.wrapper
    if module.norm == "batch" and short in ("_BatchNorm", "_NormBase"):
        return True
    if own == wanted:
        return True
    if not own:
        known = layers.find(wanted)
        return False if known is not None and not known.container else None
    return False


@effect("torch.nn.Parameter", "torch.nn.parameter.Parameter")
def parameter(m: Machine, given: Call) -> Any:
    value = given.get(0, "data")
    flag = given.get(1, "requires_grad", True)
    if isinstance(value, Param) or (isinstance(value, Tensor) and value.param is not None):
        source = value if isinstance(value, Param) else value.param
        m.event(program.ATTRIBUTE, given.node, source, (source,), value=flag, attribute="Parameter")
    holder = Param(0, None, "")  # type: ignore[arg-type]
    holder.trainable = flag if isinstance(flag, bool) else None
    return Tensor(made="parameter", param=holder)


# Methods of modules


def method(m: Machine, owner: Any, name: str, given: Call) -> Any:
    """A method that nn.Module defines."""
    if isinstance(owner, Super) and isinstance(owner.owner, Module):
        owner = owner.owner
        if name == "__init__":
            _fill(m, owner, given, owner.cls.libraries())
            if owner.open and not owner.rest:
                structure.open_up(m, owner)
            return None
        if name == "forward":
            return Tensor((owner,))
    elif isinstance(owner, Unknown) and (
        name in attributes.TELLING or (name in ("train", "eval") and _is_mode_call(given))
    ):
        owner = attributes.as_module(m, owner, given.node)
    if isinstance(owner, Module):
        function = _METHODS.get(name)
        if function is not None:
            return function(m, owner, given)
        if name in attributes.MODULE_METHODS:
            return None
    if isinstance(owner, Param):
        return _of_param(m, owner, name, given)
    return NotImplemented


def _is_mode_call(given: Call) -> bool:
    values = given.all()
    return not values or (len(values) == 1 and isinstance(values[0], bool))


calls.METHODS.append(method)


def _parameters(m: Machine, owner: Module, given: Call) -> Any:
    return Iterator(lambda: ([p for _, p in iteration.parameters(m, owner)], _unlisted(owner)))


def _named_parameters(m: Machine, owner: Module, given: Call) -> Any:
    prefix = given.get(0, "prefix", "")
    return Iterator(
        lambda: (
            list(iteration.parameters(m, owner, prefix if isinstance(prefix, str) else "")),
            _unlisted(owner),
        )
    )


def _unlisted(owner: Module) -> bool:
    """Its parameters are not all accounted for: never so, since an open module has a rest."""
    return False


def _modules(m: Machine, owner: Module, given: Call) -> Any:
    return Iterator(lambda: ([x for _, x in iteration.modules(m, owner)], iteration.is_open(owner)))


def _named_modules(m: Machine, owner: Module, given: Call) -> Any:
    return Iterator(lambda: (list(iteration.modules(m, owner)), iteration.is_open(owner)))


def _children(m: Machine, owner: Module, given: Call) -> Any:
    def make() -> tuple[list[Any], bool]:
        structure.unfold(m, owner)
        if owner.open and "<rest>" not in owner.children:
            structure.carve(m, owner, "<rest>")
        return list(owner.children.values()), owner.open

    return Iterator(make)


def _named_children(m: Machine, owner: Module, given: Call) -> Any:
    def make() -> tuple[list[Any], bool]:
        structure.unfold(m, owner)
        found = [(n, c) for n, c in owner.children.items() if not n.startswith("<")]
        return found, owner.open

    return Iterator(make)


def _requires_grad(m: Machine, owner: Module, given: Call) -> Any:
    value = given.get(0, "requires_grad", True)
    m.write_flag(
        given.node, list(owner.parameters()), attributes.flag(m, value, given.node), via=owner
    )
    return owner


def _train(m: Machine, owner: Module, given: Call) -> Any:
    value = given.get(0, "mode", True)
    held = conditions.formula(value)
    _set_mode(m, owner, held if isinstance(held, bool) else None, given.node, owner)
    return owner


def _eval(m: Machine, owner: Module, given: Call) -> Any:
    _set_mode(m, owner, False, given.node, owner)
    return owner


def _set_mode(m: Machine, owner: Module, value: bool | None, node: Any, called: Module) -> None:
    """The mode of a module and of all below; a child's own `train()` is run, as torch does."""
    event = m.write_mode(node, owner, value, deep=False)
    _spread(m, owner, value, node, event, called)


def _spread(
    m: Machine, owner: Module, value: bool | None, node: Any, event: Any, called: Module
) -> None:
    for child in list(owner.children.values()):
        own = child.cls.find("train") if child.cls is not None else None
        shadow = child.attributes.get("train")
        if isinstance(own, Function) and value is not None:
            calls.invoke(m, own, [child, value], {}, node)
        elif isinstance(shadow, Function):
            calls.invoke(m, shadow, [child, value], {}, node)
        elif shadow is None:
            child.training = value
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
    return Dict({"<state>": Tensor(cut="state_dict", copy="state_dict")}, open=True)


def _load_state_dict(m: Machine, owner: Module, given: Call) -> Any:
    state = given.get(0, "state_dict")
    m.event(
        program.LOAD, given.node, owner,
        value="model", strict=given.get(1, "strict", True), assign=given.get(2, "assign", False), state=state,
    )  # fmt: skip
    for each in owner.walk():
        each.pretrained = True
    return Unknown(m.spot(given.node))


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
        child = attributes.as_module(m, value, given.node)
        if child is not None:
            structure.unfold(m, owner)
            attributes.put(m, given.node, owner, name, child)
    else:
        owner.open = True
        m.new_param(owner, "", norm=None)


def _append(m: Machine, owner: Module, given: Call) -> Any:
    _child(m, owner, str(len(owner.children)), given.get(0), given)
    return owner


def _extend(m: Machine, owner: Module, given: Call) -> Any:
    found, complete = iteration.items(m, given.get(0), given.node)
    for value in found:
        _child(m, owner, str(len(owner.children)), value, given)
    if not complete and not owner.open:
        structure.open_up(m, owner)
    return owner


def _get_submodule(m: Machine, owner: Module, given: Call) -> Any:
    path = given.get(0)
    found: Any = owner
    for part in path.split(".") if isinstance(path, str) and path else ():
        found = attributes.load_item(m, found, part, given.node)
    return found if isinstance(path, str) else Unknown(m.spot(given.node))


def _register_parameter(m: Machine, owner: Module, given: Call) -> Any:
    name = given.get(0, "name")
    if isinstance(name, str):
        attributes.set_on_module(m, given.node, owner, name, given.get(1, "param"))


def _items(m: Machine, owner: Module, given: Call) -> Any:
    structure.unfold(m, owner)
    return List([(k, v) for k, v in owner.children.items()], owner.open)


def _values(m: Machine, owner: Module, given: Call) -> Any:
    structure.unfold(m, owner)
    return List(owner.children.values(), owner.open)


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
}  # fmt: skip


def _of_param(m: Machine, owner: Param, name: str, given: Call) -> Any:
    if name == "requires_grad_":
        value = given.get(0, "requires_grad", True)
        m.write_flag(given.node, [owner], attributes.flag(m, value, given.node))
        return owner
    if name == "detach":
        return Tensor(cut="detach", copy="detach", param=owner)
    if name in ("cuda", "to", "half", "float", "clone"):
        return Tensor(copy=name, param=owner)
    return Unknown(m.spot(given.node))
