"""A run recorded through torch's own hooks: events in order, and the setup at the first step.

Nothing of the script is changed. Hooks and patches note who froze what, what
was built from what, which mode was set where, and the user's line for each;
objects are held weakly, so that what the script drops is gone as without us.
Names are given at the end, when the tree of the live models is known.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from freezecheck.finding import Site
from freezecheck.live import frames, roots, values
from freezecheck.live.optimizers import unwrap
from freezecheck.live.patches import Patches
from freezecheck.live.traits import traits
from freezecheck.snapshot import Snapshot
from freezecheck.timeline import Event, Timeline

_SKIPPED = 8  # steps of one optimizer after which the others are not waited for


@dataclass(slots=True)
class Mark:
    """An event whose objects have no names yet."""

    event: Event
    subject: Any = None  # weak reference to a module, optimizer or scheduler
    params: list[Any] = field(default_factory=list)  # weak references


class Recorder:
    """Records one run. `on_ready` is called once, inside the optimizer step at
    which every live optimizer has stepped; it decides what happens then."""

    def __init__(self, on_ready: Callable[[Recorder], None]) -> None:
        self.marks: list[Mark] = []
        self.on_ready = on_ready
        self.steps: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.optimizers: list[Any] = []  # weak, in order of construction
        self.schedulers: list[Any] = []  # weak
        self.closures: set[int] = set()
        self.grads: dict[int, str] = {}  # id of a parameter -> gradient at its step
        self.modes: dict[int, bool] = {}  # id of a module -> mode at its last training forward
        self.batch: int | None = None
        self.backwards = 0
        self.sources: dict[tuple[str, int], Any] = {}  # where named_parameters was asked for
        self._ignored: set[int] = set()
        self._patches = Patches()
        self._depth: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._ready = False
        self._local = threading.local()

    # -- installing ---------------------------------------------------------

    def install(self) -> None:
        """Put the hooks in place; models that exist already are left out of the record."""
        from freezecheck.live import hooks

        self._ignored = {id(m) for m in roots.live_roots()}
        hooks.install(self, self._patches)

    def uninstall(self) -> None:
        """Take every hook and patch out again."""
        self._patches.undo()

    # -- noting -------------------------------------------------------------

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
        event = Event(
            kind, site or frames.site(2), value=value, step=self.total_steps, data=data
        )
        mark = Mark(event, None if subject is None else weakref.ref(subject))
        if params is not None:
            mark.params = [weakref.ref(p) for p in params]
        self.marks.append(mark)
        return mark

    def flag(self, parameter: Any, value: bool) -> None:
        """`requires_grad` was written. Runs of writes on one line are one event."""
        site = frames.site(2)
        last = self.marks[-1] if self.marks else None
        if last and last.event.kind == "flag" and last.event.site == site:
            if last.event.value == value:
                last.params.append(weakref.ref(parameter))
                return
        self.note("flag", site=site, params=[parameter], value=value)

    @property
    def total_steps(self) -> int:
        """Steps taken by all optimizers so far."""
        return sum(self.steps.values())

    def nested(self, key: str) -> Nesting:
        """A counter that tells the outermost of nested calls on this thread."""
        return Nesting(self._local, key)

    # -- stepping -----------------------------------------------------------

    def before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Global pre-hook of every optimizer's step."""
        depth = self._depth.get(optimizer, 0)
        self._depth[optimizer] = depth + 1
        if depth or self._ready:
            return
        closure = next((a for a in (*args, *kwargs.values()) if callable(a)), None)
        if closure is not None:
            self.closures.add(id(optimizer))
        elif self.steps.get(optimizer, 0) == 0:
            self._look(optimizer)

    def after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Global post-hook; the last first step makes the record ready."""
        depth = self._depth.get(optimizer, 1) - 1
        self._depth[optimizer] = depth
        if depth or self._ready:
            return
        if id(optimizer) in self.closures and self.steps.get(optimizer, 0) == 0:
            self._look(optimizer)
        self.steps[optimizer] = self.steps.get(optimizer, 0) + 1
        self.note("step", optimizer, value=self.steps[optimizer])
        if self._all_stepped():
            self._ready = True
            self.on_ready(self)

    def _look(self, optimizer: Any) -> None:
        """Keep what is true only now: the gradients that this step uses."""
        for group in unwrap(optimizer).param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.grads[id(p)] = values.gradient(p.grad)
        for root in self._live_roots():
            for p in root.parameters():
                if p.grad is not None and id(p) not in self.grads:
                    self.grads[id(p)] = values.gradient(p.grad)
        self._before = self._capture()

    def _all_stepped(self) -> bool:
        alive = self._alive(self.optimizers)
        if any(steps >= _SKIPPED for steps in self.steps.values()):
            return True
        # An optimizer that was replaced may be kept alive by its scheduler; one
        # that has been stepped four times is not waiting for the others.
        return all(self.steps.get(o, 0) for o in alive) or any(
            steps >= 4 for steps in self.steps.values()
        )

    # -- results ------------------------------------------------------------

    def snapshot(self) -> Snapshot | None:
        """The setup as it was just before the step; None if no step was seen."""
        return getattr(self, "_before", None)

    def timeline(self) -> Timeline:
        """The events so far, with names."""
        from freezecheck.live.naming import name_events

        return name_events(self)

    def _alive(self, references: list[Any]) -> list[Any]:
        return [o for r in references if (o := r()) is not None]

    def _live_roots(self) -> list[Any]:
        return roots.live_roots(self._ignored)

    def _capture(self) -> Snapshot:
        raise NotImplementedError


class Nesting:
    """`with recorder.nested("train") as outermost:`"""

    def __init__(self, local: threading.local, key: str) -> None:
        self._local = local
        self._key = key

    def __enter__(self) -> bool:
        depth = getattr(self._local, self._key, 0)
        setattr(self._local, self._key, depth + 1)
        return depth == 0

    def __exit__(self, *exc: object) -> None:
        setattr(self._local, self._key, getattr(self._local, self._key) - 1)
