"""Who holds what in a text: the moments at which optimizers work, and what is theirs then."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from freezecheck.gradients import is_in
from freezecheck.program import (
    END,
    ESCAPE,
    FORWARD,
    Event,
    Module,
    Optimizer,
    Param,
    World,
)


def moments(world: World, optimizer: Optimizer) -> Iterator[Event]:
    """The uses of an optimizer of which everything before is known: its steps, up to the
    call that is not understood and gets it. Of such a call, the first event."""
    for use in world.uses(optimizer):
        if use.kind == ESCAPE:
            yield _call(world, use)
            return
        yield use


def _call(world: World, event: Event) -> Event:
    """The first event of the call that makes `event`."""
    while event.index and world.events[event.index - 1].site == event.site:
        event = world.events[event.index - 1]
    return event


def returned(world: World, optimizer: Optimizer) -> Event | None:
    """The end of a function that builds an optimizer and does not use it, which is what
    those that return it do."""
    last = world.events[-1]
    unused = next(world.uses(optimizer), None) is None
    if unused and last.kind == END and world.complete and world.entry and "." not in world.entry:
        return last
    return None


def current(world: World, moment: Event) -> list[Optimizer]:
    """The optimizers that are, or will be, there: all but those whose name was given to a
    newer one by then, and that are used no more."""
    return [o for o in world.optimizers if not _is_replaced(world, o, moment)]


def _is_replaced(world: World, optimizer: Optimizer, moment: Event) -> bool:
    newer = [
        other.event.index
        for other in world.optimizers
        if other.label == optimizer.label and _is_before(optimizer, other) and other.event
    ]
    uses = [use.index for use in world.uses(optimizer)]
    return bool(newer) and min(newer) < moment.index and (not uses or uses[-1] < min(newer))


def _is_before(one: Optimizer, other: Optimizer) -> bool:
    return bool(one.event and other.event and one.event.index < other.event.index)


def ids(optimizers: Iterable[Optimizer], before: int | None = None) -> set[int]:
    """The ids of all leaves that they hold, or held before event number `before`."""
    return {param.id for each in optimizers for param in members(each, before)}


def members(optimizer: Optimizer, before: int | None = None) -> list[Param]:
    """The leaves in it, or in it before event number `before`."""
    return [
        param
        for group in optimizer.groups
        if before is None or group.event is None or group.event.index < before
        for param in group.params
    ]


def was_handed_on(param: Param, before: Event) -> bool:
    """Something unknown got hold of it before."""

    def escaped(module: Module) -> bool:
        return module.escaped is not None and module.escaped.index < before.index

    return any(map(escaped, param.module.around()))


def is_gone(world: World, param: Param, before: Event) -> bool:
    """Its module was replaced before, is in no model, and is not called any more."""

    def replaced(module: Module) -> bool:
        event = module.detached
        return bool(
            event
            and event.index < before.index
            and not any(is_in(call.subject, module) for call in world.since(event, FORWARD))
        )

    if not any(map(replaced, param.module.around())):
        return False
    return not any(p is param for p in param.module.root.parameters())
