"""Optimizers and schedulers: which tensors they hold, at which rates, with which state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from freezecheck.live import fastai, schedulers, values
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
# Their `exp_avg.lerp_(grad, ...)` refuses mixed types; the others compute with them.
_ONE_TYPE = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam")


def unwrap(optimizer: Any) -> Any:
    """The optimizer inside accelerate's, Lightning's or fastai's wrapper.

    Wrappers share the inner optimizer's `param_groups`, and may be optimizers
    in class only, so they are told by that identity; fastai's make groups of their own.
    """
    if (within := fastai.inner(optimizer)) is not None:
        return unwrap(within)
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
    whole = _wholes(list(real.values()))
    for index, (label, optimizer) in enumerate(real.items()):
        now.optimizers.append(_optimizer(now, known, index, label, optimizer, seen, whole[index]))
    positions = {
        id(optimizer): index if outer is None else outer
        for index, (optimizer, outer) in enumerate(zip(real.values(), whole))
    }
    for optimizer in real.values():  # some optimizers lend their groups to another object
        for group in () if fastai.is_optimizer(optimizer) else optimizer.param_groups:
            positions.setdefault(id(group), positions[id(optimizer)])
    for label, scheduler in scheds.items():
        record = schedulers.capture(label, scheduler, positions)
        if record.optimizer is None:
            record.shared = _shared(known, schedulers.driven(schedulers.unwrap(scheduler)))
        now.schedulers.append(record)


def _shared(known: Mapping[int, Param], optimizer: Any) -> int | None:
    """Tensors of an optimizer that was not given which one that was given holds too."""
    if optimizer is None:
        return None
    tensors = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
    return sum(key in known and bool(known[key].held) for key in tensors)


def _wholes(optimizers: list[Any]) -> list[int | None]:
    """For each optimizer that is only a part of another one, the position of that one.

    SAM, Lookahead, LARC and ZeRO keep the optimizer that does the work in an attribute
    and step the same tensors through it; one may also be given twice, wrapped and bare.
    """
    whole: list[int | None] = [None] * len(optimizers)
    if len(optimizers) < 2:
        return whole
    first: dict[int, int] = {}
    for index, optimizer in enumerate(optimizers):
        if first.setdefault(id(optimizer), index) != index:
            whole[index] = first[id(optimizer)]
    for outer, optimizer in enumerate(optimizers):
        for value in vars(optimizer).values():
            for item in value if type(value) in (list, tuple) else (value,):
                inner = first.get(id(item))
                if inner is not None and inner != outer and whole[outer] is None:
                    whole[inner] = outer
    return whole


def _optimizer(
    now: Snapshot,
    known: dict[int, Param],
    index: int,
    label: str,
    optimizer: Any,
    seen: Seen,
    part_of: int | None,
) -> Optimizer:
    kind = qualified(type(optimizer))
    if fastai.is_optimizer(optimizer):
        optimizer = fastai.Described(optimizer)
        family = optimizer.family
    else:
        family = _family(optimizer)
    record = Optimizer(
        label,
        kind,
        bool(family),
        family=family,
        defaults=scalars(optimizer.defaults),
        stepped=bool(optimizer.state),
        part_of=part_of,
    )
    if part_of is not None:
        return record
    for number, group in enumerate(optimizer.param_groups):
        record.groups.append(_group(now, known, index, number, record, optimizer, group, seen))
    if family == "LBFGS":
        record.converged = _converged(optimizer)
        _history(index, optimizer, known)
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
        scalars(group),
        names=tuple(group.get("param_names", ())),
    )
    state = optimizer.state
    plain = Held(index, number)  # shared by every parameter without state
    undecayed = getattr(optimizer, "undecayed", ())
    damped = _damped(result)
    stopped = result.lr == 0 or damped  # nothing but NaN and inf gets through
    inside: set[int] = set()
    for position, tensor in enumerate(tensors):
        param = known.get(id(tensor))
        if param is None:
            name = f"{record.label}.param_groups[{number}]['params'][{position}]"
            param = known[id(tensor)] = seen.param(name, tensor, FOREIGN)
            now.params.append(param)
        if id(tensor) in inside:
            result.duplicates += 1
            continue
        inside.add(id(tensor))
        result.numel += param.numel
        result.foreign += param.model == FOREIGN
        kept = state.get(tensor) if state else None
        held = plain
        if kept or record.family == "Rprop":
            held = _held(index, number, param, tensor, kept or {}, record, result)
        if id(tensor) in undecayed:
            held = replace(held, decays=False)
        param.held += (held,)
        if param.grad == "zero" or (param.grad and damped):
            param.zero = bool(values.is_zero(tensor))
        if (stopped or held.rate == 0) and param.grad not in (None, "zero"):
            param.finite = tensor.grad is None or values.is_finite(tensor.grad)
    if result.names:
        owners = (known[id(tensor)] for tensor in tensors)
        result.paths = tuple("" if p.model == FOREIGN else p.name for p in owners)
    return result


def _held(
    index: int,
    number: int,
    param: Param,
    tensor: Any,
    state: dict[str, Any],
    record: Optimizer,
    group: Group,
) -> Held:
    """A parameter's place, with the state that the optimizer keeps for it."""
    held = Held(index, number)
    if "step" in state:
        held.step = values.number(state["step"])
    moments = [m for key in _MOMENTS if (m := state.get(key)) is not None]
    if moments:
        # The values matter where no gradient outweighs them.
        outweighed = param.grad != "zero" and param.trainable and not _damped(group)
        held.moments = "unknown" if outweighed else _moments(moments, tensor.grad, record.family)
    if record.builtin:
        held.mismatch = _mismatch(tensor, state, record.family)
        if "eta" in state:
            held.rate = values.number(state["eta"])
        if record.family == "Rprop":
            _rprop(held, param, tensor.grad, state, group)
    return held


