"""The whole of a training setup as plain values, for comparing; shares no code with freezecheck."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy
import torch


def ambient() -> tuple[Any, ...]:
    """Random states and global switches."""
    return (
        random.getstate(),
        str(numpy.random.get_state()),
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_autocast_enabled("cpu"),
        (torch.autocast_increment_nesting(), torch.autocast_decrement_nesting()),
    )


def described(item: Any, *, identity: bool = True) -> Any:
    """`item` and all that it holds, down to the bits. `identity`: also which objects these are;
    without, two setups that were built alike are equal. Hooks are left out."""
    return _Description(identity).of(item)


class _Description:
    def __init__(self, identity: bool) -> None:
        self.identity = identity
        self.seen: dict[int, int] = {}
        self.alive: list[Any] = []

    def of(self, item: Any) -> Any:
        if item is None or isinstance(item, (bool, int, str, bytes, torch.dtype, torch.device)):
            return (type(item).__name__, item)
        if isinstance(item, float):
            return item.hex()
        if id(item) in self.seen:
            return ("seen", self.seen[id(item)])
        self.seen[id(item)] = len(self.seen)
        self.alive.append(item)
        who = id(item) if self.identity and not isinstance(item, tuple) else 0
        return (type(item).__qualname__, who, self.inside(item))

    def inside(self, item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            return self.tensor(item)
        if isinstance(item, dict):
            return [(self.of(k), self.of(v)) for k, v in item.items()]
        if isinstance(item, (list, tuple, deque)):
            return [self.of(each) for each in item]
        if isinstance(item, (set, frozenset)):
            return sorted(map(repr, item))
        if isinstance(item, numpy.ndarray):
            return item.tobytes()
        if isinstance(item, torch.Generator):
            return item.get_state().tolist()
        if isinstance(item, type) or not hasattr(item, "__dict__") or callable_code(item):
            return getattr(item, "__qualname__", "")
        return sorted(
            (name, self.of(value)) for name, value in vars(item).items() if "_hook" not in name
        )

    def tensor(self, item: torch.Tensor) -> Any:
        if torch.nn.parameter.is_lazy(item):
            return "uninitialized", item.requires_grad
        grad = self.of(item.grad) if item.is_leaf else "not a leaf"
        rest = (item.dtype, tuple(item.shape), item.requires_grad, grad, self.of(item.__dict__))
        plain = item.detach()
        if plain.is_sparse:
            return (
                *rest,
                plain.is_coalesced(),
                self.bits(plain._indices()),
                self.bits(plain._values()),
            )
        where = plain.data_ptr() if self.identity else 0
        return *rest, where, plain.stride(), self.bits(plain)

    def bits(self, plain: torch.Tensor) -> bytes:
        if plain.is_meta:
            return b""
        return plain.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def callable_code(item: Any) -> bool:
    """A function or method, whose attributes are not state."""
    return hasattr(item, "__code__") or hasattr(item, "__func__") or hasattr(item, "__self__")


def difference(before: Any, after: Any, path: str = "") -> str:
    """Where two descriptions differ first; empty if they do not."""
    if type(before) is not type(after) or not isinstance(before, (list, tuple)):
        return "" if before == after else f"{path}: {before!r:.300} became {after!r:.300}"
    if len(before) != len(after):
        return f"{path}: {before!r:.300} became {after!r:.300}"
    label = f"{path}/{before[0]}" if before and isinstance(before[0], str) else path
    found = (difference(a, b, f"{label}[{i}]") for i, (a, b) in enumerate(zip(before, after)))
    return next((each for each in found if each), "")
