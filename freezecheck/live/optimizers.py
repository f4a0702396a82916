"""Optimizers and schedulers: which tensors they hold, at which rates, with which state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from freezecheck.live import schedulers, values
from freezecheck.live.seen import Seen
from freezecheck.live.traits import qualified
from freezecheck.snapshot import FOREIGN, Group, Held, Optimizer, Param, Snapshot

# State that moves a parameter even where its gradient is 0.
_MOMENTS = ("exp_avg", "momentum_buffer")
# State with one entry for each entry of the parameter, in torch.optim's own classes.
_LIKE_PARAM = (
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "momentum_buffer",
    "square_avg",
    "grad_avg",
    "acc_delta",
    "exp_inf",
    "sum",
    "prev",
    "step_size",
    "ax",
)


def unwrap(optimizer: Any) -> Any:
    """The torch optimizer inside accelerate's or Lightning's wrapper.

    Wrappers share the inner optimizer's `param_groups`, and may be optimizers
    in class only, so they are told by that identity.
    """
    for attribute in ("optimizer", "_optimizer"):
        inner = getattr(optimizer, attribute, None)
        groups = getattr(inner, "param_groups", None)
        if groups is not None and groups is getattr(optimizer, "param_groups", None):
            return unwrap(inner)
    return optimizer


def capture(
    now: Snapshot,
    known: dict[int, Param],
    opts: Mapping[str, Any],
    scheds: Mapping[str, Any],
    seen: Seen,
) -> None:
    """Add optimizers, their groups and state, and the schedulers that drive them."""
    real = {label: unwrap(optimizer) for label, optimizer in opts.items()}
    for index, (label, optimizer) in enumerate(real.items()):
        now.optimizers.append(_optimizer(now, known, index, label, optimizer, seen))
    positions = {id(optimizer): index for index, optimizer in enumerate(real.values())}
    for label, scheduler in scheds.items():
        now.schedulers.extend(schedulers.capture(label, scheduler, positions))


def _optimizer(
    now: Snapshot,
    known: dict[int, Param],
    index: int,
    label: str,
    optimizer: Any,
    seen: Seen,
) -> Optimizer:
    kind = type(optimizer)
    record = Optimizer(
        label,
        qualified(kind),
        _is_builtin(kind),
        defaults=_scalars(optimizer.defaults),
        stepped=bool(optimizer.state),
    )
    for number, group in enumerate(optimizer.param_groups):
        record.groups.append(_group(now, known, index, number, record, optimizer, group, seen))
    return record


def _group(
    now: Snapshot,
    known: dict[int, Param],
    index: int,
    number: int,
    record: Optimizer,
    optimizer: Any,
    group: dict[str, Any],
    seen: Seen,
) -> Group:
    tensors = group["params"]
    result = Group(
        values.number(group.get("lr", 0.0)),
        values.number(group.get("weight_decay", 0.0) or 0.0),
        len(tensors),
        0,
        _scalars(group),
        names=tuple(group.get("param_names", ())),
    )
    state = optimizer.state
    plain = (Held(index, number),)  # shared by every parameter without state
    inside: set[int] = set()
    for position, tensor in enumerate(tensors):
        param = known.get(id(tensor))
        if param is None:
            name = f"{record.label}.param_groups[{number}]['params'][{position}]"
            param = known[id(tensor)] = _foreign(name, tensor, seen)
            now.params.append(param)
        if id(tensor) in inside:
            result.duplicates += 1
            continue
        inside.add(id(tensor))
        result.numel += param.numel
        result.foreign += param.model == FOREIGN
        kept = state.get(tensor) if state else None
        if kept:
            param.held += (_held(index, number, param, tensor, kept, record),)
        else:
            param.held += plain
        if param.grad == "zero":
            param.zero = bool(values.is_zero(tensor))
    return result


def _foreign(name: str, tensor: Any, seen: Seen) -> Param:
    param = Param(
        name,
        tensor.shape,
        tensor.numel(),
        values.dtype(tensor),
        values.device(tensor),
        tensor.requires_grad,
        FOREIGN,
    )
    param.grad = seen.grad(tensor)
    return param


def _held(
    index: int, number: int, param: Param, tensor: Any, state: dict[str, Any], record: Optimizer
) -> Held:
    """A parameter's place, with the state that the optimizer keeps for it."""
    held = Held(index, number)
    if "step" in state:
        held.step = values.number(state["step"])
    moments = [m for key in _MOMENTS if (m := state.get(key)) is not None]
    if moments:
        # The values matter where no gradient outweighs them.
        looked = param.grad == "zero" or not param.trainable
        held.moments = _moments(moments) if looked else "unknown"
    if record.builtin:
        held.mismatch = _mismatch(tensor, state)
        if "eta" in state:
            held.rate = values.number(state["eta"])
        if "prev" in state and param.grad == "nonzero":
            held.blocked = _blocked(tensor.grad, state["prev"])
    return held


def _moments(tensors: list[Any]) -> str:
    zeros = [values.is_zero(tensor) for tensor in tensors]
    if None in zeros:
        return "unknown"
    return "zero" if all(zeros) else "nonzero"


def _mismatch(tensor: Any, state: dict[str, Any]) -> str | None:
    """How a state tensor fails to fit its parameter, in words."""
    for key in _LIKE_PARAM:
        kept = state.get(key)
        if kept is None or type(kept).__name__ == "DTensor" or not hasattr(kept, "shape"):
            continue
        if kept.shape != tensor.shape:
            return f"{key} has shape {tuple(kept.shape)}, the parameter {tuple(tensor.shape)}"
        if kept.device != tensor.device:
            return f"{key} is on {kept.device}, the parameter on {tensor.device}"
        if kept.dtype != tensor.dtype:
            return f"{key} is {values.dtype(kept)}, the parameter {values.dtype(tensor)}"
    return None


def _blocked(grad: Any, previous: Any) -> bool:
    """Rprop leaves an entry alone whose gradient changed its sign; here, all of them."""
    signs = values.readable(grad).sign() * values.readable(previous).sign()
    return bool((signs[grad != 0] < 0).all())


def _is_builtin(kind: type[Any]) -> bool:
    """The step that will run is torch's own (torch wraps `step` on each class)."""
    step = getattr(kind.step, "__wrapped__", kind.step)
    own = getattr(kind, "_init_group", step)
    return step.__module__.startswith("torch.optim.") and own.__module__.startswith("torch.optim.")


def _scalars(options: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values among a group's options."""
    result: dict[str, Any] = {}
    for key, value in options.items():
        if value is None or isinstance(value, (bool, int, float, str)):
            result[key] = value
        elif isinstance(value, tuple) and all(isinstance(v, (bool, int, float)) for v in value):
            result[key] = value
        elif key != "params" and hasattr(value, "item") and hasattr(value, "numel"):
            if value.numel() == 1:
                result[key] = values.number(value)
    return result
