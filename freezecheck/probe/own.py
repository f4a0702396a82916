"""The probe's own hooks, told from everybody else's: an interrupt may come between hanging one and
knowing its handle, so what takes them down goes by their class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class Own:
    """A forward hook of ours."""

    def __init__(self, hook: Callable[..., None]) -> None:
        self._hook = hook

    def __call__(self, *args: Any) -> None:
        self._hook(*args)


def taken_down(modules: Iterable[Any]) -> None:
    """Have none of ours on any of the modules."""
    for module in modules:
        for name in ("_forward_hooks", "_forward_pre_hooks"):
            hooks = getattr(module, name, {})
            for key in [key for key, hook in hooks.items() if type(hook) is Own]:
                del hooks[key]
