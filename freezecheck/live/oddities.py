"""Things in a model that PyTorch lets pass in silence.

Attributes that no one reads (`layer.requires_grad = False`), sub-modules in a
list, sizes that the weight does not have.
"""

from __future__ import annotations

import dis
import linecache
import re
from collections.abc import Iterator, Sequence
from typing import Any

from freezecheck.finding import Site
from freezecheck.live import frames, values
from freezecheck.live.traits import OWN
from freezecheck.live.tree import Node, subtree
from freezecheck.misplaced import MISSPELLINGS
from freezecheck.snapshot import FOREIGN, Label, Param, Snapshot, Stray, Unregistered

_ON_MODULE = MISSPELLINGS | {"requires_grad", "requires_grad_"}
_CONTAINERS = (list, tuple, dict)


def capture(now: Snapshot, known: dict[int, Param], index: int, nodes: Sequence[Node]) -> None:
    """Add what is odd about one walked model."""
    registered = {id(node.module) for node in nodes}
    for node in nodes:
        attributes = node.module.__dict__
        if not _ON_MODULE.isdisjoint(attributes):
            now.strays.extend(_on_module(node, index))
        if node.params:
            for name, tensor in node.module._parameters.items():
                if tensor is not None and tensor.__dict__:
                    now.strays.extend(_on_parameter(node.join(name), tensor, index))
        facts = node.traits
        if facts.size and node.params and node.params[0].shape[0] != attributes.get(facts.size):
            now.labels.extend(_size(node, facts.size, index))
        if not facts.simple:
            now.unregistered.extend(_hidden(node, registered, known, index))


def _on_module(node: Node, index: int) -> Iterator[Stray]:
    attributes = node.module.__dict__
    for name in sorted(_ON_MODULE & attributes.keys()):
        value = attributes[name]
        if name == "requires_grad_" and callable(value):
            continue
        believed = bool(value) if isinstance(value, (bool, int)) else None
        flags = {
            p.requires_grad
            for below in subtree(node)
            for p in below.module._parameters.values()
            if p is not None
        }
        # Only a claim that the real flags contradict is a mistake.
        contradicted = believed is not None and (not believed) in flags
        kept = _kept(type(node.module), name) if contradicted else ""
        if kept == "option" or (kept == "constant" and (believed or flags == {True, False})):
            contradicted = False
        yield Stray(
            node.path,
            name,
            value if believed is not None else repr(type(value)),
            "module",
            index,
            believed if contradicted else None,
        )


def _kept(kind: type[Any], attribute: str) -> str:
    """How the class itself sets `self.attribute`: as an "option" (`self.requires_grad =
    requires_grad`, which may rightly differ from the flags later on), to a "constant", or not."""
    found = ""
    for base in kind.__mro__:
        if base.__module__.startswith("torch."):
            continue
        for function in vars(base).values():
            code = getattr(function, "__code__", None)
            if code is None or attribute not in code.co_names or not code.co_varnames:
                continue
            before: list[dis.Instruction] = []
            for step in dis.get_instructions(code):
                if step.opname == "STORE_ATTR" and step.argval == attribute:
                    value, owner = before[-2:]
                    if owner.argval == code.co_varnames[0]:
                        found = found or "constant"
                        if not value.opname.startswith("LOAD_CONST"):
                            return "option"
                    elif isinstance(owner.argval, tuple) and owner.argval[1] == code.co_varnames[0]:
                        return "option"  # Python 3.13 loads both at once
                before.append(step)
    return found


def _on_parameter(path: str, tensor: Any, index: int) -> Iterator[Stray]:
    for name in sorted((MISSPELLINGS | {"requires_grad_"}) & tensor.__dict__.keys()):
        value = tensor.__dict__[name]
        if name == "requires_grad_" and callable(value):
            continue
        believed = bool(value) if isinstance(value, (bool, int)) else None
        contradicted = believed is not None and believed != tensor.requires_grad
        yield Stray(
            path,
            name,
            value if believed is not None else repr(type(value)),
            "parameter",
            index,
            believed if contradicted else None,
        )


