"""The notes of a finding: what a run did to its parameters and optimizers, in order."""

from __future__ import annotations

from collections.abc import Iterable

from freezecheck.finding import Note, Site
from freezecheck.snapshot import summarise
from freezecheck.timeline import FLAG, GROUP, LOAD, OPTIMIZER, REPLACE, STEP, Event, Timeline


def story(
    past: Timeline, names: Iterable[str] = (), optimizers: Iterable[str] = ()
) -> tuple[Note, ...]:
    """What was done to the parameters `names` and to the optimizers with these labels.

    What one line did several times, as a loop does, is one note. Nothing for an
    empty timeline.
    """
    chosen, labels = set(names), set(optimizers)
    told: dict[tuple[str, Site | None], dict[str, None]] = {}
    stepped: set[str] = set()
    for event in past.events:
        if event.kind == STEP and event.subject in labels - stepped:
            stepped.add(event.subject)
            told[f"{event.subject} takes its first step here", event.site] = {}
        elif event.kind in (OPTIMIZER, GROUP) and event.subject in labels:
            what = "built" if event.kind == OPTIMIZER else "given another group"
            told[f"{event.subject} is {what} here", event.site] = {}
        elif event.kind == LOAD and event.data.get("assign") and chosen:
            told["load_state_dict(assign=True) replaces the model's tensors here", event.site] = {}
        elif event.kind in (FLAG, REPLACE):
            common = [name for name in event.names if name in chosen]
            if common:
                told.setdefault((_verb(event), event.site), {}).update(dict.fromkeys(common))
    return tuple(
        Note(f"{text}: {summarise(list(about))}" if about else text, site)
        for (text, site), about in told.items()
    )


def _verb(event: Event) -> str:
    if event.kind == REPLACE:
        return "put in place here"
    return "unfrozen here" if event.value else "frozen here"


def changed_since(past: Timeline, label: str, names: Iterable[str]) -> bool:
    """Some of `names` were unfrozen or put in place after the optimizer was built (the last one
    of that name), which may have been before anything was recorded."""
    chosen, changed = set(names), False
    for event in past.events:
        if event.kind == OPTIMIZER and event.subject == label:
            changed = False
        elif event.kind == REPLACE or (event.kind == FLAG and event.value):
            changed = changed or not chosen.isdisjoint(event.names)
    return changed