def _damped(group: Group) -> bool:
    """No gradient gets into the momentum of SGD (dampening) or Muon (momentum)."""
    return 1 in (group.options.get("dampening"), group.options.get("momentum"))


def _moments(moments: list[Any], grad: Any, family: str) -> str:
    if family == "SparseAdam" and grad is not None and grad.is_sparse:
        # Only the entries that the gradient names take part.
        moments = [moment.sparse_mask(grad.detach().coalesce()) for moment in moments]
    zeros = [values.is_zero(moment) for moment in moments]
    if None in zeros:
        return "unknown"
    return "zero" if all(zeros) else "nonzero"


def _mismatch(tensor: Any, state: dict[str, Any], family: str) -> str | None:
    """How a state tensor fails to fit its parameter, in words."""
    for key in _LIKE_PARAM:
        kept = state.get(key)
        if kept is None or type(kept).__name__ == "DTensor" or not hasattr(kept, "shape"):
            continue
        if kept.shape != tensor.shape:
            return f"{key} has shape {tuple(kept.shape)}, the parameter {tuple(tensor.shape)}"
        if kept.device != tensor.device:
            return f"{key} is on {kept.device}, the parameter on {tensor.device}"
        if kept.dtype != tensor.dtype and family in _ONE_TYPE:
            return (
                f"{key} is {values.names[kept.dtype]}, the parameter {values.names[tensor.dtype]}"
            )
    return None


def _rprop(held: Held, param: Param, grad: Any, state: dict[str, Any], group: Group) -> None:
    """Rprop's step sizes, where they may be 0, and whether it leaves every entry alone:
    it does where the gradient has changed its sign, and where it is NaN."""
    if state and group.options.get("step_sizes", (1,))[0] == 0:
        held.rate = 0.0 if values.is_zero(state["step_size"]) else 1.0
    if param.grad != "nonzero" or grad is None or held.mismatch:
        return
    now: Any = values.readable(grad)
    before: Any = values.readable(state.get("prev", grad))
    if now.is_complex():
        now, before = values.torch().view_as_real(now), values.torch().view_as_real(before)
    moving = now.sign() != 0  # not of NaN
    if state:
        # What it keeps has the sign that `maximize` gave it.
        turned = now * before > 0 if group.options.get("maximize") else now * before < 0
        moving = moving & ~turned
    held.blocked = not bool(moving.any())


def _converged(optimizer: Any) -> bool | None:
    """LBFGS would stop before it moves anything, judged as its step() does.

    None: there is no gradient yet, or one that is not finite.
    """
    torch = values.torch()
    group = optimizer.param_groups[0]
    given = [p.grad for p in group["params"] if p.grad is not None and p.numel()]
    real: list[Any] = [values.readable(grad) for grad in given]
    if not real or any(g is None for g in real):
        return None
    dense = [g.to_dense() if g.is_sparse else g for g in real]
    flat = [(torch.view_as_real(g) if g.is_complex() else g).reshape(-1) for g in dense]
    gradient = torch.cat(flat)
    largest, square = float(gradient.abs().max()), float(gradient.dot(gradient))
    if not math.isfinite(square):
        return None
    first = not optimizer.state[group["params"][0]].get("n_iter") if optimizer.state else True
    return largest <= group["tolerance_grad"] or (first and square < group["tolerance_change"])


def _history(index: int, optimizer: Any, known: Mapping[int, Param]) -> None:
    """Whether the directions that LBFGS remembers reach each tensor, as its moments."""
    params = optimizer.param_groups[0]["params"]
    state = optimizer.state.get(params[0], {}) if params else {}
    vectors = [*(state.get("old_dirs") or ()), *(state.get("old_stps") or ())]
    vectors += [v for key in ("d", "prev_flat_grad") if (v := state.get(key)) is not None]
    start = 0
    for tensor in params:
        end = start + tensor.numel() * (2 if tensor.is_complex() else 1)
        if vectors:
            zero = all(values.is_zero(vector[start:end]) for vector in vectors)
            param = known[id(tensor)]
            param.held = tuple(
                replace(h, moments="zero" if zero else "nonzero") if h.optimizer == index else h
                for h in param.held
            )
        start = end


def _family(optimizer: Any) -> str:
    """The class of torch.optim whose step() will run; "" for one of the user's own.

    torch wraps `step` on each class, a scheduler on each object; both keep its module.
    accelerate puts one of its own on the object while a scaler steps, and passes it on.
    """
    kind = type(optimizer)
    own = getattr(optimizer.step, "__module__", None) or ""
    step = kind.step if own.startswith("accelerate.") else optimizer.step
    for function in (step, getattr(kind, "_init_group", step)):
        if not (getattr(function, "__module__", None) or "").startswith("torch.optim."):
            return ""
    return next(c.__name__ for c in kind.__mro__ if c.__module__.startswith("torch.optim"))


def scalars(options: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values among a group's options, one-element tensors as numbers."""
    result: dict[str, Any] = {}
    for key, value in options.items():
        if _is_scalar(value) or isinstance(value, str):
            result[key] = value
        elif key == "params":
            continue
        elif isinstance(value, (tuple, list)):
            plain = tuple(v if _is_scalar(v) else _one(v) for v in value)
            if _ABSENT not in plain:
                result[key] = plain
        elif (number := _one(value)) is not _ABSENT:
            result[key] = number
    return result


_ABSENT = object()


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float))


def _one(value: Any) -> Any:
    """The number in a one-element tensor."""
    if hasattr(value, "item") and hasattr(value, "numel") and value.numel() == 1:
        return values.number(value)
    return _ABSENT
