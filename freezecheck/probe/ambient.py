"""What belongs to no object: random states of the process, and torch's global switches."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from freezecheck.live import values

Read = Callable[[], Any]
Write = Callable[[Any], Any]


class Ambient:
    """The random states and switches as they were when it was made."""

    def __init__(self) -> None:
        self._states = [(write, read()) for read, write in _random()]
        self._switches = [(read, write, read()) for read, write in _switches()]

    def steps(self) -> Iterator[Callable[[], Any]]:
        """What is to be called so that they are as they were; each by itself."""
        for read, write, value in self._switches:
            if read() != value:
                yield partial(write, value)
        yield values.torch().clear_autocast_cache  # of weights that are not what they were
        for write, state in self._states:
            yield partial(write, state)


def _random() -> Iterator[tuple[Read, Write]]:
    torch = values.torch()
    yield random.getstate, random.setstate
    if "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        yield numpy.random.get_state, numpy.random.set_state
    yield torch.get_rng_state, torch.set_rng_state
    for name in ("cuda", "xpu"):
        device = getattr(torch, name, None)
        if device is not None and device.is_initialized():
            yield device.get_rng_state_all, device.set_rng_state_all
    if torch.backends.mps.is_available():
        yield torch.mps.get_rng_state, torch.mps.set_rng_state


def _switches() -> Iterator[tuple[Read, Write]]:
    torch = values.torch()
    yield torch.is_grad_enabled, torch.set_grad_enabled
    yield torch.get_default_dtype, torch.set_default_dtype
    yield _anomaly, lambda pair: torch.autograd.set_detect_anomaly(*pair)
    yield _deterministic, lambda pair: torch.use_deterministic_algorithms(*pair[:1], **pair[1])
    yield _nesting, _set_nesting
    yield torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled
    kinds = ["cpu", *(kind for kind in ("cuda", "xpu") if _ready(kind))]
    for kind in kinds:
        yield _autocast(kind)
    cudnn = torch.backends.cudnn
    for name in ("enabled", "benchmark", "deterministic"):
        yield _attribute(cudnn, name)


def _ready(kind: str) -> bool:
    device = getattr(values.torch(), kind, None)
    return device is not None and bool(device.is_initialized())


def _anomaly() -> tuple[bool, bool]:
    torch = values.torch()
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _deterministic() -> tuple[bool, dict[str, bool]]:
    torch = values.torch()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), {"warn_only": warn}


def _nesting() -> int:
    """Of autocast blocks. One that was broken off on its way in or out leaves it wrong, and then
    copies of weights in half precision outlive the weights."""
    torch = values.torch()
    torch.autocast_increment_nesting()
    return int(torch.autocast_decrement_nesting())


def _set_nesting(depth: int) -> None:
    torch = values.torch()
    while _nesting() > depth:
        torch.autocast_decrement_nesting()
    while _nesting() < depth:
        torch.autocast_increment_nesting()


def _autocast(kind: str) -> tuple[Read, Write]:
    torch = values.torch()

    def read() -> tuple[bool, Any]:
        return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    def write(pair: tuple[bool, Any]) -> None:
        torch.set_autocast_enabled(kind, pair[0])
        torch.set_autocast_dtype(kind, pair[1])

    return read, write


def _attribute(owner: Any, name: str) -> tuple[Read, Write]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)
