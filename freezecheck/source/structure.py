"""The tree of a model: grown where the program looks at it, taken apart where it tells
parameters apart.

A module of a library's architecture starts as one `rest` of all its parameters, and is
unfolded level by level (`unfold`). A module of which nothing is known is `open`: a child
that is asked for is carved out of its rest (`carve`), and a test on names cuts the
rest in two (`cut`). What was done to the whole before was done to each part.
"""

from __future__ import annotations

from typing import Any

from freezecheck import pattern
from freezecheck.program import NORMS, Module, Param
from freezecheck.source.machine import Machine, Split


def grow(m: Machine, module: Module, node: Any) -> None:
    """Give a module the tree of a library's architecture (`knowledge.architectures.Node`)."""
    module.architecture = node
    module.norm = node.norm
    module.batchnorm = "batch" in node.has_norm and node.norm is None
    module.stochastic = node.has_dropout
    if node.open and not node.children and not node.params:
        _open_as(m, module, node)
    elif node.open or (node.tensors and (node.children or not node.params)):
        m.new_param(module, "", norm=None if node.has_norm else False)
    else:
        _own(m, module, node)


def _own(m: Machine, module: Module, node: Any) -> None:
    for name in node.params:
        param = m.new_param(module, name, norm=node.norm is not None)
        param.born = param.trainable = name not in node.frozen


def _open_as(m: Machine, module: Module, node: Any) -> None:
    """It has more parts than its architecture lists."""
    module.architecture = None
    open_up(m, module, "batch" in node.unlisted)
    module.stochastic = "dropout" in node.unlisted
    module.rest[-1].norm = None if node.has_norm else False


def is_folded(module: Module) -> bool:
    """Its architecture is known, and its parts are not listed yet."""
    return bool(module.architecture is not None and not module.open and module.rest)


def unfold(m: Machine, module: Module) -> None:
    """List the children and the own parameters of a folded module."""
    node, rest = module.architecture, module.rest
    if not is_folded(module):
        return
    module.rest, module.architecture = [], None
    module.batchnorm = module.stochastic = False
    _own(m, module, node)
    for name, part in node.children.items():
        child = adopt(m, module, name, part.type)
        child.born, child.modes = module.born, list(module.modes)
        child.pretrained = module.pretrained
        grow(m, child, part)
        if part.options:
            child.options = dict(part.options)
    if node.open:
        _open_as(m, module, node)
    (whole,) = rest
    whole.parts = tuple(module.parameters())
    for param in whole.parts:
        _inherit(param, whole)


def dimensions(m: Machine, param: Param) -> int | None:
    """How many dimensions a parameter has, as far as its layer tells."""
    module = param.module
    if not param.one:
        if is_folded(module):
            unfold(m, module)
            raise Split(param)
        return None
    if module.norm is not None or (param.name == "bias" and module.type.startswith("torch.nn.")):
        return 1
    if param.name != "weight":
        return None
    kind = module.builder
    if kind.startswith("Conv") and kind.endswith(("1d", "2d", "3d")):
        return 2 + int(kind[-2])
    return 2 if kind in ("Linear", "Embedding") else None


def unfold_all(m: Machine, module: Module) -> None:
    """List everything below."""
    unfold(m, module)
    for child in list(module.children.values()):
        unfold_all(m, child)


def adopt(m: Machine, parent: Module, name: str, type: str) -> Module:
    """A new child."""
    child = Module(m.fresh(), type, parent.site)
    child.index = parent.index
    child.parent, child.name = parent, name
    child.escaped, child.copied = parent.escaped, parent.copied
    m.world.modules.append(child)
    parent.children[name] = child
    return child


def open_up(m: Machine, module: Module, batchnorm: bool | None = None) -> None:
    """A module of which nothing is known: it may have any parts."""
    module.open = True
    module.batchnorm = module.stochastic = batchnorm
    m.new_param(module, "", norm=None)


