"""Models run as they are written: with gradients, whatever surrounds the call, and not compiled."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from freezecheck.live import values


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Within the block compiled models are not: each mode, hook and set of weights would be compiled
    for itself, which takes long and would use up what torch allows the run to compile."""
    torch = values.torch()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):  # torch 2.6
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def compiled(module: Any) -> bool:
    """By `torch.compile(module)` or `module.compile()`."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
