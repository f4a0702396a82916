"""Backward passes and clipping between two steps, and whether anybody else touches gradients or
weights meanwhile."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from freezecheck.live import values
from freezecheck.live.calls import SECOND, Calls, version
from freezecheck.live.program import Backward, Clip, Ref, needed

_BY_HAND = "gradients are changed by other means than clipping"
_KEPT = "gradients are not set to zero between steps"
_MOVED = "weights are changed by other means than the optimizer's step"


class Gradients:
    """Of the parameters of all optimizers, since the last step."""

    def __init__(self, order: Iterator[int], calls: Calls) -> None:
        self.optimizers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._order = order
        self._calls = calls
        self._moved: dict[int, int] = {}  # id of a parameter -> its version after the last step
        self._left: dict[int, tuple[int, int] | None] = {}  # gradients after the last step
        self.forget()

    def forget(self) -> None:
        """A step begins."""
        self.events: list[Backward | Clip] = []
        self.norms: Any = None  # of the gradients that the optimizer finds
        self.problem = ""
        self._grads: dict[int, tuple[int, int] | None] = {}  # after the last event
        self._zeroed = False
        self._repeats = False
        self._scaled = False

    @property
    def params(self) -> list[Any]:
        """Of all optimizers."""
        return params(self.optimizers)

    @property
    def descended(self) -> bool:
        """A backward pass has been noted."""
        return any(isinstance(event, Backward) for event in self.events)

    @property
    def complete(self) -> bool:
        """The rest of the step repeats what has been noted, with other weights."""
        return self._repeats and self.descended

    def begin_step(self, optimizer: Any) -> None:
        """An optimizer's step begins. It may call a closure that makes the gradients, or take the
        scaler's factor out of them itself."""
        self._repeats = isinstance(optimizer, values.torch().optim.LBFGS)
        self._scaled = getattr(optimizer, "grad_scale", None) is not None
        if self.descended:
            self.are_ours()
            self._measure(optimizer)

    def end_step(self, optimizer: Any) -> None:
        """It is over."""
        if self.norms is None and not self._repeats:
            self._measure(optimizer)

    def after_step(self, optimizer: Any) -> None:
        """How things are at the beginning of the next step."""
        own = params([optimizer])
        self._moved = {id(p): version(p) for p in own}
        self._left = _gradients(own)

    def _measure(self, optimizer: Any) -> None:
        if not self._scaled:
            self.norms = gradient_norms(params([optimizer]))

    def descends(
        self, scaler: Any, roots: Any, weights: Any, retain: Any, create: Any, inputs: Any
    ) -> None:
        """A backward pass begins."""
        self.are_ours()
        if any(self._moved.get(id(p), version(p)) != version(p) for p in self.params):
            self.problem = self.problem or _MOVED
        refs = [self._calls.ref(root) for root in roots]
        known = [ref for ref in refs if ref is not None]
        event = Backward(
            next(self._order),
            known,
            list(weights),
            tuple(inputs or ()),
            bool(retain),
            self._calls.autocast(),
            _loss(zip(roots, refs, weights), scaler),
        )
        if len(known) < len(refs):
            event.problem = "a backward pass begins at a parameter or at a constant"
        if create:
            event.problem = SECOND
        self.events.append(event)

    def done(self) -> None:
        """A backward pass, or clipping, is over."""
        self.norms = None
        self._grads = _gradients(self.params)

    def clipped(self, function: Any, parameters: Any, args: Any, kwargs: Any) -> None:
        """Gradients were clipped, or a scaler's factor was taken out of them."""
        given = [parameters] if isinstance(parameters, values.torch().Tensor) else list(parameters)
        if "error_if_nonfinite" in kwargs:  # a warm-up may get there
            kwargs = {**kwargs, "error_if_nonfinite": False}
        autocast = self._calls.autocast()
        self.events.append(Clip(next(self._order), function, given, args, kwargs, autocast))
        self.done()

    def are_ours(self) -> None:
        """Nobody else has touched the gradients since the last event."""
        now = _gradients(self.params)
        if self.descended:
            before = {key: grad for key, grad in self._grads.items() if grad is not None}
            if before and all(now.get(key) is None for key in before):
                self._throw_away()
            elif any(now.get(key) != grad for key, grad in before.items()):
                self.problem = self.problem or _BY_HAND
        elif not self._zeroed:
            left = {key: grad for key, grad in self._left.items() if grad is not None}
            if any(now.get(key) == grad for key, grad in left.items()):
                self.problem = self.problem or _KEPT

    def zeros(self, owner: Any) -> None:
        """Gradients are thrown away: what was done for them, too."""
        grouped = hasattr(owner, "param_groups")
        own = {id(p) for p in (params([owner]) if grouped else owner.parameters())}
        if not self.complete and own & {id(p) for p in self.params}:
            self._throw_away()

    def _throw_away(self) -> None:
        """What was done for these gradients counts for nothing."""
        self._zeroed = True
        self.events.clear()
        self.problem = ""


def params(optimizers: Any) -> list[Any]:
    """All that they hold."""
    return [p for o in optimizers for group in o.param_groups for p in group["params"]]


def _gradients(params: list[Any]) -> dict[int, tuple[int, int] | None]:
    """Which gradients there are, and how often they were written to."""
    return {id(p): None if p.grad is None else (id(p.grad), version(p.grad)) for p in params}


def gradient_norms(params: list[Any]) -> Any:
    """Of the gradients [parameters]; 0 where there is none."""
    torch = values.torch()
    home = params[0].device
    with torch.no_grad():
        each = [
            torch.zeros((), device=home)
            if p.grad is None
            else p.grad.detach().abs().float().norm().to(home, non_blocking=True)
            for p in params
        ]
        return torch.stack(each)


def _loss(roots: Any, scaler: Any) -> Any:
    """The loss of a backward pass, on the device."""
    total: Any = 0
    with values.torch().no_grad():
        for root, ref, weight in roots:
            value = (root.detach() * weight).sum()
            total = total + (value / scaler._scale if scaled(ref) else value)
    return total


def scaled(ref: Ref | None) -> bool:
    """A scaler's factor is in a result."""
    return ref is not None and any(
        call.function is None and not call.problem for call in needed([ref])
    )
