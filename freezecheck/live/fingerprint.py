"""Has the setup changed since the last step? Asked at every step, so it must cost next to nothing.

A fingerprint holds what a full capture would see differently: which modules and parameters
there are, which of these are trainable, the modes of layers that have two, and who is in
which group. It is made of identities; no value is read, so that no GPU is waited for.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from freezecheck.live import values
from freezecheck.live.traits import traits
from freezecheck.live.tree import unwrap

Print = tuple[Any, ...]


class Fingerprint:
    """Of some models, which it does not keep alive; `take` it whenever it may have changed."""

    def __init__(self, models: Iterable[Any]) -> None:
        modules = [m for root in models for m in unwrap(root)[0].modules()]
        self._parents = [weakref.ref(m) for m in modules if m._modules]
        self._owners = [weakref.ref(m) for m in modules if m._parameters]
        self._modal = [weakref.ref(m) for m in modules if has_two_modes(m)]
        self._flag = values.torch().Tensor.requires_grad.__get__  # past a property of ours

    def take(self, optimizer: Any, modes: Mapping[int, bool]) -> Print:
        """The fingerprint at a step of `optimizer`. `modes` (by id of the module) count instead
        of what they are now."""
        parents = [m for ref in self._parents if (m := ref()) is not None]
        owners = [m for ref in self._owners if (m := ref()) is not None]
        modal = [m for ref in self._modal if (m := ref()) is not None]
        params = [p for m in owners for p in m._parameters.values() if p is not None]
        return (
            hash(tuple([id(child) for m in parents for child in m._modules.values()])),
            hash(tuple(map(id, params))),
            bytes(map(self._flag, params)),
            bytes([modes.get(id(m), m.training) for m in modal]),
            tuple([hash(tuple(map(id, group["params"]))) for group in optimizer.param_groups]),
        )


def has_two_modes(module: Any) -> bool:
    """A layer that train mode makes a difference to: dropout, a norm with running statistics."""
    known = traits(type(module))
    return bool(known.dropout or (known.norm and module._buffers.get("running_mean") is not None))
