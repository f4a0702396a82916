"""Optimizers that a text leaves with tensors which are not those of the model in use."""

from __future__ import annotations

from collections.abc import Iterator

from freezecheck import held
from freezecheck.gradients import is_in, leading_to, passes
from freezecheck.program import (
    ATTRIBUTE,
    BACKWARD,
    ESCAPE,
    FORWARD,
    LOAD,
    REPLACE,
    STEP,
    WRAP,
    Event,
    Module,
    Optimizer,
    Param,
    World,
)
from freezecheck.records import dataclass

_BY_HAND = ("grad", "_grad", "data")


@dataclass(slots=True)
class Stranger:
    """An optimizer works on tensors of its own: why, since which event, and of which model
    the tensors are that it should have. `use`: the first use of the optimizer after that."""

    optimizer: Optimizer
    model: Module
    old: list[Param]
    since: Event
    why: str
    use: Event


def find(world: World) -> Iterator[Stranger]:
    """At most one for each optimizer."""
    for optimizer in world.optimizers:
        if optimizer.open or optimizer.event is None or not held.members(optimizer):
            continue
        for use in held.moments(world, optimizer):
            found = (
                _exchanged(world, optimizer, use)
                or _replaced(world, optimizer, use)
                or _another(world, optimizer, use)
            )
            if found is not None:
                yield found
                break


def _exchanged(world: World, optimizer: Optimizer, use: Event) -> Stranger | None:
    """Its tensors gave way to others, in the same modules."""
    own = held.members(optimizer)
    for event in _between(world, optimizer, use):
        why = _exchange(event)
        if not why or not isinstance(event.subject, Module):
            continue
        old = [p for p in own if is_in(p.module, event.subject)]
        if old and _is_half(old, own) and not _rebuilt(world, event, use, old):
            return Stranger(optimizer, event.subject.root, old, event, why, use)
    return None


def _exchange(event: Event) -> str:
    """How an event gives a module new tensors; "" if it does not."""
    data = event.data
    if event.kind == LOAD and data.get("assign") is True and data.get("strict") is True:
        return "load_state_dict(assign=True) puts the loaded tensors in their place"
    if event.kind == ATTRIBUTE and data.get("attribute") == "to" and event.value == "meta":
        return "to('meta') makes other tensors"
    if event.kind == WRAP and event.value == "fully_shard":
        return "fully_shard puts shards in their place"
    if event.kind == WRAP and event.value == "FullyShardedDataParallel":
        flat = data["wrapper"].options.get("use_orig_params", False) is False
        return "FullyShardedDataParallel puts flat parameters in their place" if flat else ""
    return ""


def _rebuilt(world: World, event: Event, use: Event, old: list[Param]) -> bool:
    """An optimizer that was built since then holds what is there now."""
    new = [o for o in world.optimizers if o.event and o.event.index > event.index]
    return any(o.open for o in new) or any(p.id in held.ids(new) for p in old)


def _replaced(world: World, optimizer: Optimizer, use: Event) -> Stranger | None:
    """Half of its tensors, or more, are those of parts that were replaced by others, of which
    no optimizer holds anything."""
    own = held.members(optimizer)
    old = [p for p in own if held.is_gone(world, p, use)]
    if not old or not _is_half(old, own) or any(o.open for o in world.optimizers):
        return None
    there = held.ids(held.current(world, use))
    for event in _between(world, optimizer, use):
        new = event.data.get("new")
        if event.kind != REPLACE or not isinstance(new, Module):
            continue
        before = event.data["old"]
        if before is None or not any(is_in(p.module, before) for p in old):
            continue
        missed = [p for p in new.parameters() if p.trains(use.index) and p.id not in there]
        if missed:
            why = f"{before.shown} was replaced"
            return Stranger(optimizer, new.root, old, event, why, use)
    return None


def _another(world: World, optimizer: Optimizer, use: Event) -> Stranger | None:
    """Another model of the same make is trained in the place of the one that it holds."""
    own = held.members(optimizer)
    roots = {p.module.root.id: p.module.root for p in own}
    if len(roots) != 1 or use.kind != STEP or any(o.open for o in world.optimizers):
        return None
    (mine,) = roots.values()
    there = held.ids(held.current(world, use))
    losses = [e.subject for e in leading_to(world, optimizer, use) if e.kind == BACKWARD]
    if None in losses or not losses:
        return None
    live = {call.index: call for loss in losses for call in loss.live}
    for call in live.values():
        new = call.subject.root
        if new is mine or not _same_make(new, mine) or new.index < _built(optimizer):
            continue
        params = [p for p in new.parameters() if passes(p, [call.subject])]
        gone = [p for p in params if p.id in there or held.was_handed_on(p, use)]
        if gone or not any(p.trains(use.index) for p in params):
            continue
        since = world.events[new.index] if new.index < len(world.events) else use
        if any(is_in(e.subject, mine) for e in world.since(since, FORWARD) if e.index < use.index):
            continue
        if _is_fed_by_hand(world, since, use, own):
            continue
        how = "was copied" if new.copied is not None else "was made again"
        return Stranger(optimizer, new, own, call, f"{mine.shown} {how}", use)
    return None


def _same_make(one: Module, other: Module) -> bool:
    return bool(one.type) and one.type == other.type and not one.open


def _is_fed_by_hand(world: World, since: Event, use: Event, params: list[Param]) -> bool:
    """Gradients or values are carried over from one model to the other, or both were handed on."""
    chosen = {p.id for p in params}
    for event in world.events[since.index : use.index]:
        about = any(p.id in chosen for p in event.params)
        if event.kind == ATTRIBUTE and about and event.data.get("attribute") in _BY_HAND:
            return True
        if event.kind == ESCAPE and any(is_in(p.module, event.subject) for p in params[:1]):
            return True
    return False


def _between(world: World, optimizer: Optimizer, use: Event) -> Iterator[Event]:
    return (e for e in world.events[_built(optimizer) : use.index] if e.subject is not None)


def _built(optimizer: Optimizer) -> int:
    return optimizer.event.index if optimizer.event else 0


def _is_half(some: list[Param], every: list[Param]) -> bool:
    """They are half of all tensors, or more, as far as these can be counted."""
    if len(some) == len(every):
        return True
    sizes = {p.id: _tensors(p) for p in every}
    if None in sizes.values():
        return False
    return 2 * sum(sizes[p.id] or 0 for p in some) >= sum(size or 0 for size in sizes.values())


def _tensors(param: Param) -> int | None:
    """How many tensors it stands for."""
    if param.one:
        return 1
    tree = param.module.architecture
    return int(tree.tensors) if tree is not None and not param.module.open else None
