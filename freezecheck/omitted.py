"""Trainable parameters that a text leaves out of every optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from freezecheck import gradients, held
from freezecheck.program import ESCAPE, REPLACE, STEP, Event, Module, Optimizer, Param, World
from freezecheck.records import dataclass


@dataclass(slots=True)
class Omission:
    """What one optimizer should hold of one model, as it looks, and no optimizer does.

    `certain`: they were unfrozen, or put in place, to be trained, or others beside them
    were frozen. `trained`: the optimizer is seen to step. `until`: the last event of the story.
    """

    optimizer: Optimizer
    model: Module
    params: list[Param]
    certain: bool
    trained: bool
    until: Event


def find(world: World) -> Iterator[Omission]:
    """One for each optimizer and model."""
    if any(optimizer.open for optimizer in world.optimizers):
        return  # it may hold any
    told: set[int] = set()
    for optimizer in world.optimizers:
        found: dict[int, Omission] = {}
        for moment, param, certain in _left_out(world, optimizer, told):
            told.add(param.id)
            model = param.module.root
            one = found.setdefault(
                model.id, Omission(optimizer, model, [], False, moment.kind == STEP, moment)
            )
            one.params.append(param)
            one.certain = one.certain or certain
            one.until = moment
        yield from found.values()


def _left_out(
    world: World, optimizer: Optimizer, told: set[int]
) -> Iterator[tuple[Event, Param, bool]]:
    """Moment, parameter, and whether it is certain that it should be in."""
    if optimizer.event is None:
        return
    end = held.returned(world, optimizer)
    own = held.members(optimizer)
    about = {param.module.root.id for param in own}
    for moment in [*held.moments(world, optimizer), *([end] if end else [])]:
        there = held.ids(held.current(world, moment))
        look = _Look(world, optimizer, moment, about)
        for root in world.roots:
            for param in root.parameters():
                if param.id in there or param.id in told or param.trains(moment.index) is not True:
                    continue
                certain = look.certain(param)
                if certain is not None and not held.was_handed_on(param, moment):
                    yield moment, param, certain


class _Look:
    """What is to be known at one use of an optimizer."""

    def __init__(self, world: World, optimizer: Optimizer, moment: Event, about: set[int]) -> None:
        self.moment = moment
        self.is_method = "." in world.entry  # others may do more to its object before
        self.about = about
        self.built = optimizer.event.index if optimizer.event else 0
        self.events = gradients.leading_to(world, optimizer, moment)
        self.placed: dict[int, bool] = {}  # parameters put in place: in that of others
        self.later: set[int] = set()  # those of them put there after the optimizer was built
        for event in world.of(REPLACE):
            new = event.data["new"]
            if event.index < moment.index and isinstance(new, Module):
                instead = event.data["old"] is not None and new.copied is None
                ids = [param.id for param in new.parameters()]
                self.placed.update(dict.fromkeys(ids, instead))
                if event.index > self.built:
                    self.later.update(ids)
        self.frozen: dict[int, bool] = {}

    def certain(self, param: Param) -> bool | None:
        """Whether it should be in the optimizer: for certain, perhaps (False), or not (None)."""
        gets = gradients.arrives(self.events, param)
        if gets is False:
            return None
        ours = param.module.root.id in self.about
        if self._is_unfrozen_since(param):
            return True if ours or gets else None
        if not ours:
            return None
        if param.id in self.later:
            return True if gets or self.placed[param.id] else None
        if self.moment.kind not in (STEP, ESCAPE) or self.is_method:
            return None
        if self._was_unfrozen(param):
            return True
        if not gets:
            return None
        return bool(self.placed.get(param.id)) or self._has_frozen(param.module.root)

    def _is_unfrozen_since(self, param: Param) -> bool:
        """Frozen when the optimizer was built, unfrozen after."""
        return param.trains(self.built) is False

    def _was_unfrozen(self, param: Param) -> bool:
        """Unfrozen by a line of its own, after everything was frozen."""
        past = [event.value for event in param.writes if event.index < self.moment.index]
        return past[-1:] == [True] and False in past

    def _has_frozen(self, root: Module) -> bool:
        if root.id not in self.frozen:
            flags = (param.trains(self.moment.index) for param in root.parameters())
            self.frozen[root.id] = any(flag is False for flag in flags)
        return self.frozen[root.id]
