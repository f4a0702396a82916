"""Learning rates as a text states them: of a group at a moment, at its schedule's peak.

What `rates.py` is for a snapshot, this is for a `World`. None always means: not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from freezecheck import rates
from freezecheck.program import (
    ESCAPE,
    FLAG,
    LOAD,
    MODE,
    RATE,
    STEP,
    Event,
    Group,
    Optimizer,
    Param,
    Scheduler,
    World,
)

# Schedules that start at, rise to or fall from the rate that a group was given.
_NEVER_ABOVE = frozenset(
    """StepLR MultiStepLR ExponentialLR CosineAnnealingLR CosineAnnealingWarmRestarts PolynomialLR
    LinearLR ConstantLR ReduceLROnPlateau CosineLRScheduler MultiStepLRScheduler
    PlateauLRScheduler PolyLRScheduler StepLRScheduler TanhLRScheduler""".split()
)
_SETTERS = ("OneCycleLR", "CyclicLR")


def number(value: Any) -> float | None:
    """A value, if it is a number."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if good and math.isfinite(value) else None


def short(thing: Optimizer | Scheduler) -> str:
    """The name of its class."""
    return thing.type.rpartition(".")[2]


def first(optimizer: Optimizer, group: Group, world: World) -> float | None:
    """The rate that a group was given when it was made."""
    for event in world.of(RATE, optimizer):
        if event.data["group"] is group and event.data["option"] == "lr":
            return number(event.data["before"])
    return optimizer.lr(group)


def drivers(world: World, optimizer: Optimizer, before: int | None = None) -> list[Scheduler]:
    """The schedulers of an optimizer; of one made of parts, the whole."""
    parts = {part.id for scheduler in world.schedulers for part in scheduler.parts}
    return [
        s
        for s in world.schedulers
        if s.optimizer is optimizer
        and s.id not in parts
        and (before is None or s.event is None or s.event.index < before)
    ]


def at(world: World, optimizer: Optimizer, group: Group, event: Event) -> float | None:
    """The rate of a group just before an event."""
    if any(
        e.kind in (LOAD, ESCAPE) and e.subject is optimizer and e.index < event.index
        for e in world.events
    ):
        return None
    rate = first(optimizer, group, world)
    for change in world.of(RATE, optimizer):
        if change.index < event.index and _sets(change, group):
            rate = number(change.value)
    driving = drivers(world, optimizer, event.index)
    if not driving or rate is None:
        return rate
    (scheduler, *more) = driving
    if more or any(_sets(e, group) for e in world.of(RATE, optimizer) if e.index < event.index):
        return None
    count = times(world, scheduler.steps, scheduler.event, event)
    return None if count is None else after(scheduler, rate, count)


def _sets(event: Event, group: Group) -> bool:
    return event.data["group"] is group and event.data["option"] == "lr"


def is_steady(world: World, optimizer: Optimizer, group: Group, event: Event) -> bool:
    """Nothing has set its rate by the time of an event, but the line that made it."""
    return not any(_sets(e, group) and e.index < event.index for e in world.of(RATE, optimizer))