def _size(node: Node, attribute: str, index: int) -> Iterator[Label]:
    """`fc.out_features = 5` renames a size and leaves the weight as it was."""
    weight = node.module._parameters.get("weight")
    if weight is None or type(weight).__name__ != "Parameter" or not weight.is_floating_point():
        return  # quantised and sharded weights have shapes of their own
    claimed, real = getattr(node.module, attribute, None), weight.shape[0]
    if weight.dim() >= 2 and isinstance(claimed, int) and claimed != real:
        yield Label(node.path, attribute, claimed, real, index)


def _hidden(
    node: Node, registered: set[int], known: dict[int, Param], index: int
) -> Iterator[Unregistered]:
    for name, value in node.module.__dict__.items():
        if name in OWN:
            continue
        if type(value) in _CONTAINERS:
            modules = [m for m in _modules_in(value) if id(m) not in registered]
            tensors = _tensors(modules, known)
            if tensors:
                yield _record(node, name, type(value).__name__, len(modules), tensors, known, index)
        elif (base := _behind(value)) is not None and _unowned(base, known):
            yield _record(node, name, "non-leaf", 0, [base], known, index)


def _unowned(tensor: Any, known: dict[int, Param]) -> bool:
    """No inspected model has it registered."""
    return id(tensor) not in known or known[id(tensor)].model == FOREIGN


def contained(root: Any) -> set[int]:
    """Ids of the modules in plain containers that `root` and the modules below it keep."""
    return {
        id(item)
        for module in root.modules()
        for name, value in module.__dict__.items()
        if name not in OWN and type(value) in _CONTAINERS
        for item in _modules_in(value)
    }


def _modules_in(value: Any) -> list[Any]:
    items = value.values() if type(value) is dict else value
    module = values.torch().nn.Module
    return [item for item in items if issubclass(type(item), module)]


def _tensors(modules: list[Any], known: dict[int, Param]) -> list[Any]:
    """Parameters below modules that no registered module owns."""
    found = {id(p): p for module in modules for p in module.parameters()}
    return [p for p in found.values() if _unowned(p, known)]


def _record(
    node: Node,
    name: str,
    how: str,
    modules: int,
    tensors: list[Any],
    known: dict[int, Param],
    index: int,
) -> Unregistered:
    return Unregistered(
        node.path,
        name,
        how,
        modules,
        sum(t.numel() for t in tensors),
        any(t.requires_grad for t in tensors),
        any(t.grad is not None for t in tensors),
        any(id(t) in known for t in tensors),
        index,
        _where(type(node.module), name),
    )


def _where(kind: type[Any], attribute: str) -> Site | None:
    """The line of the user's class that sets `self.<attribute>`, if it is the only one."""
    code = getattr(kind.__init__, "__code__", None)
    if code is None or not frames.is_users(code.co_filename):
        return None
    setting = re.compile(rf"\s*self\.{re.escape(attribute)}\s*(:[^=]*)?=[^=]")
    last = max((line for *_, line in code.co_lines() if line), default=code.co_firstlineno)
    lines = linecache.getlines(code.co_filename)
    hits = [
        n for n in range(code.co_firstlineno, last + 1) if setting.match("".join(lines[n - 1 : n]))
    ]
    return Site(frames.shown(code.co_filename), hits[0]) if len(hits) == 1 else None


def _behind(value: Any) -> Any | None:
    """The parameter of which an attribute is a mere copy: `nn.Parameter(...).cuda()`."""
    if not isinstance(value, values.torch().Tensor) or value.is_leaf:
        return None
    node = value.grad_fn
    if node is None or not type(node).__name__.startswith(("ToCopy", "Clone", "Copy", "View")):
        return None
    for parent, _ in node.next_functions:
        variable = getattr(parent, "variable", None)
        if isinstance(variable, values.torch().nn.Parameter):
            return variable
    return None
