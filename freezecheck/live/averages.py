"""Copies of a model that follow it: does what they are evaluated with follow, too?

A copy is in no optimizer and so no model of the run. It is met when it is evaluated, and
looked at again at later evaluations, ever more rarely: some of its parameters, some of its
running means, and those of the model that it was copied from.
"""

from __future__ import annotations

import sys
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from freezecheck.finding import Site
from freezecheck.live import frames, values
from freezecheck.live.tree import unwrap
from freezecheck.timeline import AVERAGE

if TYPE_CHECKING:
    from freezecheck.live.namer import Namer
    from freezecheck.live.record import Recorder

_SAMPLES = 3  # tensors of a kind that stand for all
_LOOKS = 64  # evaluations after which a copy is left alone


@dataclass(slots=True)
class _Copy:
    """A copy as it was at its first evaluation. References are weak."""

    root: Any
    model: Any  # that it was copied from
    step: int
    watched: list[
        tuple[Any, Any]
    ]  # parameters of the copy that learn in the model, and their values then
    means: list[tuple[Any, Any]]  # the same of its running means
    moving: list[tuple[Any, Any]]  # the same of the model's
    count: int = 1


class Averages:
    """The copies met so far."""

    def __init__(self, recorder: Recorder, namer: Namer) -> None:
        self._recorder = recorder
        self._namer = namer
        self._met: dict[int, _Copy | None] = {}  # id of a BatchNorm layer -> what it is part of

    def evaluated(self, norm: Any, root: Any, site: Site | None) -> None:
        """A BatchNorm layer below `root` runs in eval mode and without gradients."""
        if id(norm) not in self._met:
            copy = self._meet(root)
            self._met.update((id(n), copy) for n in _norms(root))
            self._met.setdefault(id(norm), None)
            return
        copy = self._met[id(norm)]
        if copy is None or copy.root() is None or copy.step == self._recorder.steps:
            return
        copy.step = self._recorder.steps
        copy.count += 1
        if copy.count > _LOOKS or copy.count & (copy.count - 1):  # at each power of two
            return
        if _moved(copy.watched) and _moved(copy.moving) and not _moved(copy.means):
            copy.count = _LOOKS
            self._tell(copy, site)

    def _tell(self, copy: _Copy, site: Site | None) -> None:
        root, model = copy.root(), copy.model()
        if model is None or _is_trained(root, self._recorder):
            return
        layers = len(_norms(root))
        mark = self._recorder.note(AVERAGE, model, site=site, value=_name(root), layers=layers)
        self._namer.give(mark)

    def _meet(self, root: Any) -> _Copy | None:
        """The copy, if it is one, of a model of the run."""
        if root is None or _is_trained(root, self._recorder):
            return None
        for reference in self._recorder.models.values():
            model = reference()
            if model is None:
                continue
            model = unwrap(model)[0]
            pairs = list(zip(root.parameters(), model.parameters()))
            if not _alike(root, model):
                continue
            learning = [mine for mine, theirs in pairs if theirs.requires_grad]
            means = [n.running_mean for n in _norms(root)]
            return _Copy(
                weakref.ref(root),
                weakref.ref(model),
                self._recorder.steps,
                _some(learning),
                _some(means),
                _some([n.running_mean for n in _norms(model)]),
            )
        return None


def _name(root: Any) -> str | None:
    """What the program calls it, the outermost name first: a function that evaluates any model
    has a name of its own for it."""
    for frame in reversed(list(frames.users(sys._getframe(1)))):
        for name, value in list(frame.f_locals.items()):
            if value is root:
                return name
            if name == "self":
                for attribute, item in list(getattr(value, "__dict__", {}).items()):
                    if item is root:
                        return f"self.{attribute}"
    return None


def _is_trained(root: Any, recorder: Recorder) -> bool:
    """It is one of the run's models, or a part of one."""
    tensors = {id(p) for p in root.parameters()}
    models = [model for reference in recorder.models.values() if (model := reference())]
    return any(id(p) in tensors for model in models for p in model.parameters())


def _alike(one: Any, other: Any) -> bool:
    """Tensors of the same shapes in the same order."""
    shapes = [[tuple(p.shape) for p in m.parameters()] for m in (one, other)]
    return shapes[0] == shapes[1] and len(_norms(one)) == len(_norms(other)) > 0


def _norms(root: Any) -> list[Any]:
    """Its layers with running statistics."""
    if root is None:
        return []
    return [m for m in root.modules() if m._buffers.get("running_mean") is not None]


def _some(tensors: list[Any]) -> list[tuple[Any, Any]]:
    """The first, the last and what is between, with their values now."""
    chosen = tensors[:: max(1, len(tensors) // (_SAMPLES - 1))][: _SAMPLES - 1] + tensors[-1:]
    return [(weakref.ref(t), t.detach().clone()) for t in chosen]


def _moved(samples: list[tuple[Any, Any]]) -> bool:
    """One of them has another value now; one that has been replaced counts as moved."""
    torch = values.torch()
    return any((now := t()) is None or not torch.equal(now, then) for t, then in samples)