def after(scheduler: Scheduler, rate: float, count: int) -> float | None:
    """A group's rate after so many steps of a schedule that only falls."""
    said, kind = scheduler.options, short(scheduler)
    gamma = number(said.get("gamma"))
    if kind == "ExponentialLR" and gamma is not None:
        return rate * gamma**count
    size = said.get("step_size")
    if kind == "StepLR" and gamma is not None and isinstance(size, int) and size > 0:
        return rate * float(gamma ** (count // size))
    milestones = said.get("milestones") or ()
    if kind == "MultiStepLR" and gamma is not None and _all_int(milestones):
        return rate * float(gamma ** sum(m <= count for m in milestones))
    end, floor = said.get("T_max"), number(said.get("eta_min"))
    if kind == "CosineAnnealingLR" and isinstance(end, int) and end > 0 and floor is not None:
        return floor + (rate - floor) * (1 + math.cos(math.pi * count / end)) / 2
    return rate if count == 0 and kind in _NEVER_ABOVE - {"LinearLR", "ConstantLR"} else None


def _all_int(values: object) -> bool:
    return isinstance(values, (list, tuple)) and all(isinstance(v, int) for v in values)


def top(world: World, optimizer: Optimizer, group: Group, use: Event) -> float | None:
    """The largest rate that a group is known to reach, given the first use of its optimizer."""
    changes = [e for e in world.of(RATE, optimizer) if _sets(e, group)]
    rate = number(changes[0].data["before"]) if changes else optimizer.lr(group)
    for change in changes:
        if change.index < use.index:
            rate = number(change.value)
    if any(e.kind == LOAD and e.subject is optimizer and e.index < use.index for e in world.events):
        return None
    for scheduler in drivers(world, optimizer):
        rate = _peak(world, scheduler, group, rate)
    return rate


def _peak(world: World, scheduler: Scheduler, group: Group, rate: float | None) -> float | None:
    if scheduler.parts:
        peaks = [_peak(world, part, group, rate) for part in scheduler.parts]
        return None if None in peaks or rate is None else max(p for p in peaks if p is not None)
    kind = short(scheduler)
    if kind in _SETTERS:
        value = scheduler.options.get("max_lr")
        groups = scheduler.optimizer.groups if scheduler.optimizer else []
        if isinstance(value, (list, tuple)):
            value = value[groups.index(group)] if groups.index(group) < len(value) else None
        if not scheduler.steps and not list(world.of(ESCAPE, scheduler)):
            return rate
        return number(value)
    known = kind in _NEVER_ABOVE or kind.startswith("get_")
    factors = [
        number(scheduler.options.get(name)) if name in scheduler.options else 1.0
        for name in ("gamma", "factor", "start_factor", "end_factor")
    ]
    fine = all(f is not None and f <= 1 for f in factors)
    return rate if known and fine else None


def is_high(world: World, optimizer: Optimizer, group: Group, rate: float) -> bool:
    """Right for a new layer, and several times what pretrained ones are tuned with."""
    family = short(optimizer).removesuffix("8bit").removesuffix("32bit").removeprefix("Paged")
    momentum = number(group.options.get("momentum", optimizer.options.get("momentum", 0)))
    for scheduler in drivers(world, optimizer):
        if short(scheduler) in _SETTERS and scheduler.options.get("cycle_momentum", True):
            momentum = number(scheduler.options.get("base_momentum")) if momentum else momentum
    return momentum is not None and rates.above(family.removeprefix("Fused"), momentum, rate)


def first_use(world: World, optimizer: Optimizer) -> Event | None:
    """The moment before an optimizer first does its work, as far as can be seen: its first
    step, or its being handed to something unknown."""
    use = next(world.uses(optimizer), None)
    return None if use is None else before_call(world, use)


def before_call(world: World, event: Event) -> Event:
    """The first event of the call that hands something on: all its arguments escape in turn."""
    if event.kind != ESCAPE:
        return event
    index = event.index
    while index > 0:
        prior = world.events[index - 1]
        if prior.site != event.site or prior.kind not in (ESCAPE, FLAG, MODE):
            break
        index -= 1
    return world.events[index]


def group_of(optimizer: Optimizer, param: Param, before: int) -> Group | None:
    """The group that holds a parameter then."""
    return next(
        (
            group
            for group in optimizer.groups
            if (group.event is None or group.event.index < before) and param in group.params
        ),
        None,
    )


def learning(optimizer: Optimizer, use: Event) -> list[tuple[Param, Group]]:
    """What an optimizer trains at a moment, with the group that it is in."""
    return [
        (param, group)
        for group in optimizer.groups
        if group.event is None or group.event.index < use.index
        for param in group.params
        if param.trains(use.index) is True and not _is_lost(param, use)
    ]


def _is_lost(param: Param, use: Event) -> bool:
    """Something unknown got hold of its module, or another one took its place."""
    gone = param.module.escaped
    return (gone is not None and gone.index < use.index) or any(
        module.detached is not None and module.detached.index < use.index
        for module in param.module.around()
    )


def weights(params: Iterable[Param]) -> list[Param]:
    """Without norms and biases, which have rates of their own in many recipes."""
    return [p for p in params if p.norm is not True and "bias" not in p.name]


def is_much(params: Sequence[Param]) -> bool:
    """A whole part of a network, rather than single tensors of it."""
    return len(params) > 2 or any(not p.one for p in params)


def stepped(world: World, param: Param, before: int) -> Event | None:
    """The first step that moved a parameter, before an event's number."""
    return next(
        (
            e
            for e in world.of(STEP)
            if e.index < before and param.trains(e.index) and e.subject.holds(param, e.index)
        ),
        None,
    )


def times(
    world: World, events: Iterable[Event], since: Event | None, before: Event | None = None
) -> int | None:
    """How often something would have been done since an event (and before another), every pass
    of every loop counted; None if that is not certain."""
    places: dict[Any, list[Event]] = {}
    around = since.loops if since is not None else ()
    for event in events:
        if before is None or event.index < before.index:
            if event.loops[: len(around)] != around:
                return None  # made in a loop, and used in a later pass of it
            lines = tuple(line for line, _ in event.loops)
            places.setdefault((event.site, event.stack, lines), []).append(event)
    if before is not None and before.loops[: len(around)] != around:
        return None
    counts = [_times(world, found, len(around), before) for found in places.values()]
    return None if None in counts else sum(count or 0 for count in counts)


def _times(world: World, found: list[Event], depth: int, before: Event | None) -> int | None:
    """The same, of one place; `depth` loops around it are in their first and only pass."""
    if not always(world, found, depth, before):
        return None
    lengths = [world.lengths.get(line) for line, _ in found[0].loops[depth:]]
    shared: list[int] = []
    if before is not None:
        for (line, _), (other, number) in zip(found[0].loops[depth:], before.loops[depth:]):
            if line != other:
                break
            shared.append(number)
        if shared and any(one != other for one, other in zip(found[0].stack, before.stack)):
            return None
    total = 0
    for level, number in enumerate(shared):
        inner = _product(lengths[level + 1 :])
        if number and inner is None:
            return None
        total += number * (inner or 0)
    here = any([n for _, n in e.loops[depth:]][: len(shared)] == shared for e in found)
    if here or before is None:
        inner = _product(lengths[len(shared) :])
        if inner is None:
            return None
        total += inner
    return total


def _product(lengths: Sequence[int | str | None]) -> int | None:
    product = 1
    for length in lengths:
        if not isinstance(length, int):
            return None
        product *= length
    return product


def always(
    world: World, found: Sequence[Event], depth: int = 0, before: Event | None = None
) -> bool:
    """It was done in every pass that was gone through, but perhaps the one of `before`."""
    done = {e.loops for e in found}
    first = found[0].loops
    lines = [line for line, _ in first]
    current = before.loops[: len(lines)] if before is not None else None
    for event in world.events:
        if before is not None and event.index >= before.index:
            break
        loops = event.loops[: len(lines)]
        inside = loops[:depth] == first[:depth] and [line for line, _ in loops] == lines
        if inside and loops not in done and loops != current:
            return False
    return True
