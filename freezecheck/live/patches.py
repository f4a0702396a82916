"""Putting our functions in place of torch's, and taking them out again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

_ABSENT = object()
_ours: WeakKeyDictionary[Any, tuple[Patches, Any]] = WeakKeyDictionary()  # what they replace


class Patches:
    """A set of replaced attributes. `undo` restores each exactly as it was found.

    Where somebody else has since put a replacement of his own around ours, that one stays,
    and ours only passes calls through; if that was another set's, ours goes together with it.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._undone = False

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Set `owner.name`; an inherited attribute is shadowed, later uncovered."""
        before = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)

        def restore() -> None:
            if vars(owner).get(name) is not value:
                return
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, _living(before))

        self._undo.append(restore)

    def around(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        """Replace a function by `wrapper(original, *args, **kwargs)`."""
        original = _living(getattr(owner, name))

        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            if self._undone:
                return original(*args, **kwargs)
            return wrapper(original, *args, **kwargs)

        _ours[replacement] = self, original
        self.put(owner, name, replacement)

    def around_backward(self, wrapper: Callable[..., Any]) -> None:
        """Replace autograd's way into its engine, which every kind of backward pass takes."""
        import torch.autograd.graph

        for home in (torch.autograd, torch.autograd.graph):
            if hasattr(home, "_engine_run_backward"):
                self.around(home, "_engine_run_backward", wrapper)

    def later(self, undo: Callable[[], None]) -> None:
        """Something else to undo, such as a hook's `remove`."""
        self._undo.append(undo)

    def undo(self) -> None:
        """Take everything out again, last in first out. Harmless when called twice."""
        self._undone = True
        while self._undo:
            self._undo.pop()()


def _living(value: Any) -> Any:
    """What stands behind replacements of ours that have been undone and could not be taken out."""
    while isinstance(value, FunctionType) and value in _ours and _ours[value][0]._undone:
        value = _ours[value][1]
    return value
