"""The events of a run as they are heard: who froze what on which line, what was put where.

They get their names when the record is read (`naming`), or as soon as there are any to give.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from freezecheck.finding import Site
from freezecheck.live import frames, guards, patterns
from freezecheck.live.tree import unwrap
from freezecheck.names import loops
from freezecheck.timeline import ATTRIBUTE, FLAG, PATTERN, REPLACE, STEP, STRAY, Event

_REPEATS = 4  # steps of a phase of which the same event is kept


@dataclass(slots=True)
class Mark:
    """An event whose objects have no names yet; all references are weak."""

    event: Event
    subject: Any = None
    params: list[Any] = field(default_factory=list)
    named: bool = False  # the event has names, which it keeps when its objects go


@dataclass(slots=True)
class Heard:
    """How often the same event has been heard in a phase."""

    times: int = 0  # steps at which it was
    step: int = -1  # the latest of them
    latest: list[Mark] = field(default_factory=list)  # its marks at that step


class Marks:
    """What a run says, event by event. Objects are held weakly."""

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self.steps = 0  # begun so far; optimizers that take turns step together in one
        self.modes: dict[int, bool] = {}  # id of a module -> mode at its last training forward
        self.dark: dict[int, int] = {}  # id of a module -> steps begun at its last run without grad
        self.light = False  # nothing inside forward passes is heard
        self._heard: dict[Any, Heard] = {}  # in this phase
        self._reader = patterns.Reader()
        self._guards = guards.Guards()
        self._asked: set[Any] = set()
        self._local = threading.local()
        self.resting = False  # what happens now is a probe's doing
        self._ready = False  # enough has been heard

    def note(
        self,
        kind: str,
        subject: Any = None,
        *,
        site: Site | None = None,
        params: list[Any] | None = None,
        value: Any = None,
        **data: Any,
    ) -> Mark:
        """Add an event at the user's current line."""
        event = Event(kind, site or frames.site(2), value=value, step=self.steps, data=data)
        mark = Mark(event, None if subject is None else weakref.ref(subject))
        mark.params = [weakref.ref(p) for p in params or ()]
        return self._add(mark, id(subject))

    def _add(self, mark: Mark, subject: int = 0) -> Mark:
        """Keep a mark. Of those that are heard at step after step of a phase, the first few
        and the latest are kept, so that the record does not grow with the run."""
        if self._ready or self.resting:
            return mark
        event = mark.event
        value = None if event.kind == STEP else event.value
        heard = self._heard.setdefault((event.kind, event.site, value, subject), Heard())
        if heard.step != self.steps:
            if heard.times >= _REPEATS:
                self._drop(heard.latest)
            heard.step, heard.times, heard.latest = self.steps, heard.times + 1, []
        heard.latest.append(mark)
        self.marks.append(mark)
        return mark

    def _drop(self, marks: list[Mark]) -> None:
        for mark in reversed(marks):
            at = next(i for i in reversed(range(len(self.marks))) if self.marks[i] is mark)
            del self.marks[at]

    def flag(self, parameter: Any, value: bool) -> None:
        """`requires_grad` was written. Writes on one line, one after the other, are one event."""
        site = frames.site(2)
        last = self.marks[-1] if self.marks else None
        if (
            last
            and last.event.kind == FLAG
            and (last.event.site, last.event.value, last.event.step) == (site, value, self.steps)
        ):
            last.params.append(weakref.ref(parameter))
        else:
            around = {} if self.steps else self._circumstances()
            self.note(FLAG, site=site, params=[parameter], value=value, **around)

    def _circumstances(self) -> dict[str, Any]:
        """Who writes a flag before the first step, and what has happened by then."""
        ran = None if self.light else bool(self.modes or self.dark)
        frame = sys._getframe(2)
        return {"direct": frames.direct(2), "choices": self._guards.choices(frame), "ran": ran}

    def replaced(self, module: Any) -> None:
        """A module took another one's place. What one line replaces is one event."""
        site = frames.site(2)
        params = list(module.parameters())
        last = self.marks[-1] if self.marks else None
        if last and last.event.kind == REPLACE and last.event.site == site:
            last.params.extend(weakref.ref(p) for p in params)
        elif params:
            self.note(REPLACE, site=site, params=params)

    def attribute(self, module: Any, name: str, value: Any) -> None:
        """The attribute of a module is being set, which counts if the user's own line does it."""
        site = frames.setter(2)
        if site is not None:
            plain = value if isinstance(value, (bool, int, str)) else None
            self.note(ATTRIBUTE, module, site=site, value=plain, attribute=name)

    def stray(self, owner: Any, attribute: str, value: Any) -> None:
        """An attribute without effect was set. One line's in a row are one event."""
        site = frames.site(2)
        plain = value if isinstance(value, (bool, int)) else type(value).__name__
        new = Event(STRAY, site, value=plain, step=self.steps, data={"attribute": attribute})
        last = self.marks[-1] if self.marks else None
        if last is None or last.event != new:
            last = self._add(Mark(new))
        last.params.append(weakref.ref(owner))

    def asked(
        self, module: Any, method: str, frame: FrameType, names: Callable[[], list[str]]
    ) -> None:
        """The user's `frame` goes through names: the tests on them are read from the source."""
        for chain in self._reader.chains(frame, method):
            where = _caller(frame)
            key = (frame.f_code.co_filename, where, id(module), chain.branches)
            if key in self._asked:
                continue
            self._asked.add(key)
            reached = chain.reached(names())
            if reached:
                path = frames.shown(frame.f_code.co_filename)
                site = Site(path, *chain.branches[0][2:])
                data = chain.data(loops.METHODS[method], where)
                inner, _ = unwrap(module)  # a wrapper may be gone by the time that this is read
                self.note(PATTERN, inner, site=site, **data).event.names = reached

    def nested(self, key: str) -> Nesting:
        """`with recorder.nested("train") as outermost:` on this thread."""
        return Nesting(self._local, key)


class Nesting:
    """Tells the outermost of nested calls on one thread."""

    def __init__(self, local: threading.local, key: str) -> None:
        self._local = local
        self._key = key

    def __enter__(self) -> bool:
        depth = getattr(self._local, self._key, 0)
        setattr(self._local, self._key, depth + 1)
        return depth == 0

    def __exit__(self, *exc: object) -> None:
        setattr(self._local, self._key, getattr(self._local, self._key) - 1)


def _caller(frame: FrameType) -> tuple[str, int] | None:
    """File and line from which the function of `frame` was called; None at top level."""
    if frame.f_code.co_name == "<module>":
        return None
    caller = next(frames.users(frame.f_back), None)
    return None if caller is None else (frames.shown(caller.f_code.co_filename), caller.f_lineno)
