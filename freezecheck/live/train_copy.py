"""What would `model.train()` do to the modes? Asked of a copy, never of the model.

An override of `train()` that keeps BatchNorm in eval mode is the recommended
way to freeze it. Whether one is there, and does so, is found by calling it on
a skeleton: the same classes with the same attributes, but with stand-ins for
the parameters, so that nothing of the user's can be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

from freezecheck.live.traits import OWN, traits
from freezecheck.live.tree import Node, unwrap
from freezecheck.live.values import torch


def reverting(nodes: Sequence[Node]) -> set[str]:
    """Paths of modules now in eval mode that `root.train()` would put in train mode."""
    resting = [node for node in nodes if not node.module.training]
    if not resting:
        return set()
    if not any(_overrides(node.module) for node in nodes):
        return {node.path for node in resting}
    twins = _skeleton(nodes)
    try:
        twins[id(nodes[0].module)].train(True)
    except Exception:
        return set()  # the user's train() needs more than its modules: nothing is claimed
    return {node.path for node in resting if twins[id(node.module)].training}


def _overrides(module: Any) -> bool:
    return traits(type(module)).trains or "train" in module.__dict__


def _skeleton(nodes: Sequence[Node]) -> dict[int, Any]:
    """A copy of the tree by id of the original: own flags, shared nothing that train() writes."""
    twins: dict[int, Any] = {}
    for node in nodes:
        twin = object.__new__(type(node.module))
        twin.__dict__.update(node.module.__dict__)
        twins[id(node.module)] = twin
    for twin in twins.values():
        attributes = twin.__dict__
        attributes["_modules"] = {
            name: twins.get(id(unwrap(child)[0])) if child is not None else None
            for name, child in attributes["_modules"].items()
        }
        attributes["_parameters"] = {
            name: None if p is None else _stand_in(p)
            for name, p in attributes["_parameters"].items()
        }
        for name, value in list(attributes.items()):
            if name not in OWN:
                attributes[name] = _translate(value, twins)
    return twins


def _translate(value: Any, twins: dict[int, Any]) -> Any:
    """An attribute that points at a module (or at a bound method of one) points at its twin.

    A module outside the tree has no twin and becomes None: better that
    `train()` fails on the copy than that it reaches something of the user's.
    """
    if isinstance(value, MethodType) and id(value.__self__) in twins:
        return MethodType(value.__func__, twins[id(value.__self__)])
    if type(value) in (list, tuple):
        return type(value)(_translate(item, twins) for item in value)
    if type(value) is dict:
        return {key: _translate(item, twins) for key, item in value.items()}
    if isinstance(value, torch().nn.Module):
        return twins.get(id(unwrap(value)[0]))
    return value


def _stand_in(parameter: Any) -> Any:
    """A parameter of the same shape without storage."""
    empty = torch().empty_like(parameter, device="meta", requires_grad=False)
    return torch().nn.Parameter(empty, requires_grad=parameter.requires_grad)
