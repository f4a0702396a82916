"""What the rules about Keras ask of a `World`: which model was compiled, trained and changed when.

The subjects of these events are layers of `source.keras`, of which a rule reads plain
attributes: `type`, `label`, `pretrained`, `batchnorm`, what they are made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from freezecheck.program import ATTRIBUTE, BUILT, COMPILE, ESCAPE, FIT, Event, World


class Thaw(NamedTuple):
    """A pretrained base that was frozen in a first phase and is trained in a second."""

    base: Any
    model: Any
    first: Event  # the compile of the first phase
    event: Event  # the base is unfrozen
    second: Event  # the compile of the second phase
    fit: Event


def trainable(world: World, layer: Any) -> list[Event]:
    """Every time that the flag of a layer, or of some of its parts, was set."""
    return [e for e in world.of(ATTRIBUTE, layer) if e.data["attribute"] == "trainable"]


def last(events: list[Event], before: int) -> Event | None:
    """The newest of these before an event."""
    return next((e for e in reversed(events) if e.index < before), None)


def compiled(world: World, fit: Event) -> Event | None:
    """The compile that a fit goes by."""
    return last(list(world.of(COMPILE, fit.subject)), fit.index)


def is_known(world: World, model: Any) -> bool:
    """Nothing unknown got hold of a model or of its parts."""
    inside = model.inside()
    return not any(e.subject in inside for e in world.of(ESCAPE))


def thaws(world: World) -> Iterator[Thaw]:
    """Pretrained bases that are unfrozen for a second phase, each once."""
    fits = list(world.of(FIT))
    told: set[int] = set()
    for fit in fits:
        model, second = fit.subject, compiled(world, fit)
        if second is None or not is_known(world, model):
            continue
        for base in model.inside():
            found = _thaw(world, fits, fit, second, base) if base.pretrained else None
            if found is not None and found.event.index not in told:
                told.add(found.event.index)
                yield found


def _thaw(world: World, fits: list[Event], fit: Event, second: Event, base: Any) -> Thaw | None:
    for earlier in fits:
        first = compiled(world, earlier)
        if first is None or earlier.index > second.index or base not in earlier.subject.inside():
            continue
        frozen = last(trainable(world, base), first.index)
        if frozen is None or frozen.value is not False or frozen.data["part"] is not None:
            continue
        owners = [m for m in fit.subject.inside() if base in m.inside()]
        since = [e for m in owners for e in trainable(world, m) if e.index > earlier.index]
        since = [e for e in since if e.value is True and e.index < second.index]
        if since:
            return Thaw(base, fit.subject, first, since[0], second, fit)
    return None


def calls(world: World, model: Any) -> list[tuple[Any, Any, Any]]:
    """The calls that a model is made of: layer, place, and what was said of `training`."""
    found = [event.data["calls"] for event in world.of(BUILT, model) if event.value != "call"]
    return list(found[-1]) if found else []
