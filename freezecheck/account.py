"""The notes of a finding in a text: what was done to parameters and optimizers, in order.

What `story.py` is for a recorded run, this is for a `World`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from freezecheck.finding import Note, Site
from freezecheck.program import (
    FLAG,
    GROUP,
    OPTIMIZER,
    REPLACE,
    STEP,
    Event,
    Module,
    Optimizer,
    Param,
    World,
)
from freezecheck.snapshot import summarise


def names(params: Iterable[Param]) -> str:
    """`layer4.0.conv1.weight, layer4.0.bn1.weight and 7 more`."""
    return summarise(list(dict.fromkeys(param.path for param in params)))


def story(
    world: World,
    params: Sequence[Param] = (),
    optimizers: Sequence[Optimizer] = (),
    until: Event | None = None,
) -> tuple[Note, ...]:
    """What was done to these parameters and optimizers, up to an event.

    What one line did several times is one note. Each note's place is one that every
    world in which the finding is told must go through, so nothing is told here that
    does not bear on it.
    """
    chosen = {param.id for param in params}
    told: dict[tuple[str, Site | None], list[Param]] = {}
    stepped: set[int] = set()
    for event in world.events:
        if until is not None and event.index > until.index:
            break
        subject = event.subject
        if event.kind in (OPTIMIZER, GROUP) and subject in optimizers:
            what = "built" if event.kind == OPTIMIZER else "given another group"
            told.setdefault((f"{subject.shown} is {what} here", event.site), [])
        elif event.kind == STEP and subject in optimizers and subject.id not in stepped:
            stepped.add(subject.id)
            told.setdefault((f"{subject.shown} takes its first step here", event.site), [])
        elif event.kind == FLAG and event.value is not None:
            common = [param for param in event.params if param.id in chosen]
            if common:
                verb = "unfrozen here" if event.value else "frozen here"
                told.setdefault((verb, event.site), []).extend(common)
        elif event.kind == REPLACE and isinstance(event.data["new"], Module):
            common = [p for p in event.data["new"].parameters() if p.id in chosen]
            if common:
                told.setdefault(("put in place here", event.site), []).extend(common)
    return tuple(
        Note(f"{text}: {names(about)}" if about else text, site)
        for (text, site), about in told.items()
    )
