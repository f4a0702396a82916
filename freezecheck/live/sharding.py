"""FSDP's flat parameters: which tensors were joined into one."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

from freezecheck.live.traits import WRAPPERS
from freezecheck.snapshot import Flat

_HIDDEN = {name for name in WRAPPERS.values() if name.startswith("_")}
_HOME = "torch.distributed.fsdp.fully_sharded_data_parallel"


def flats(module: Any, model: int) -> Iterator[Flat]:
    """Each flat parameter below a model as it was given, wrappers and all.

    Only FSDP1 with `use_orig_params=True` can join frozen and trainable tensors, and only
    it keeps the original ones to ask.
    """
    home = sys.modules.get(_HOME)
    if home is None:
        return
    for name, unit in modules_of(module):
        handle = unit._handle if isinstance(unit, home.FullyShardedDataParallel) else None
        tensors = None if handle is None else handle.flat_param._params
        if handle is None or tensors is None:
            continue
        sizes = [math.prod(shape) for shape in handle.flat_param._shapes]
        flags = [bool(tensor.requires_grad) for tensor in tensors]
        yield Flat(
            ".".join(part for part in name.split(".") if part not in _HIDDEN),
            model,
            tensors=len(flags),
            numel=sum(sizes),
            frozen=flags.count(False),
            frozen_numel=sum(size for size, flag in zip(sizes, flags) if not flag),
        )


def modules_of(root: Any) -> Iterator[tuple[str, Any]]:
    """`named_modules()`, for trees deeper than Python's stack."""
    stack = [("", root)]
    seen: set[int] = set()
    while stack:
        name, module = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield name, module
        children = [(k, child) for k, child in module._modules.items() if child is not None]
        stack.extend((f"{name}.{k}".lstrip("."), child) for k, child in reversed(children))
