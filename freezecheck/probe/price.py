"""What a probe of recorded steps would take, measured in one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from freezecheck.cost import Cost
from freezecheck.live import values
from freezecheck.probe.batches import size
from freezecheck.probe.initial import Initial
from freezecheck.probe.looks import seen
from freezecheck.probe.memory import peak
from freezecheck.probe.saved import Saved
from freezecheck.probe.setup import Setup
from freezecheck.probe.steps import step


def price(setup: Setup, saved: Saved, times: Sequence[float], nbytes: int, groups: bool) -> Cost:
    """`times` are when the script's own steps were taken, in seconds; a recorded step holds on to
    `nbytes`."""
    initial, batch = Initial(setup.model, saved), setup.batch(0)
    held = setup.batches.held()
    samples = sum(map(size, held)) or 1
    enough = max(1, -(-samples // max(1, size(batch))))

    def paired() -> None:
        step(setup, initial, batch)

    def look() -> None:
        seen(setup, held[:1], None, training=False)

    took = [later - earlier for earlier, later in pairwise(times)]
    return Cost(
        str(setup.device),
        size(batch),
        setup.steps,
        setup.max_steps,
        len(setup.peaks) if groups else 0,
        fmean(took) if took else 0.0,
        _seconds(setup, paired),
        enough * _seconds(setup, look),
        peak(setup.device) or 0,
        saved.nbytes,
        nbytes,
    )


def _seconds(setup: Setup, action: Callable[[], Any]) -> float:
    """Of the second time: the first one warms up."""
    action()
    _wait(setup)
    start = time.perf_counter()
    action()
    _wait(setup)
    return time.perf_counter() - start


def _wait(setup: Setup) -> None:
    if setup.device.type == "cuda":
        values.torch().cuda.synchronize(setup.device)
