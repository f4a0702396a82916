"""What would `model.train()` do to the modes? Asked of a copy, never of the model.

An override of `train()` that keeps BatchNorm in eval mode is the recommended
way to freeze it. Whether one is there, and does so, is found by calling it on
a skeleton: the same classes with the same attributes, but with stand-ins for
every tensor, so that nothing of the user's can be written.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from types import MethodType
from typing import Any

from freezecheck.live.traits import OWN
from freezecheck.live.tree import Node, unwrap
from freezecheck.live.values import torch


def changing(nodes: Sequence[Node]) -> set[str] | None:
    """Paths of the modules whose mode `root.train()` would change.

    None where that cannot be found out: the user's `train()` fails on the copy
    (it needs more than its modules), or reaches past it to the model itself.
    """
    if not any(node.traits.trains or "train" in node.module.__dict__ for node in nodes):
        return {node.path for node in nodes if not node.module.training}
    if any(isinstance(node.module, torch().jit.ScriptModule) for node in nodes):
        return None  # its attributes live in C++ and would be shared by the copy
    try:
        with _untouched(nodes) as reached, contextlib.redirect_stdout(io.StringIO()):
            twins = _skeleton(nodes)
            twins[id(nodes[0].module)].train(True)
    except Exception:
        return None
    if reached:
        return None
    return {n.path for n in nodes if twins[id(n.module)].training != n.module.training}


@contextlib.contextmanager
def _untouched(nodes: Sequence[Node]) -> Iterator[list[Any]]:
    """Put back every mode and flag that changes inside, and list what had changed.

    A `train` that was put on one instance is a closure, and may well act on the
    model that it closes over instead of the copy it is called on.
    """
    before = [
        (thing, attribute, getattr(thing, attribute))
        for node in nodes
        for thing, attribute in (
            (node.module, "training"),
            *((p, "requires_grad") for p in node.module._parameters.values() if p is not None),
        )
    ]
    reached: list[Any] = []
    try:
        yield reached
    finally:
        for thing, attribute, value in before:
            if getattr(thing, attribute) != value:
                setattr(thing, attribute, value)
                reached.append(thing)


def _skeleton(nodes: Sequence[Node]) -> dict[int, Any]:
    """A copy of the tree by id of the original: own flags, shared nothing that train() writes."""
    twins: dict[int, Any] = {}
    for node in nodes:
        twin = object.__new__(type(node.module))
        twin.__dict__.update(node.module.__dict__)
        twins[id(node.module)] = twin
    stand_ins: dict[int, Any] = {}
    for twin in twins.values():
        for name, value in twin.__dict__.items():
            if name not in OWN or name in ("_modules", "_parameters", "_buffers"):
                twin.__dict__[name] = _translate(value, twins, stand_ins)
            elif isinstance(value, (dict, set)):
                twin.__dict__[name] = value.copy()
    return twins


def _translate(value: Any, twins: dict[int, Any], stand_ins: dict[int, Any]) -> Any:
    """An attribute that points at a module (or at a bound method of one) points at its twin.

    A module outside the tree has no twin and becomes None: better that
    `train()` fails on the copy than that it reaches something of the user's.
    """
    if isinstance(value, MethodType) and id(value.__self__) in twins:
        return MethodType(value.__func__, twins[id(value.__self__)])
    if type(value) in (list, tuple, set):
        return type(value)(_translate(item, twins, stand_ins) for item in value)
    if isinstance(value, dict):
        return {key: _translate(item, twins, stand_ins) for key, item in value.items()}
    if isinstance(value, torch().nn.Module):
        return twins.get(id(unwrap(value)[0]))
    if isinstance(value, torch().Tensor):
        if id(value) not in stand_ins:
            stand_ins[id(value)] = _stand_in(value)
        return stand_ins[id(value)]
    return value


def _stand_in(tensor: Any) -> Any:
    """A tensor or parameter of the same shape without storage."""
    empty = torch().empty_like(tensor, device="meta", requires_grad=False)
    if not isinstance(tensor, torch().nn.Parameter):
        return empty
    return torch().nn.Parameter(empty, requires_grad=tensor.requires_grad)
