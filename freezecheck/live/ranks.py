"""Of several processes that train together: which one this is, and what it has in common
with the others.

Every process writes this down for itself, and the runner compares what they wrote. Nothing
is asked of another process: a collective would wait for ever for one that does not come.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from freezecheck.live import values
from freezecheck.live.sharding import modules_of
from freezecheck.snapshot import Param, Shared


def place() -> tuple[int | None, int]:
    """This process's rank and how many there are; (None, 1) outside a process group."""
    group = _distributed()
    return (None, 1) if group is None else (int(group.get_rank()), int(group.get_world_size()))


def wrapped(wrapper: Any) -> dict[str, Any]:
    """What a new `DistributedDataParallel` was told; see `docs/timeline.md`."""
    return {
        "processes": wrapper.process_group.size(),
        "ignored": tuple(sorted(wrapper.parameters_to_ignore)),
        "unused": bool(wrapper.find_unused_parameters),
        "static": bool(wrapper.static_graph),
    }


def shared(
    models: Iterable[Any], known: Mapping[int, Param], grads: Mapping[int, str] | None
) -> list[Shared]:
    """What the models, wrappers and all, keep equal over the processes of their groups.

    `known` are the records of their parameters by id. Values are looked at in a recorded run
    alone: `grads` has the ids of those whose gradients count at its step; else it is None.
    """
    found = []
    for model in models:
        sharded = None
        for path, unit in modules_of(model):
            kind = type(unit).__name__
            if isinstance(unit, values.torch().nn.parallel.DistributedDataParallel):
                found.append(_replicated(unit, known, grads))
            elif kind == "FullyShardedDataParallel" and not _below(path, sharded):
                sharded = path  # has the parameters of the units below it
                found.append(_listed(unit, known, kind, _members(unit.process_group)))
        found += _on_meshes(model, known)
    return [part for part in found if part.names]


def _below(path: str, other: str | None) -> bool:
    return other is not None and f"{path}.".startswith(f"{other}." if other else "")


def _distributed() -> Any | None:
    """`torch.distributed`, if this process is in a group."""
    home = sys.modules.get("torch.distributed")
    return home if home is not None and home.is_available() and home.is_initialized() else None


def _members(group: Any) -> tuple[int, ...]:
    home = _distributed()
    return () if home is None else tuple(home.get_process_group_ranks(group))


def _replicated(unit: Any, known: Mapping[int, Param], grads: Mapping[int, str] | None) -> Shared:
    """Behind DDP: weights are the same everywhere, and so are gradients at a step."""
    tensors = {
        id(p): p
        for name, p in unit.module.named_parameters()
        if id(p) in known and name not in unit.parameters_to_ignore
    }
    part = _listed(unit, known, "DistributedDataParallel", _members(unit.process_group))
    part.names = tuple(known[key].name for key in tensors)
    part.taken = unit._get_ddp_logging_data().get("num_parameter_tensors")
    part.spares = bool(unit.find_unused_parameters or unit.static_graph)
    if grads is None or len(part.ranks) < 2:
        return part
    part.sizes = _sizes({known[key].name: p for key, p in tensors.items()})
    if not unit._comm_hooks:  # a hook may leave each process its own gradients, on purpose
        held = {k: p for k, p in tensors.items() if k in grads and known[k].held}
        part.gradients = _sizes({known[k].name: p.grad for k, p in held.items()})
    return part


def _listed(unit: Any, known: Mapping[int, Param], by: str, ranks: tuple[int, ...]) -> Shared:
    params = [known[id(p)] for p in unit.parameters() if id(p) in known]
    return Shared(by, ranks, params[0].model if params else 0, tuple(p.name for p in params))


def _on_meshes(model: Any, known: Mapping[int, Param]) -> list[Shared]:
    """Sharded or replicated tensors of `fully_shard` and its like, by the mesh they lie on."""
    found: dict[tuple[int, ...], Shared] = {}
    for tensor in model.parameters():
        param = known.get(id(tensor))
        mesh = getattr(tensor, "device_mesh", None)
        if param is not None and mesh is not None:
            ranks = tuple(mesh.mesh.flatten().tolist())
            part = found.setdefault(ranks, Shared("DTensor", ranks, param.model))
            part.names += (param.name,)
    return [*found.values()]


def _sizes(tensors: Mapping[str, Any]) -> dict[str, float]:
    """The sum of absolute values of each tensor that can be read; a device is waited for once."""
    torch = values.torch()
    sums: dict[Any, list[tuple[str, Any]]] = {}
    for name, tensor in tensors.items():
        real = None if tensor is None or hasattr(tensor, "device_mesh") else values.readable(tensor)
        if real is None or real.layout is not torch.strided or not real.is_floating_point():
            continue
        exact = torch.float32 if real.device.type == "mps" else torch.float64
        total = torch.linalg.vector_norm(real, 1, dtype=exact)
        sums.setdefault(real.device, []).append((name, total))
    return {
        name: number
        for pairs in sums.values()
        for (name, _), number in zip(pairs, torch.stack([t for _, t in pairs]).tolist())
    }
