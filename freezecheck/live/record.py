"""A run recorded through torch's own hooks: events in order, and the setup at the first step.

Nothing of the script is changed. Hooks and patches (`hooks`) note who froze
what, what was built from what, which mode was set where, and the user's line
for each. Objects are held weakly, so that what the script drops is gone as it
would be without us; they get their names when the record is read (`naming`).
"""

from __future__ import annotations

import contextlib
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from freezecheck.live import roots
from freezecheck.live.fingerprint import Fingerprint, Print
from freezecheck.live.marks import Mark, Marks
from freezecheck.live.patches import Patches
from freezecheck.live.rounds import Round
from freezecheck.phases import Phase
from freezecheck.snapshot import Snapshot
from freezecheck.timeline import (
    BACKWARD,
    SCHEDULER,
    STEP,
    Timeline,
)
from freezecheck.trace import Trace

_PHASES = 40  # captured at most: a setup that goes on changing is told by then
_SKIPS = 16  # steps that a gradient scaler may skip, one after the other, to find its scale


_installed: weakref.WeakSet[Recorder] = weakref.WeakSet()


class Recorder(Marks):
    """Records one run, in phases: a new one begins where the setup changes.

    `on_ready(recorder)` is called once, inside the optimizer step after which
    enough has been seen: step number `steps`, or the one at which every
    live optimizer has stepped; `steps` None goes on for ever. Changes are looked for at
    each step whose number `every` divides. `on_phase(recorder)`
    is called when a phase has been captured, `on_step(recorder)` after each step,
    `on_optimizer` and `on_backward` when the first optimizer is built and when the
    first backward is done.
    """

    def __init__(
        self, on_ready: Callable[[Recorder], None], steps: int | None = 1, every: int = 1
    ) -> None:
        super().__init__()
        self.on_ready = on_ready
        self.on_phase: Callable[[Recorder], None] | None = None
        self.on_step: Callable[[Recorder], None] | None = None
        self.on_optimizer: Callable[[], None] | None = None
        self.on_backward: Callable[[], None] | None = None
        self.epoch: Callable[[], int | None] = lambda: None  # of the training loader
        self.optimizers: list[Any] = []  # weak, in order of construction
        self.schedulers: list[Any] = []  # weak, in order of construction
        self.samples: dict[int, int] = {}  # id of a batch norm -> batch of that forward
        self.recomputed: set[int] = set()  # ids of batch norms that a backward pass ran again
        self.models: dict[str, Any] = {}  # label -> weak root, as last captured
        self.facts: list[tuple[str, dict[str, Any]]] = []  # about the models, while they were there
        self.wrappers: dict[int, Any] = {}  # id of a module -> weak, the newest wrapper around it
        self.labels: dict[int, str] = {}  # id of an optimizer or scheduler -> what it is called
        self.phases: list[Phase] = []
        self.traces: list[Trace] = []  # of how the losses went, where a `Pulse` listens
        self._wanted = steps
        self._every = every
        self._turn: set[int] = set()  # ids of the optimizers that stepped in this step
        self._late: set[int] = set()  # ids of optimizers built after the first step
        self._taken: dict[int, int] = {}  # id of an optimizer -> steps taken
        self._backwards = 0
        self._skipped: dict[int, int] = {}  # id of an optimizer -> steps a scaler skipped
        self._depth: dict[int, int] = {}
        self._closures: set[int] = set()
        self._round = Round(1, None)
        self._prints: dict[int, Print] = {}  # id of an optimizer -> the setup at its last step
        self._fingerprint: Fingerprint | None = None
        self._cuts: list[int] = []  # marks that each phase begins after
        self._models: list[Any] | None = None  # weak, where some were adopted
        self._strangers: set[int] = set()  # ids of optimizers of other models
        self._ignored: set[int] = set()
        self._patches = Patches()

    def adopt(self, models: list[Any], optimizers: list[Any], schedulers: list[Any]) -> None:
        """Record nothing but these, which are there already, and optimizers of their parameters."""
        self._models = [weakref.ref(m) for m in models]
        self.optimizers = [weakref.ref(o) for o in optimizers]
        self.schedulers = [weakref.ref(s) for s in schedulers]

    def install(self, *, light: bool = False) -> None:
        """Put the hooks in place. Models that exist already are left out of the record, but for
        adopted ones. `light`: without those inside forward passes, which cost time at every
        module and are seen by compilers."""
        from freezecheck.live import hooks

        self.light = light
        if self._models is None:
            self._ignored = {id(module) for module in roots.live_roots()}
        hooks.install(self, self._patches, light=light)
        _installed.add(self)

    def uninstall(self) -> None:
        """Take every hook and patch out again."""
        self._ready = True  # what is still called, under somebody's later patches, says nothing
        self._patches.undo()
        _installed.discard(self)

    # -- what the hooks say ---------------------------------------------------

    def built(self, mark: Mark) -> None:
        """An optimizer was built; whatever had its place in memory before is forgotten."""
        key = id(mark.subject())
        self._strangers.discard(key)
        for known in (self._taken, self._skipped, self._depth, self._prints, self._round.steps):
            known.pop(key, None)
        self._closures.discard(key)
        self._turn.discard(key)
        if self._strange(mark.subject()):
            return
        self.optimizers.append(mark.subject)
        (self._late.add if self.steps else self._late.discard)(key)
        if self.on_optimizer is not None and len(self.optimizers) == 1:
            self.on_optimizer()

    def scheduled(self, scheduler: Any, **rates: Any) -> None:
        """A scheduler was built; `rates` are the groups' before, after and from the one before."""
        self.schedulers.append(weakref.ref(scheduler))
        if self.steps:
            self._prints.clear()  # nothing else may be new, and yet a new phase begins
        self.note(SCHEDULER, scheduler, value=type(scheduler).__name__, **rates)

    def backward(self) -> None:
        """A backward is done; the first one is noted, all are counted."""
        if self.resting:
            return
        self._backwards += 1
        if self._backwards == 1:
            self.note(BACKWARD)
        if self.on_backward is not None:
            callback, self.on_backward = self.on_backward, None
            callback()

    def accumulates(self, optimizer: Any) -> bool:
        """More backwards have been done than it has taken steps."""
        return self._backwards > self._taken.get(id(optimizer), 0)

    # -- stepping -------------------------------------------------------------

    def before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Global pre-hook of every optimizer's step. `args` begin with the optimizer."""
        depth = self._depth.get(id(optimizer), 0)
        self._depth[id(optimizer)] = depth + 1
        if depth or self._ready or self.resting or self._strange(optimizer):
            return
        self._count(optimizer)
        if any(callable(a) for a in (*args[1:], *kwargs.values())):
            self._closures.add(id(optimizer))  # its gradients come inside the step
        else:
            self._at(optimizer)

    def after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Global post-hook; a subclass that calls `super().step()` is counted once."""
        depth = self._depth.get(id(optimizer), 1) - 1
        self._depth[id(optimizer)] = depth
        if depth or self._ready or self.resting or id(optimizer) in self._strangers:
            return
        if id(optimizer) in self._closures:
            self._at(optimizer)
        self._taken[id(optimizer)] = self._taken.get(id(optimizer), 0) + 1
        self.note(STEP, optimizer, value=self._taken[id(optimizer)], backwards=self._backwards)
        if self._round.stepped(optimizer, alive(self.optimizers)) and not self._round.done:
            self._close()
        if self.phases:
            self.phases[-1].last = self.steps
        if self.on_step is not None:
            self.on_step(self)
        if self._wanted is not None and self._over(self._wanted):
            self._finish()

    def _count(self, optimizer: Any) -> None:
        """Whose turn comes again begins a new step; so does who comes in later."""
        late = id(optimizer) not in self._taken and (self.steps > 1 or id(optimizer) in self._late)
        if id(optimizer) in self._turn or late or not self.steps:
            self.steps += 1
            self._turn.clear()
        self._turn.add(id(optimizer))

    def mine(self, optimizer: Any) -> bool:
        """The record is about what it trains."""
        return not self._strange(optimizer)

    def _strange(self, optimizer: Any) -> bool:
        """It has nothing of the adopted models."""
        key = id(optimizer)
        if self._models is None or key in self._strangers:
            return self._models is not None
        if any(o is optimizer for o in alive(self.optimizers)):
            return False
        ours = {id(p) for root in self.live() for p in root.parameters()}
        if ours.isdisjoint(id(p) for group in optimizer.param_groups for p in group["params"]):
            self._strangers.add(key)
        return key in self._strangers

    def live(self) -> list[Any]:
        """The models that a capture chooses from."""
        if self._models is not None:
            return alive(self._models)
        return roots.live_roots(self._ignored, self.wrappers)

    def _at(self, optimizer: Any) -> None:
        """The moment at which an optimizer's step counts: look, where something is new."""
        seen = id(optimizer) in self._round.steps
        due = self.steps % self._every == 0 or id(optimizer) not in self._prints
        if (seen or self._round.done) and due and self._changed(optimizer):
            if not self._round.done:
                self._close()
            if len(self.phases) < _PHASES:
                self._round = Round(self.steps, self.epoch())
                seen = False
        if not seen and not self._round.done:
            self._look(optimizer)

    def _changed(self, optimizer: Any) -> bool:
        """The setup is not what it was at this optimizer's last step."""
        if self._fingerprint is None:
            return False
        now = self._fingerprint.take(optimizer, self.modes)
        before = self._prints.get(id(optimizer))
        self._prints[id(optimizer)] = now
        return now != before

    def _over(self, wanted: int) -> bool:
        """Enough steps: all who take part have taken the last one, or it has been passed."""
        if not self._round.done or self.steps < wanted:
            return False
        return self.steps > wanted or self._turn >= set(self._round.steps) or wanted == 1

    def scaled(self, optimizer: Any) -> None:
        """A gradient scaler was asked for a step. It skips some while it looks for its
        scale; one that never stops skipping must not be waited for."""
        if self._ready or self.resting or id(optimizer) in self._taken:
            return
        self._skipped[id(optimizer)] = self._skipped.get(id(optimizer), 0) + 1
        if self._skipped[id(optimizer)] >= _SKIPS:
            self._look(optimizer)
            self._close()
            self._finish()

    def _look(self, optimizer: Any) -> None:
        """Capture what is true at this step of the optimizer."""
        live = self.live()
        self._round.epoch = self._round.epoch or self.epoch()
        self._round.note(optimizer, live)
        self._round.captured(self._capture(live), alive(self.optimizers))
        self._fingerprint = Fingerprint(alive([*self.models.values()]))
        self._prints[id(optimizer)] = self._fingerprint.take(optimizer, self.modes)

    def _capture(self, live: list[Any]) -> Snapshot:
        from freezecheck.live.naming import capture_run

        return capture_run(self, live, self._round.grads, self._round.flags)

    def _close(self) -> None:
        """A round is over, a phase has begun. What it is about is named while it is there."""
        self._round.close()
        if self._round.snapshot is None:
            return
        last = max(self.steps, 1)
        if self.phases:
            before = self.phases[-1]
            before.last = max(before.first, self._round.first - 1)
        self.phases.append(
            Phase(self._round.first, last, self._round.snapshot, epoch=self._round.epoch)
        )
        self._cuts.append(len(self.marks))
        self._heard.clear()
        if self._wanted != 1:
            self.timeline()
        if self.on_phase is not None:
            self.on_phase(self)

    def end(self) -> None:
        """The run is over: a round that still waits for somebody has seen all that it will, be
        it a step that failed."""
        begun = self._round.steps or (self.phases and self._round.snapshot)
        if not self._ready and not self._round.done and begun:
            self._close()

    def _finish(self) -> None:
        self._ready = True
        self.on_ready(self)

    # -- results --------------------------------------------------------------

    def snapshot(self) -> Snapshot | None:
        """The setup just before the first step (after it, for steps that take a closure).

        Before any step, the setup as it is now; None if there is no optimizer yet.
        """
        if self.phases:
            return self.phases[0].snapshot
        if self._round.snapshot is None and alive(self.optimizers):
            return self._capture(self.live())
        return self._round.snapshot

    def driven_by_closure(self, optimizer: Any) -> bool:
        """Its step was given a closure."""
        return id(optimizer) in self._closures

    def timeline(self) -> Timeline:
        """The events so far, with the names that their objects have now, or had last."""
        from freezecheck.live.naming import timeline

        # With a snapshot its models are the ones to name; a look at the heap is dear.
        past, kept = timeline(self, [] if self.models else self.live())
        for phase, cut in zip(self.phases, self._cuts):
            phase.events = bisect_left(kept, cut)
        return past


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Within the block no recorder hears anything: what a probe does is not the run's."""
    hearing = [recorder for recorder in _installed if not recorder.resting]
    for recorder in hearing:
        recorder.resting = True
    try:
        yield
    finally:
        for recorder in hearing:
            recorder.resting = False


def alive(references: list[Any]) -> list[Any]:
    """The objects that weak references still find."""
    return [item for reference in references if (item := reference()) is not None]
