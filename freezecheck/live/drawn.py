"""Random numbers that a forward pass draws on a device, to be drawn again."""

from __future__ import annotations

from typing import Any

from freezecheck.live import values


def states(device: Any = None) -> list[Any]:
    """Of the CPU, and of that GPU; without a device of the current one, if GPUs are in use."""
    torch = values.torch()
    found = [torch.get_rng_state()]
    if torch.cuda.is_initialized() if device is None else device.type == "cuda":
        found.append(
            torch.cuda.get_rng_state() if device is None else torch.cuda.get_rng_state(device)
        )
    return found


def draw_again(states: list[Any], device: Any = None) -> None:
    """Go back to what `states` said of the same device."""
    torch = values.torch()
    torch.set_rng_state(states[0])
    for state in states[1:]:
        if device is None:
            torch.cuda.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, device)
