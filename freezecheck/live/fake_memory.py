"""The memory that a setup would take, summed over tensors that take none."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from freezecheck.live import roots
from freezecheck.live.patches import Patches
from freezecheck.live.values import torch


def install(patches: Patches, note: Callable[..., None]) -> None:
    """After the first step of each optimizer, `note("memory", "[PARAMETERS, GRADIENTS, STATE]")`:
    bytes in this process so far. To be installed before the recorder, which may stop the
    process at its step."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    stepped: weakref.WeakSet[Any] = weakref.WeakSet()

    def after_step(optimizer: Any, args: Any, kwargs: Any) -> None:
        if optimizer not in stepped:
            stepped.add(optimizer)
            note("memory", json.dumps(_measure(stepped)))

    patches.later(register_optimizer_step_post_hook(after_step).remove)


def _measure(optimizers: Iterable[Any]) -> tuple[int, int, int]:
    """Bytes of parameters, of gradients and of optimizer state."""
    params = {id(p): p for root in roots.live_roots() for p in root.parameters()}
    states = []
    for optimizer in optimizers:
        params.update((id(p), p) for group in optimizer.param_groups for p in group["params"])
        states += [item for kept in optimizer.state.values() for item in kept.values()]
    gradients = (p.grad for p in params.values() if p.grad is not None)
    return _bytes(params.values()), _bytes(gradients), _bytes(states)


def _bytes(items: Iterable[Any]) -> int:
    """Of the tensors among some things; of a sharded one, the part that is here."""
    total = 0
    for item in items:
        if isinstance(item, (list, tuple)):
            total += _bytes(item)
        elif isinstance(item, torch().Tensor):
            here = getattr(item, "_local_tensor", item)
            total += here.numel() * here.element_size()
    return total
