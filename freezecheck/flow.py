"""Where gradients do not get to, in a text: what several rules ask of a `World`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from freezecheck.finding import Site
from freezecheck.program import (
    ATTRIBUTE,
    BACKWARD,
    FORWARD,
    USE,
    Event,
    Module,
    Optimizer,
    Param,
    World,
)

# A condition on the time: what holds in the passes that were gone through may change later.
_LATER = re.compile(r"epoch|iter|step|warm|phase|stage", re.IGNORECASE)

Lost = dict[Param, tuple[Event, Site]]


def without_gradient(world: World, optimizer: Optimizer) -> Iterator[tuple[Event, Event, Lost]]:
    """For each step of an optimizer: the first backward before it, the step, and what it
    holds that trains and surely has no gradient, with the forward pass that it was in and
    the place where the graph was cut behind that.

    A parameter is taken only if every pass that it may have been in since the step before
    is on the far side of a cut, and if it gets its gradient at no other time: the first
    epochs of a warm-up may well run under `no_grad`.
    """
    if any(_LATER.search(text) for _, text, _ in world.choices):
        return
    reached = {f for e in world.of(BACKWARD) if e.subject is not None for f in e.subject.live}
    whole = [f.subject for f in reached if f.data.get("whole")]
    start = optimizer.event.index if optimizer.event is not None else 0
    for step in optimizer.steps:
        events = world.events[start : step.index]
        start = step.index
        backwards = [e for e in events if e.kind == BACKWARD]
        if not backwards or any(e.subject is None or e.subject.cut for e in backwards):
            continue
        if any(e.kind == ATTRIBUTE and e.data.get("attribute") == "grad" for e in events):
            continue
        found = _lost(optimizer, step, events, backwards)
        found = {p: cut for p, cut in found.items() if not any(p.module.is_below(m) for m in whole)}
        if found:
            yield backwards[0], step, found


def _lost(optimizer: Optimizer, step: Event, events: list[Event], backwards: list[Event]) -> Lost:
    live = {f.index for e in backwards for f in e.subject.live}
    cuts = {f.index: (f, site) for e in backwards for f, site in e.subject.lost.items()}
    cuts = {index: cut for index, cut in cuts.items() if index not in live}
    if not cuts:
        return {}
    seen = [e for e in events if _may_reach(e, cuts)]
    found: Lost = {}
    for passed, site in cuts.values():
        module = passed.subject
        if not passed.data.get("whole") or module.escaped is not None:
            continue
        if module.copied is not None:  # a teacher, or a target that follows by averaging
            continue
        for param in module.parameters():
            if param.trains(step.index) is not True or not optimizer.holds(param, step.index):
                continue
            if not any(param.module.is_below(e.subject) for e in seen):
                found.setdefault(param, (passed, site))
    return found


def _may_reach(event: Event, cuts: dict[int, tuple[Event, Site]]) -> bool:
    """A forward pass whose gradient may come back, as far as these cuts say."""
    if not event.grad or not isinstance(event.subject, Module):
        return False
    if event.kind == USE:
        return True
    # Of a module whose own forward was followed, the passes of its parts tell.
    return event.kind == FORWARD and event.index not in cuts and "whole" in event.data
