"""A recorded step, done again with the weights of now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from freezecheck.live import drawn, nested, values
from freezecheck.live.program import Autocast, Backward, Call, Held, Ref, Taped, needed


class Play:
    """One replay: `results` are those of the calls, as far as it has got."""

    def __init__(self, scaler: Any, remembered: bool) -> None:
        self.results: dict[Call, list[Any]] = {}
        self._scaler = scaler
        self._remembered = remembered
        self._blocks = contextlib.ExitStack()
        self._autocast: Autocast | None = None

    @contextlib.contextmanager
    def going(self) -> Iterator[None]:
        """Autocast is as it was within the block."""
        try:
            yield
        finally:
            self._blocks.close()

    def steps(self, taped: Taped, optimizer: Any) -> Iterator[Any]:
        """Everything, in order; the losses of the backward passes come out."""
        for step in taped.program:
            if isinstance(step, Call):
                self.call(step)
                continue
            self._as_then(step.autocast)
            if isinstance(step, Backward):
                yield self.loss(step).detach()
                self._descend(step)
            elif step.function is not None:
                step.function(step.parameters, *step.args, **step.kwargs)
            elif self._scaler is not None:
                self._scaler.unscale_(optimizer)

    def call(self, call: Call) -> None:
        """Do it again."""
        torch = values.torch()
        self._as_then(call.autocast)
        args, kwargs = nested.rebuilt(call.given, self._part)
        if call.random is not None and self._remembered:
            drawn.draw_again(call.random)
        quiet = contextlib.nullcontext() if call.grad else torch.no_grad()
        with quiet:
            returned = (
                self._scale(*args) if call.function is None else call.function(*args, **kwargs)
            )
        results = list(nested.tensors(returned))
        if call.written:
            given = list(nested.tensors((args, kwargs)))
            results += [given[place] for place in call.written]
        self.results[call] = results

    def loss(self, step: Backward) -> Any:
        """Of a backward pass, without the scaler's factor."""
        total: Any = 0
        for root, weight in zip(step.roots, step.weights):
            value = (self._result(root) * weight).sum()
            if self._scaler is not None and any(c.function is None for c in needed([root])):
                value = value / self._scaler.scale(value.new_ones(()))
            total = total + value
        return total

    def _descend(self, step: Backward) -> None:
        roots = [self._result(root) for root in step.roots]
        if not any(root.requires_grad for root in roots):
            raise ValueError("the loss hangs on no trainable parameter")
        values.torch().autograd.backward(
            roots, step.weights, retain_graph=step.retain, inputs=step.inputs or None
        )

    def _scale(self, outputs: Any) -> Any:
        return outputs if self._scaler is None else self._scaler.scale(outputs)

    def _result(self, ref: Ref) -> Any:
        return self.results[ref.call][ref.index]

    def _part(self, part: Any) -> Any:
        if isinstance(part, Ref):
            return self._result(part)
        if not isinstance(part, Held):
            return part
        if part.fresh:
            return part.tensor.clone()
        if part.changed:
            raise ValueError("an input of a recorded step has been overwritten since")
        return part.tensor

    def _as_then(self, autocast: Autocast) -> None:
        """Enter the autocast block of an instruction, unless it is still the one before."""
        if autocast == self._autocast:
            return
        torch = values.torch()
        self._blocks.close()
        self._autocast = autocast
        wanted = {kind: (dtype, cache) for kind, dtype, cache in autocast[:-1]}
        for kind in ("cpu", "cuda"):
            if kind in wanted:
                dtype, cache = wanted[kind]
                self._blocks.enter_context(torch.autocast(kind, dtype, cache_enabled=cache))
            elif torch.is_autocast_enabled(kind):
                self._blocks.enter_context(torch.autocast(kind, enabled=False))
