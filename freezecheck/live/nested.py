"""Tensors within what functions are given and return: at any depth of containers and of plain objects
such as dataclasses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from freezecheck.live import values

_DEEPEST = 5


def tensors(item: Any, depth: int = _DEEPEST) -> Iterator[Any]:
    """All of them, always in the same order."""
    if isinstance(item, values.torch().Tensor):
        yield item
    elif depth:
        for part in _parts(item):
            yield from tensors(part, depth - 1)


def leaves(item: Any, depth: int = _DEEPEST) -> Iterator[Any]:
    """Everything that is no container, in order."""
    parts = list(_parts(item)) if depth and not isinstance(item, values.torch().Tensor) else []
    if not parts:
        yield item
    for part in parts:
        yield from leaves(part, depth - 1)


def rebuilt(item: Any, leaf: Callable[[Any], Any], depth: int = _DEEPEST) -> Any:
    """A copy in which `leaf(part)` stands for everything that is no container. Containers are new;
    an object is copied only where something in it is replaced."""
    if isinstance(item, values.torch().Tensor) or not depth:
        return leaf(item)
    if isinstance(item, Mapping):
        return _mapping(item, {k: rebuilt(v, leaf, depth - 1) for k, v in item.items()})
    if isinstance(item, (list, tuple)):
        return _sequence(item, [rebuilt(part, leaf, depth - 1) for part in item])
    if _is_plain_object(item):
        return _object(item, {k: rebuilt(v, leaf, depth - 1) for k, v in vars(item).items()})
    return leaf(item)


def _parts(item: Any) -> Iterator[Any]:
    if isinstance(item, Mapping):
        yield from item.values()
    elif isinstance(item, (list, tuple)):
        yield from item
    elif _is_plain_object(item):
        yield from vars(item).values()


def _is_plain_object(item: Any) -> bool:
    """One that may hold tensors as its attributes, and is no part of torch."""
    torch = values.torch()
    if isinstance(item, (type, torch.nn.Module, torch.optim.Optimizer)) or callable(item):
        return False
    home = type(item).__module__
    return hasattr(item, "__dict__") and home != "builtins" and not home.startswith("torch.")


def _mapping(item: Any, parts: dict[Any, Any]) -> Any:
    if type(item) is dict:
        return parts
    if all(parts[key] is value for key, value in item.items()):
        return item
    new = copy.copy(item)
    for key, value in parts.items():
        new[key] = value
    return new


def _sequence(item: Any, parts: list[Any]) -> Any:
    if type(item) is list:
        return parts
    if type(item) is tuple:
        return tuple(parts)
    if all(a is b for a, b in zip(item, parts)):
        return item
    return type(item)(*parts) if hasattr(item, "_fields") else type(item)(parts)


def _object(item: Any, parts: dict[str, Any]) -> Any:
    changed = {name: value for name, value in parts.items() if value is not vars(item)[name]}
    if not changed:
        return item
    new = copy.copy(item)
    vars(new).update(changed)
    return new
