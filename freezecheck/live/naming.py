"""Names for what a run recorded: which models it trains, and what everything is called.

Of all modules alive, a run is about those that an optimizer holds parameters
of, or that received a gradient. EMA copies and teachers are neither, and are
left out.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Collection, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from freezecheck.finding import Site
from freezecheck.live import roots
from freezecheck.live.capture import capture
from freezecheck.live.oddities import contained
from freezecheck.live.tree import paths
from freezecheck.snapshot import Param, Snapshot
from freezecheck.timeline import (
    AVERAGE,
    DARK,
    FACT,
    GROUP,
    MODE,
    OPTIMIZER,
    PATTERN,
    SCHEDULER,
    Event,
    Timeline,
)

if TYPE_CHECKING:
    from freezecheck.live.marks import Mark
    from freezecheck.live.record import Recorder


def capture_run(
    recorder: Recorder, live: list[Any], grads: Mapping[int, str], flags: Mapping[int, bool]
) -> Snapshot:
    """The setup of a run, with the lines where its parts were made."""
    from freezecheck.live.record import alive

    optimizers = alive(recorder.optimizers)
    schedulers = _outermost(alive(recorder.schedulers))
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    concerned = _without_views(_concerned(live, held, grads), recorder.modes)
    models = roots.names(concerned, "model")
    named_optimizers = roots.names(optimizers, "optimizer")
    named_schedulers = roots.names(schedulers, "scheduler")
    now = capture(
        models,
        named_optimizers,
        named_schedulers,
        recorded=True,
        grads=grads,
        modes=recorder.modes,
        flags=flags,
    )
    for record, optimizer in zip(now.optimizers, optimizers):
        record.closure = recorder.driven_by_closure(optimizer)
    _mark_dropped(now, optimizers, [named_optimizers, *alive(recorder.schedulers)])
    _told(now, recorder, models, named_optimizers, named_schedulers)
    return now


def capture_returned(
    recorder: Recorder,
    models: Mapping[str, Any],
    optimizers: Mapping[str, Any],
    schedulers: Mapping[str, Any],
    *,
    forward: bool,
) -> Snapshot:
    """The setup that a function returned, with the lines where its parts were made.

    Keys are labels. `forward`: the models ran since, in the modes that count. Optimizers and
    schedulers that were not returned are not named, and what happened to them is left out.
    """
    modes = recorder.modes if forward else None
    now = capture(models, optimizers, schedulers, modes=modes)
    now.trial = forward
    recorder.labels.clear()
    _told(now, recorder, models, optimizers, schedulers)
    return now


def _told(
    now: Snapshot,
    recorder: Recorder,
    models: Mapping[str, Any],
    optimizers: Mapping[str, Any],
    schedulers: Mapping[str, Any],
) -> None:
    """Add to a snapshot what only the record tells; what everything is called, to the record."""
    recorder.models = {label: weakref.ref(root) for label, root in models.items()}
    for labels in (optimizers, schedulers):
        recorder.labels.update((id(item), label) for label, item in labels.items())
    _place(now, recorder.marks, [*optimizers.values()], [*schedulers.values()])
    trees = [paths(model) for model in models.values()]
    _place_modes(now, recorder, trees)
    if now.after_backward or now.recorded:
        _place_calls(now, recorder, trees)


def _concerned(live: list[Any], held: set[int], grads: Mapping[int, str]) -> list[Any]:
    """The roots that the run trains. One that sits in another's plain list and is in no
    optimizer is that one's lost part, not a model of its own."""
    trained = [r for r in live if any(id(p) in held for p in r.parameters())]
    kept = {id(root) for root in trained}
    lost = {key for root in trained for key in contained(root)}
    return [
        root
        for root in live
        if id(root) in kept
        or (id(root) not in lost and any(id(p) in grads for p in root.parameters()))
    ]


def _without_views(concerned: list[Any], ran: Collection[int]) -> list[Any]:
    """Without containers that were built around parts of another model to take hold of them
    (`blocks = model.features[-2:]`) and never run. `ran` are ids of modules."""
    tensors = {id(r): {id(p) for p in r.parameters()} for r in concerned} if ran else {}
    return [
        root
        for root in concerned
        if id(root) in ran
        or not any(tensors[id(root)] < tensors[id(r)] for r in concerned if tensors)
    ]


def _mark_dropped(now: Snapshot, optimizers: list[Any], others: list[Any]) -> None:
    """Which optimizers were replaced: of several, those that only a scheduler keeps alive.

    `others` are the schedulers and what else of ours refers to the optimizers.
    """
    if len(optimizers) < 2:
        return
    discounted = {id(optimizers), *map(id, others)}
    discounted.update(id(vars(o)) for o in others if hasattr(o, "__dict__"))
    for index in {s.optimizer for s in now.schedulers if s.optimizer is not None}:
        holders = gc.get_referrers(optimizers[index])
        now.optimizers[index].dropped = all(
            id(h) in discounted or isinstance(h, FrameType) for h in holders
        )


