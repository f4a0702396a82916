"""Notes of calls: what each was given and what it made, so that it can be done again.

A note lives as long as the tensors that it made, or a backward pass that hangs on it: what a step
does not need, such as validation, is gone by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from freezecheck.live import drawn, nested, values
from freezecheck.live.program import Autocast, Call, Held, Ref

_FOREIGN = (
    "the loss hangs on a tensor whose making was not seen ({}): one of a hook, an attribute of"
)
_FOREIGN += " a module, or an earlier step"
SECOND = "gradients of gradients are taken"
_OVERWRITTEN = "a tensor is written to through another one that shares its memory"
_NOT_IN_PLACE = ("__init__", "__invert__", "__index__", "__int__")


class Calls:
    """The calls since the last step. `order` numbers all that is noted; `weights` are the
    parameters of optimizers, by identity."""

    def __init__(self, order: Iterator[int], weights: Any) -> None:
        self.block = 0  # of autocast, counted
        self._order = order
        self._weights = weights
        self.forget()

    def forget(self) -> None:
        """A step begins: what was made before is constant from now on."""
        self._made: Any = values.torch().utils.weak.WeakIdKeyDictionary()  # tensor: (Ref, version)

    def given(self, args: Any, kwargs: Any, target: Any = None) -> Begun:
        """Before a call that may write to `target`: what is to be remembered for its note."""
        torch = values.torch()
        tensors = list(nested.tensors((args, kwargs)))
        given = nested.rebuilt((args, kwargs), lambda part: self._leaf(part, target))
        versions = [version(tensor) for tensor in tensors]
        grad = torch.is_grad_enabled()
        return Begun(given, tensors, versions, grad, self.autocast(), drawn.states())

    def _leaf(self, part: Any, target: Any) -> Any:
        """What stands for a part of what is given; `target` is about to be written to."""
        if not isinstance(part, values.torch().Tensor):
            return part
        ref = self.ref(part)
        if ref is not None:
            return ref
        if isinstance(part, values.torch().nn.Parameter) or part in self._weights:
            return part
        return Held(part.clone(), 0, True) if part is target else Held(part, version(part))

    def ref(self, tensor: Any) -> Ref | None:
        """The result that a tensor is."""
        made = self._made.get(tensor)
        if made is not None:
            ref, known = made
            return ref if known == version(tensor) else _unknown(_OVERWRITTEN)
        if tensor.requires_grad and not tensor.is_leaf:
            return _unknown(_FOREIGN.format(type(tensor.grad_fn).__name__))
        return None

    def matters(self, args: Any, kwargs: Any) -> bool:
        """It works on results of calls, or on parameters."""
        grad = values.torch().is_grad_enabled()
        return any(
            (grad and tensor.requires_grad) or tensor in self._made
            for tensor in nested.tensors((args, kwargs))
        )

    def note(self, function: Any, begun: Begun, result: Any) -> None:
        """What a call made."""
        known = {id(tensor) for tensor in begun.tensors}
        results = list(nested.tensors(result))
        written = [
            place
            for place, (tensor, before) in enumerate(zip(begun.tensors, begun.versions))
            if version(tensor) != before and not _is_weight(tensor)
        ]
        made = [(i, t) for i, t in enumerate(results) if id(t) not in known and not _is_weight(t)]
        if not made and not written:
            if getattr(function, "__name__", "") == "register_hook":
                self._made[begun.tensors[0]] = _unknown("a tensor has a hook"), begun.versions[0]
            return
        if not self._worth(function, begun, results):
            return
        call = Call(next(self._order), function, begun.given, begun.grad, begun.autocast)
        call.written = tuple(written)
        call.problem = _problem(function, begun, written)
        call.logits = _place(result, results)
        if isinstance(function, values.torch().nn.Module):
            call.modes = tuple(m.training for m in function.modules())
            call.flags = tuple(p.requires_grad for p in function.parameters())
        if not _same(begun.random, drawn.states()):
            call.random = begun.random
        for index, tensor in made:
            self._made[tensor] = Ref(call, index), version(tensor)
        for index, place in enumerate(written, len(results)):
            tensor = begun.tensors[place]
            self._made[tensor] = Ref(call, index), version(tensor)
            self._rewrite(tensor, begun.versions[place], Ref(call, index))

    def _rewrite(self, tensor: Any, before: int, ref: Ref) -> None:
        """Others that share the memory of what was written to have been written to as well."""
        after = version(tensor)
        for other, (own, known) in list(self._made.items()):
            if other is not tensor and known == before and _base(other) is _base(tensor):
                call = Call(next(self._order), _written, ((own, ref), {}), True, ())
                self._made[other] = Ref(call, 0), after

    def _worth(self, function: Any, begun: Begun, results: list[Any]) -> bool:
        """A module that gives no gradients, such as a teacher, is replayed only where training shows
        in it; what others return is as constant as a target."""
        torch = values.torch()
        if not isinstance(function, torch.nn.Module) or any(t.requires_grad for t in results):
            return True
        if any(isinstance(part, Ref) for part in nested.leaves(begun.given)):
            return True
        gathers = torch.nn.modules.batchnorm._BatchNorm
        return function.training and any(
            any(p.requires_grad for p in module._parameters.values() if p is not None)
            or (isinstance(module, gathers) and module.training and module.track_running_stats)
            for module in function.modules()
        )

    def autocast(self) -> Autocast:
        """The block of autocast that this is in."""
        torch = values.torch()
        kinds = [
            (kind, torch.get_autocast_dtype(kind), torch.is_autocast_cache_enabled())
            for kind in ("cpu", "cuda")
            if torch.is_autocast_enabled(kind)
        ]
        return (*kinds, self.block) if kinds else ()


@dataclass(slots=True)
class Begun:
    """What a call is given, and how things are before it."""

    given: Any
    tensors: list[Any]
    versions: list[int]
    grad: bool
    autocast: Autocast
    random: Any


def writes(function: Any) -> bool:
    """By its name it writes to its first argument: `add_`, `__iadd__`, `__setitem__`."""
    name = getattr(function, "__name__", "")
    if name.startswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and name not in _NOT_IN_PLACE)
    return name.endswith("_")


def _unknown(problem: str) -> Ref:
    """A result that cannot be had again."""
    return Ref(Call(0, None, ((), {}), True, (), problem=problem), 0)


def _problem(function: Any, begun: Begun, written: list[int]) -> str:
    """Why a call cannot be done again."""
    if function is values.torch().autograd.grad:
        return SECOND
    kinds = (Ref, Held, values.torch().Tensor)
    given = [part for part in nested.leaves(begun.given) if isinstance(part, kinds)]
    for place in written:
        if not (isinstance(given[place], Ref) or getattr(given[place], "fresh", False)):
            return f"{_named(function)} writes to what it is given"
    return ""


def _place(result: Any, results: list[Any]) -> int | None:
    """Where a model's logits are among its results."""
    if isinstance(result, values.torch().Tensor):
        return None
    logits = (
        result.get("logits") if isinstance(result, Mapping) else getattr(result, "logits", None)
    )
    return next((i for i, tensor in enumerate(results) if tensor is logits), None)


def _named(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _written(tensor: Any, by: Any) -> Any:
    """The tensor, after it was written to through `by`."""
    return tensor


def _base(tensor: Any) -> Any:
    """What it is a view of."""
    return tensor if tensor._base is None else tensor._base


def _is_weight(tensor: Any) -> bool:
    return bool(tensor.is_leaf and tensor.requires_grad)


def version(tensor: Any) -> int:
    """How often it has been written to."""
    return 0 if tensor.is_inference() else int(tensor._version)


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(a.equal(b) for a, b in zip(one, other))
