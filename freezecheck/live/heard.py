"""What a recorder hears beyond the first step: forwards without gradients, schedules at their
end, compiled graphs that are reset.

Forwards and schedules are asked about at every forward or scheduler step, so each begins with
one look into a dictionary, and what has been heard since the last optimizer step is not heard again.
"""

from __future__ import annotations

import ast
import math
import sys
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

from freezecheck.finding import Site
from freezecheck.live import frames, syntax, values
from freezecheck.live.averages import Averages
from freezecheck.live.fingerprint import has_two_modes
from freezecheck.live.marks import Mark
from freezecheck.live.namer import Namer
from freezecheck.live.patches import Patches
from freezecheck.live.record import Recorder, alive
from freezecheck.live.traits import traits
from freezecheck.timeline import DARK, OVERRUN, RESET

_CLEARLY = 1.2  # times as many steps as a cosine was made for: the rate is back at a tenth


class Dark:
    """Forwards without gradients, from the first optimizer step on.

    Each BatchNorm layer, and each dropout in eval mode, is heard at most once between two
    steps; layers that one line runs are one event.
    """

    def __init__(self, recorder: Recorder, torch: Any) -> None:
        self._recorder = recorder
        self._call = torch.nn.Module._call_impl.__code__
        self._namer = Namer(recorder)
        self._averages = Averages(recorder, self._namer)
        self._mark: Mark | None = None
        self._place: tuple[Any, ...] = ()
        self._loops: dict[str, tuple[tuple[int, int, str], ...]] = {}  # by file

    def ran(self, module: Any) -> None:
        """A module is about to run without gradients, for the first time since the last step."""
        recorder = self._recorder
        recorder.dark[id(module)] = recorder.steps
        mode, norm = bool(module.training), traits(type(module)).norm == "batch"
        if not recorder.steps or not has_two_modes(module) or (mode and not norm):
            return
        outer = self._outermost(sys._getframe(2))
        root, site = outer.f_locals.get("self"), _place(outer)
        place = (recorder.steps, site, mode, id(root))
        if place == self._place and self._mark is not None:
            self._mark.params.append(weakref.ref(module))
        else:
            said = tuple(self._said(outer)) if mode else ()
            self._mark = recorder.note(
                DARK, module, site=site, params=[module], value=mode, said=said
            )
            self._place = place
            if mode:
                recorder.timeline()  # names the modes that were set before
        self._namer.give(self._mark)
        if norm and not mode:
            self._averages.evaluated(module, root, site)

    def _outermost(self, frame: FrameType) -> FrameType:
        """The frame of the outermost call of a module that led here."""
        found, up = frame, frame.f_back
        while up is not None:
            if up.f_code is self._call:
                found = up
            up = up.f_back
        return found

    def _said(self, outer: FrameType) -> Iterator[str]:
        """The names of the functions around a call, but for the one that the program began with,
        and what their loops go through."""
        around = list(frames.users(outer.f_back))
        for frame in around:
            top = frame.f_code.co_name == "<module>"
            if not top and frame is not around[-1]:
                yield frame.f_code.co_name
            name = frame.f_code.co_filename
            if name not in self._loops:
                self._loops[name] = _loops(name)
            for first, last, text in self._loops[name]:
                if first <= frame.f_lineno <= last:
                    yield text
            if top:  # of a script, or of a file that is being imported
                return


def _place(outer: FrameType) -> Site | None:
    """The user's line that called the outermost module."""
    user = next(frames.users(outer.f_back), None)
    return None if user is None else Site(frames.shown(user.f_code.co_filename), user.f_lineno)


def _loops(filename: str) -> tuple[tuple[int, int, str], ...]:
    """First and last line of each loop in a file, and what it goes through."""
    tree = syntax.tree(filename)
    return tuple(
        (node.lineno, node.end_lineno or node.lineno, ast.unparse(node.iter))
        for node in (() if tree is None else ast.walk(tree))
        if isinstance(node, (ast.For, ast.AsyncFor))
    )


def schedules(recorder: Recorder, patches: Patches, torch: Any) -> None:
    """A cosine is stepped clearly past its end, and climbs back."""
    home = torch.optim.lr_scheduler
    cosine, real = home.CosineAnnealingLR, torch.optim.Optimizer
    told: weakref.WeakSet[Any] = weakref.WeakSet()
    namer = Namer(recorder)

    def step(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if (
            type(self) is cosine
            and self.last_epoch > _CLEARLY * self.T_max
            and self not in told
            and isinstance(self.optimizer, real)  # else one of our own stand-ins
        ):
            told.add(self)
            namer.give(_overrun(recorder, self))
        return result

    patches.around(home.LRScheduler, "step", step)


def _overrun(recorder: Recorder, cosine: Any) -> Mark:
    whole = next(
        (s for s in alive(recorder.schedulers) if cosine in getattr(s, "_schedulers", ())), cosine
    )
    rates = [values.number(group["lr"]) for group in cosine.optimizer.param_groups]
    return recorder.note(
        OVERRUN,
        whole,
        value=int(cosine.last_epoch),
        end=cosine.T_max,
        low=values.number(cosine.eta_min),
        rate=max(rates, default=math.nan),
        top=max(map(values.number, cosine.base_lrs), default=math.nan),
        cut=recorder.epoch() is not None,
        accumulates=recorder.accumulates(cosine.optimizer),
    )


def resets(recorder: Recorder, patches: Patches, torch: Any) -> None:
    """Compiled graphs are thrown away, to be made again as things are now."""

    def reset(original: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.note(RESET)
        return original(*args, **kwargs)

    patches.around(torch.compiler, "reset", reset)
