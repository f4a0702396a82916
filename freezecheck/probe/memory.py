"""What is told when memory runs out in a probe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from freezecheck.live import values
from freezecheck.probe.setup import Setup

# Plain RuntimeErrors of torch's, on the CPU and by libraries on a GPU.
_TEXTS = ("can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")


class OutOfMemory(RuntimeError):
    """A probe, and so the run itself, does not fit; the text has the batch size and the peak."""

    __module__ = "freezecheck"


@contextlib.contextmanager
def exhaustion_told(setup: Setup) -> Iterator[None]:
    """Raise OutOfMemory in place of torch's and Python's own exceptions."""
    gpu = setup.device.type == "cuda"
    if gpu:
        values.torch().cuda.reset_peak_memory_stats(setup.device)
    try:
        yield
    except Exception as error:
        if not _is_exhaustion(error):
            raise
        samples = setup.batches.samples  # not asked for anew: that may be what failed
        of = f"with batches of {samples} samples" if samples else "before the first batch"
        raise OutOfMemory(
            f"out of memory {of}{_told(peak(setup.device))}; the probe holds"
            " one copy of the weights and of the optimizer's state more than the run"
        ) from error


def _is_exhaustion(error: Exception) -> bool:
    torch = values.torch()
    kinds = tuple(
        kind
        for kind in (
            MemoryError,
            getattr(torch, "OutOfMemoryError", None),
            torch.cuda.OutOfMemoryError,
        )
        if kind is not None
    )
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)
    )


def peak(device: Any) -> int | None:
    """The most bytes that were in use at once: on a GPU, or by this process; None if not known."""
    if device.type == "cuda":
        return int(values.torch().cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _told(held: int | None) -> str:
    return "" if held is None else f"; at the peak {held / 2**30:.1f} GiB were in use"