def carve(m: Machine, module: Module, name: str) -> Module:
    """The child of an open module that turns out to exist."""
    child = adopt(m, module, name, "")
    child.open = True
    child.batchnorm = child.stochastic = None
    child.born, child.modes = module.born, list(module.modes)
    child.pretrained = None if name in module.options.get("heads", ()) else module.pretrained
    for whole in [leaf for rest in module.rest for leaf in rest.leaves()]:
        if not _reaches(whole, f"{name}."):
            continue
        inner, outer = _like(m, child, whole), _like(m, module, whole)
        whole.parts = (inner, outer)
        child.rest.append(inner)
        module.rest[module.rest.index(whole)] = outer
    norms = module.children.get(NORMS)
    if norms is not None:
        _carve_norms(m, norms, child)
    return child


def _carve_norms(m: Machine, norms: Module, child: Module) -> None:
    """Some of the BatchNorm layers at unknown places are in the new child."""
    mine = _norms_child(m, child, norms)
    for whole in list(norms.rest):
        inner, outer = _like(m, mine, whole), _like(m, norms, whole)
        whole.parts = (inner, outer)
        mine.rest.append(inner)
        norms.rest[norms.rest.index(whole)] = outer


def norms_of(m: Machine, module: Module) -> Module | None:
    """The stand-in for BatchNorm layers at unknown places of an open module."""
    if not module.open or module.batchnorm is False or module.name == NORMS:
        return None
    if NORMS in module.children:
        return module.children[NORMS]
    norms = _norms_child(m, module, module)
    for whole in [leaf for rest in module.rest for leaf in rest.leaves()]:
        inner, outer = _like(m, norms, whole), _like(m, module, whole)
        inner.norm, outer.norm = True, None
        whole.parts = (inner, outer)
        norms.rest.append(inner)
        module.rest[module.rest.index(whole)] = outer
    return norms


def _norms_child(m: Machine, module: Module, like: Module) -> Module:
    norms = adopt(m, module, NORMS, "torch.nn.BatchNorm2d")
    norms.open, norms.norm, norms.batchnorm = True, "batch", None
    norms.born, norms.modes = like.born, list(like.modes)
    norms.pretrained = module.pretrained
    return norms


def cut(m: Machine, param: Param, test: Any) -> None:
    """Take a rest apart by a test on names: unfold it where its parts are known, else in two."""
    (param,) = list(param.leaves())[:1]
    module = param.module
    if is_folded(module):
        unfold(m, module)
        return
    parts = (_like(m, module, param), _like(m, module, param))
    for part, held in zip(parts, (True, False)):
        part.tests = (*param.tests, (test, held))
    param.parts = parts
    place = module.rest.index(param)
    module.rest[place : place + 1] = parts


def holds(param: Param, prefix: str, test: Any) -> bool | None:
    """Whether a test holds of every name that `param` stands for, which begin with `prefix`.

    None where it holds of some, or may.
    """
    for known, held in param.tests:
        if known == test:
            return held
    module = param.module
    if param.name or not is_folded(module):
        return certain(prefix, test)
    answers = {pattern.value(test, prefix + name) for name in names(module.architecture)}
    return answers.pop() if len(answers) == 1 else None


def names(node: Any) -> list[str]:
    """The names of all parameters of an architecture."""
    return [
        *node.params,
        *(f"{child}.{name}" for child, part in node.children.items() for name in names(part)),
    ]


def certain(prefix: str, test: Any) -> bool | None:
    """What a test says of any name that begins with `prefix` and goes on."""
    _, how, literals, lower, _ = test
    prefix = prefix.lower() if lower else prefix
    if how == "in" and any(literal in prefix for literal in literals):
        return True
    if how in ("startswith", "=="):
        if how == "startswith" and prefix.startswith(tuple(literals)):
            return True
        if not any(literal.startswith(prefix) for literal in literals):
            return False
    return None


def _reaches(param: Param, prefix: str) -> bool:
    """Names that begin with `prefix` may be among those that a rest stands for."""
    return all(certain(prefix, test) in (None, held) for test, held in param.tests)


def _like(m: Machine, module: Module, whole: Param) -> Param:
    """A part of `whole`, not listed anywhere yet."""
    part = Param(m.fresh(), module, "")
    part.tests, part.norm, part.born = whole.tests, whole.norm, whole.born
    _inherit(part, whole)
    return part


def _inherit(part: Param, whole: Param) -> None:
    """What happened to the whole happened to its part."""
    if whole.writes:
        part.trainable = whole.trainable
    part.writes = list(whole.writes)