def _outermost(schedulers: list[Any]) -> list[Any]:
    """Schedulers that are not a part of another one."""
    parts = {id(part) for s in schedulers for part in getattr(s, "_schedulers", ())}
    return [s for s in schedulers if id(s) not in parts]


def _place(now: Snapshot, marks: list[Mark], optimizers: list[Any], schedulers: list[Any]) -> None:
    """Where optimizers, groups and schedulers were made."""
    by_id = {id(o): record for o, record in zip(optimizers, now.optimizers)}
    by_id_too = {id(s): record for s, record in zip(schedulers, now.schedulers)}
    for mark in marks:
        subject = None if mark.subject is None else mark.subject()
        event = mark.event
        if event.kind == OPTIMIZER and id(subject) in by_id:
            by_id[id(subject)].site = event.site
        elif event.kind == GROUP and id(subject) in by_id:
            groups = by_id[id(subject)].groups
            if event.data["index"] < len(groups):
                groups[event.data["index"]].site = event.site
        elif event.kind == SCHEDULER and id(subject) in by_id_too:
            by_id_too[id(subject)].site = event.site


def _place_modes(now: Snapshot, recorder: Recorder, trees: list[dict[str, Any]]) -> None:
    """The last line that set each norm layer's mode, and the batch that it saw."""
    sites: dict[int, Site | None] = {}
    for mark in recorder.marks:
        if mark.event.kind == MODE and (subject := mark.subject()) is not None:
            sites.update((id(below), mark.event.site) for below in subject.modules())
    for norm in now.norms:
        module = trees[norm.model].get(norm.path)
        norm.site = sites.get(id(module))
        norm.samples = recorder.samples.get(id(module))
        norm.recomputed = id(module) in recorder.recomputed


def _place_calls(now: Snapshot, recorder: Recorder, trees: list[dict[str, Any]]) -> None:
    """How the modules ran whose trainable parameters got no gradient."""
    without = [p for p in now.trainable if p.held and p.grad is None]
    if not without or recorder.light:  # which does not hear who runs
        return
    order = {key: position for position, key in enumerate(recorder.modes)}

    def position(param: Param) -> int | None:
        return order.get(id(trees[param.model].get(param.module)))

    reached = [at for p in now.owned if p.grad is not None if (at := position(p)) is not None]
    first = min(reached, default=0)
    for param in without:
        at = position(param)
        if at is not None:
            param.called = "before" if at < first else "beside"
        else:
            dark = id(trees[param.model].get(param.module)) in recorder.dark
            param.called = "no_grad" if dark else "never"


def timeline(recorder: Recorder, live: list[Any]) -> tuple[Timeline, list[int]]:
    """The recorded events that concern the run's models, with names, and their marks' indices."""
    from freezecheck.live import facts

    models = {label: root for label, ref in recorder.models.items() if (root := ref()) is not None}
    if not recorder.models:
        models = roots.names(live, "model")
    names = Names(models, recorder)
    kept = [i for i, mark in enumerate(recorder.marks) if names.give(mark)]
    events = [recorder.marks[i].event for i in kept]
    recorder.facts = [*facts.gather(models.values())] or recorder.facts
    events.extend(Event(FACT, value=value, data=data) for value, data in recorder.facts)
    return Timeline(tuple(events)), kept


class Names:
    """What the live objects are called."""

    def __init__(self, models: Mapping[str, Any], recorder: Recorder) -> None:
        self.modules: dict[int, tuple[str, str]] = {}  # id -> label, path
        self.params: dict[int, str] = {}
        several = len(models) > 1
        for label, root in models.items():
            self.modules[id(root)] = (label, "")
            for path, module in paths(root).items():
                self.modules.setdefault(id(module), (label, path))
                owner = ".".join(part for part in (label if several else "", path) if part)
                for name, param in module._parameters.items():
                    if param is not None:
                        self.params.setdefault(id(param), f"{owner}.{name}".lstrip("."))
        self._several = several
        self.others = recorder.labels

    def give(self, mark: Mark) -> bool:
        """Name what an event is about; False if all of it is gone unnamed, or left out."""
        return self._name(mark) or mark.named

    def _name(self, mark: Mark) -> bool:
        event = mark.event
        subject = None if mark.subject is None else mark.subject()
        if mark.subject is not None:
            if subject is None:
                return False
            if id(subject) in self.modules:
                label, path = self.modules[id(subject)]
                event.subject = f"{label}.{path}".rstrip(".") if self._several else path
                if event.kind in (PATTERN, DARK, AVERAGE):
                    event.data["model"] = label
            elif id(subject) in self.others:
                event.subject = self.others[id(subject)]
            else:
                return False
        if mark.params:
            found = (self._of(item) for ref in mark.params if (item := ref()) is not None)
            names = tuple(dict.fromkeys(name for name in found if name is not None))
            if len(names) >= len(event.names):
                event.names = names
            if not event.names and mark.subject is None:
                return False
        mark.named = True
        return True

    def _of(self, item: Any) -> str | None:
        """The path of a parameter or module."""
        if id(item) in self.modules:
            label, path = self.modules[id(item)]
            return f"{label}.{path}".rstrip(".") if self._several else path
        return self.params.get(id(item))
