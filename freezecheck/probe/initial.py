"""The weights that a warm-up began with, for a forward pass beside the trained ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from freezecheck.live import drawn, values
from freezecheck.probe.saved import Saved


class Initial:
    """Copies of the buffers, which such passes write to, and the parameters as they were saved."""

    def __init__(self, model: Any, saved: Saved) -> None:
        self._pairs = [(p, saved.original(p).to(p.device)) for p in model.parameters()]
        self.buffers = {b: saved.original(b).to(b.device, copy=True) for b in model.buffers()}
        self._pairs += self.buffers.items()

    @contextlib.contextmanager
    def back(self, device: Any) -> Iterator[None]:
        """Within the block the model has its initial weights, and takes no gradients. Random
        numbers that are drawn there are drawn again afterwards: both passes drop out the same."""
        torch = values.torch()
        trained = [tensor.data for tensor, _ in self._pairs]
        state = drawn.states(device)
        try:
            for tensor, first in self._pairs:
                tensor.data = first
            with torch.no_grad():
                yield
        finally:
            for (tensor, _), data in zip(self._pairs, trained):
                tensor.data = data
            drawn.draw_again(state, device)
