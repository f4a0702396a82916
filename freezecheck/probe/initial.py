"""The weights that a warm-up began with, for a forward pass beside the trained ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from freezecheck.live import values
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
        state = random_state(device)
        try:
            for tensor, first in self._pairs:
                tensor.data = first
            with torch.no_grad():
                yield
        finally:
            for (tensor, _), data in zip(self._pairs, trained):
                tensor.data = data
            set_random_state(device, state)


def random_state(device: Any) -> Any:
    """Of the CPU and of that device."""
    torch = values.torch()
    gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), gpu


def set_random_state(device: Any, state: Any) -> None:
    """Make it what `random_state` said."""
    torch = values.torch()
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
