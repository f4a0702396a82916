"""Making modules: of the file's own classes, of layers, by builders."""

from __future__ import annotations

from typing import Any

from freezecheck import program
from freezecheck.program import Module, Param
from freezecheck.source import assumed, calls, iteration, structure
from freezecheck.source.calls import Call, effect
from freezecheck.source.knowledge import layers
from freezecheck.source.machine import Machine
from freezecheck.source.values import (
    Class,
    Dict,
    Function,
    Library,
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
        with m.build():
            calls.invoke(m, start, [made, *given.args], given.keywords, given.node, given.open)
    else:
        fill_own(m, made, given, cls.libraries())
    for base in cls.libraries():
        if base in _CONTAINERS:
            made.options.setdefault("container", base)
    return made


calls.MAKERS.append(make_own)


def fill_own(m: Machine, made: Module, given: Call, bases: list[str]) -> None:
    """What the constructor of a container among the bases does."""
    if any(base in _CONTAINERS for base in bases):
        fill(m, made, given)


def fill(m: Machine, made: Module, given: Call) -> None:
    """`nn.Sequential(...)`, `nn.ModuleList([...])`: children from arguments."""
    found: list[Any] = given.args
    open = given.open
    if len(found) == 1 and isinstance(found[0], Dict):
        for name, value in found[0].items.items():
            attach(m, made, str(name), value, given)
        if found[0].open:
            structure.open_up(m, made)
        return
    if len(found) == 1 and not isinstance(found[0], (Module, Unknown)):
        found, complete = iteration.items(m, found[0], given.node)
        open = open or not complete
    for index, value in enumerate(found):
        attach(m, made, str(index), value, given)
    if open:
        structure.open_up(m, made)


def attach(m: Machine, made: Module, name: str, value: Any, given: Call) -> None:
    """Make a value the child `name` of a module that is being made."""
    child = assumed.as_module(m, value, given.node)
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
                attach(m, made, child, bound[argument], given)
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
        made.attributes["__class__"] = Library(found.node.type)
    made.options.update(found.options)
    if found.pretrained and found.options.get("num_classes", 1000) not in (0, 1000):
        _renew_head(m, made)
    return made


def _renew_head(m: Machine, made: Module) -> None:
    """With another number of classes timm loads everything but the head."""
    from freezecheck.source.knowledge import architectures

    for path in architectures.head(made.type) if made.type.startswith("timm.") else ():
        part: Module | None = made
        for name in path.split("."):
            if part is not None:
                structure.unfold(m, part)
                part = part.children.get(name)
        if part is not None:
            part.pretrained = False


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


@effect("torch.nn.Embedding.from_pretrained", "torch.nn.EmbeddingBag.from_pretrained")
def pretrained_embedding(m: Machine, given: Call) -> Any:
    """An embedding with given values: frozen, unless told not to be."""
    made = m.new_module("torch.nn.Embedding", given.node)
    made.pretrained = True
    flag = given.get(1, "freeze", True)
    said = given.open or len(given.args) > 1 or "freeze" in given.keywords
    m.event(program.ATTRIBUTE, given.node, made, attribute="from_pretrained", said=said)
    weight = m.new_param(made, "weight")
    weight.born = weight.trainable = not flag if isinstance(flag, bool) and not given.open else None
    return made


@effect("torch.nn.Parameter", "torch.nn.parameter.Parameter")
def parameter(m: Machine, given: Call) -> Any:
    value = given.get(0, "data")
    flag = given.get(1, "requires_grad", True)
    source = value.param if isinstance(value, Tensor) else value
    if isinstance(source, Param):
        m.event(program.ATTRIBUTE, given.node, source, (source,), value=flag, attribute="Parameter")
    holder = Param(0, None, "")  # type: ignore[arg-type]
    holder.trainable = flag if isinstance(flag, bool) else None
    return Tensor(made="parameter", param=holder)


def parameter_of(m: Machine, value: Any, owner: Module, name: str) -> Param | None:
    """The parameter that a value is, once it is set on a module."""
    if isinstance(value, Tensor) and value.made == "parameter":
        param = m.new_param(owner, name)
        param.born = param.trainable = value.param.trainable if value.param is not None else True
        return param
    return value if isinstance(value, Param) and value.name else None
