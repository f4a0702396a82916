"""Hearing writes of one attribute, at no cost to any other.

A data descriptor on the class stands before the instance's own dictionary, so
that `layer.requires_grad = False` on a module passes here. It stores and
returns what Python would have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from freezecheck.live import values
from freezecheck.live.oddities import MISSPELLINGS
from freezecheck.live.patches import Patches

_ABSENT = object()


class Watched:
    """In place of a plain attribute, or of the method `original` that the class has under
    this name. `heard(instance, name, value)` is told of every write."""

    def __init__(self, name: str, heard: Callable[[Any, str, Any], None], original: Any) -> None:
        self._name = name
        self._heard = heard
        self._original = original

    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        if instance is not None and self._name in instance.__dict__:
            return instance.__dict__[self._name]
        if owner.__name__ == "FakeRootModule":
            return None  # the compiler's, which reads all that `dir` names
        if self._original is None:
            raise AttributeError(f"{owner.__name__!r} object has no attribute {self._name!r}")
        return self._original.__get__(instance, owner)

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self._name] = value
        self._heard(instance, self._name, value)

    def __delete__(self, instance: Any) -> None:
        if instance.__dict__.pop(self._name, _ABSENT) is _ABSENT:
            raise AttributeError(self._name)


def strays(heard: Callable[[Any, str, Any], None], patches: Patches) -> None:
    """Hear of every attribute that claims a flag where PyTorch keeps none."""
    torch = values.torch()
    for kind in (torch.nn.Module, torch.nn.Parameter):
        own = {"requires_grad"} if kind is torch.nn.Module else set()
        for name in sorted(MISSPELLINGS | {"requires_grad_"} | own):
            patches.put(kind, name, Watched(name, heard, getattr(kind, name, None)))


def layers(heard: Callable[[Any, str, Any], None], patches: Patches) -> None:
    """Hear of attributes of torch's own layers that say less, or more, than they seem to."""
    nn = values.torch().nn
    for kind, name in (
        (nn.modules.batchnorm._NormBase, "track_running_stats"),
        (nn.Linear, "out_features"),
        (nn.modules.conv._ConvNd, "out_channels"),
    ):
        patches.put(kind, name, Watched(name, heard, None))
