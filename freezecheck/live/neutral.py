"""Torch's switches as they are outside of every block, for what is done in the middle of a script."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from freezecheck.live import values


@contextlib.contextmanager
def neutral() -> Iterator[None]:
    """Within the block gradients are recorded, and autocast is off and in no block of the script's."""
    torch = values.torch()
    depth = 0
    with contextlib.ExitStack() as blocks:
        blocks.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                blocks.enter_context(torch.autocast(kind, enabled=False))
        torch.autocast_increment_nesting()
        depth = torch.autocast_decrement_nesting()
        for _ in range(depth):
            torch.autocast_decrement_nesting()
        try:
            yield
        finally:
            torch.clear_autocast_cache()
            for _ in range(depth):
                torch.autocast_increment_nesting()
