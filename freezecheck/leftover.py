"""Gradients and moments that a text leaves behind where it freezes.

A parameter's gradient is followed through the events: absent, there, zero (cleared
with `set_to_none=False`), or not known.
"""

from __future__ import annotations

from collections.abc import Iterator

from freezecheck import gradients, held, stated_rates
from freezecheck.program import (
    ATTRIBUTE,
    BACKWARD,
    ESCAPE,
    STEP,
    ZERO_GRAD,
    Event,
    Group,
    Module,
    Optimizer,
    Param,
    World,
)
from freezecheck.records import dataclass, field

ABSENT, THERE, ZERO, UNKNOWN = "absent", "there", "zero", "unknown"
STALE = "a gradient from before the freeze is left on {it}"
MOMENTUM = "the gradient left on {it} is zero, and momentum carries on"
DECAY = "the gradient left on {it} is zero, and weight decay shrinks {it}"
_KINDS = (BACKWARD, ZERO_GRAD, ATTRIBUTE, ESCAPE, STEP)
Holdings = dict[int, dict[int, int]]
_WITH_MOMENTS = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")


@dataclass(slots=True)
class Moved:
    """What a step moves although it is frozen: `why` is one of the texts above."""

    freeze: Event
    step: Event
    why: str
    params: list[Param] = field(default_factory=list)


def moved(world: World, optimizer: Optimizer) -> list[Moved]:
    """For each line that freezes and each reason, what moves at the first step after it."""
    found: dict[tuple[object, str], Moved] = {}
    if not optimizer.type.startswith("torch.optim.") or optimizer.event is None:
        return []
    theirs = holdings(world)
    events = [event for event in world.events if event.kind in _KINDS]
    for param in dict.fromkeys(held.members(optimizer)):
        if any(event.value is False for event in param.writes):
            for freeze, step, why in _moves(world, events, theirs, optimizer, param):
                one = found.setdefault((freeze.site, why), Moved(freeze, step, why))
                one.params.append(param)
                break
    return list(found.values())


def _moves(
    world: World, events: list[Event], theirs: Holdings, optimizer: Optimizer, param: Param
) -> Iterator[tuple[Event, Event, str]]:
    state, moments, since = ABSENT, False, theirs[optimizer.id][param.id]
    group = next(group for group in optimizer.groups if param in group.params)
    for event in events:
        state = after(event, param, state, theirs)
        if event.kind != STEP or event.subject is not optimizer or event.index < since:
            continue
        if optimizer.lr(group) == 0:
            continue
        freeze = param.written(event.index)
        if param.trains(event.index):
            moments = moments or state == THERE
        elif freeze is not None and freeze.value is False:
            why = _why(optimizer, group, state, moments)
            if why and not _is_at_zero(world, optimizer, event):
                yield freeze, event, why


def after(event: Event, param: Param, state: str, theirs: Holdings) -> str:
    """What is known of the parameter's gradient after an event."""
    if event.kind == BACKWARD:
        trains = param.trains(event.index)
        if trains is False or state == THERE:
            return state
        arrives = gradients.arrives([event], param)
        if arrives is False:
            return state
        return THERE if trains and arrives else UNKNOWN
    if event.kind == ZERO_GRAD and state != ABSENT:
        return _cleared(event, param, state, theirs)
    if event.kind == ATTRIBUTE and event.data["attribute"] == "grad" and param in event.params:
        return ABSENT if event.value is None else UNKNOWN
    if event.kind == ESCAPE and concerns(event, param, theirs):
        return UNKNOWN
    return state


def _cleared(event: Event, param: Param, state: str, theirs: Holdings) -> str:
    subject = event.subject
    if not concerns(event, param, theirs):
        unsure = subject is None or (isinstance(subject, Optimizer) and subject.open)
        return UNKNOWN if unsure else state
    if event.value is True:
        return ABSENT
    return ZERO if event.value is False and state in (THERE, ZERO) else UNKNOWN


def concerns(event: Event, param: Param, theirs: Holdings) -> bool:
    """What is done to a module or an optimizer is done to the parameter."""
    subject = event.subject
    if isinstance(subject, Module):
        return gradients.is_in(param.module, subject)
    if not isinstance(subject, Optimizer):
        return False
    since = theirs[subject.id].get(param.id)
    return since is not None and since < event.index


def holdings(world: World) -> Holdings:
    """Of each optimizer, by its id: the leaves in it, by theirs, with the event that put them
    there."""
    return {
        optimizer.id: {
            param.id: group.event.index if group.event else 0
            for group in reversed(optimizer.groups)
            for param in group.params
        }
        for optimizer in world.optimizers
    }


def _is_at_zero(world: World, optimizer: Optimizer, event: Event) -> bool:
    """A schedule has taken the rates of an optimizer down to 0 by then."""
    for scheduler in stated_rates.drivers(world, optimizer, event.index):
        count = stated_rates.times(world, scheduler.steps, scheduler.event, event)
        rate = None if count is None else stated_rates.after(scheduler, 1.0, count)
        if rate is not None and rate < 1e-9:
            return True
    return False


def _why(optimizer: Optimizer, group: Group, state: str, moments: bool) -> str:
    """Why a frozen parameter moves; "" if it does not for certain."""
    if state == THERE:
        return STALE
    if state != ZERO:
        return ""
    if moments and has_moments(optimizer, group):
        return MOMENTUM
    return DECAY if _known(optimizer, group, "weight_decay") else ""


def has_moments(optimizer: Optimizer, group: Group | None = None) -> bool:
    """It keeps moments that move a parameter without a gradient, for certain."""
    kind = optimizer.type.rpartition(".")[2]
    return kind in _WITH_MOMENTS or (
        kind in ("SGD", "RMSprop") and bool(_known(optimizer, group, "momentum"))
    )


def _known(optimizer: Optimizer, group: Group | None, option: str) -> float:
    """An option's value; 0 where it is not known."""
    options = group.options if group is not None and option in group.options else optimizer.options
    value = options.get(option)
    return value if isinstance(value, (int, float)) else 0
