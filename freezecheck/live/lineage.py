"""Where optimizers and their state come from: built anew from the same tensors, loaded from whom.

A state that an optimizer gives away is known again by its list of groups, which is kept; its
tensors are not, so that nothing of a dropped optimizer stays in memory.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from freezecheck.live import frames
from freezecheck.live.optimizers import scalars
from freezecheck.timeline import OPTIMIZER

if TYPE_CHECKING:
    from freezecheck.live.marks import Mark
    from freezecheck.live.record import Recorder

_KEPT = 8  # states that were given away last


def options(optimizer: Any) -> tuple[dict[str, Any], ...]:
    """The plain options of each group."""
    return tuple(scalars(group) for group in optimizer.param_groups)


def again(recorder: Recorder, params: Sequence[Any], given: tuple[dict[str, Any], ...]) -> bool:
    """The optimizer built on the user's current line before this one got the same tensors and
    the same options."""
    site = frames.site(2)
    marks = (m for m in reversed(recorder.marks) if m.event.kind == OPTIMIZER)
    before = next((m for m in marks if m.event.site == site), None)
    return (
        before is not None
        and before.event.data["options"] == given
        and [id(ref()) for ref in before.params] == [id(p) for p in params]
    )


class States:
    """The states that optimizers gave away last."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._given: deque[tuple[Any, weakref.ref[Any]]] = deque(maxlen=_KEPT)

    def gave(self, optimizer: Any, state: Any) -> None:
        """An optimizer gave its state away."""
        if isinstance(state, Mapping) and state.get("param_groups"):
            self._given.append((state["param_groups"], weakref.ref(optimizer)))

    def origin(self, loader: Any, state: Any) -> dict[str, Any]:
        """Whose state an optimizer is loading: `origin` "same", "other" or None (a file's), and
        of another one `built`, the rates that it was built with."""
        groups = state.get("param_groups") if isinstance(state, Mapping) else None
        owner = next((ref for kept, ref in self._given if kept is groups), None)
        if owner is None:
            return {"origin": None, "built": None}
        if owner() is loader:
            return {"origin": "same", "built": None}
        mark = self._construction(owner)
        return {"origin": "other", "built": mark.event.data["rates"] if mark else None}

    def _construction(self, owner: weakref.ref[Any]) -> Mark | None:
        """A reference to what is gone is still equal to those that were made to it."""
        built = (m for m in self._recorder.marks if m.event.kind == OPTIMIZER)
        return next((m for m in built if m.subject is owner), None)
