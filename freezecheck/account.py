"""What a finding in a text tells: names of parameters, and what was done to them, in order.

The notes are what `story.py` makes of a recorded run, made of a `World`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from freezecheck.finding import Note, Site
from freezecheck.program import (
    FLAG,
    GROUP,
    NORMS,
    OPTIMIZER,
    REPLACE,
    REST,
    STEP,
    Event,
    Module,
    Optimizer,
    Param,
    World,
)
from freezecheck.snapshot import summarise


def names(params: Iterable[Param]) -> str:
    """`layer4, fc.weight and 2 more`: modules of which all parameters are meant are named
    in their parameters' place."""
    return summarise(each(params))


def each(params: Iterable[Param]) -> list[str]:
    """The names that `names` puts together."""
    params = list(params)
    chosen = {param.id for param in params}
    whole: dict[int, bool] = {}  # by the module's id: all its parameters are chosen

    def is_whole(module: Module) -> bool:
        if module.id not in whole:
            whole[module.id] = all(param.id in chosen for param in module.parameters())
        return whole[module.id]

    found: dict[str, None] = {}
    for param in params:
        outermost: Module | None = None
        module: Module | None = param.module
        while module is not None and is_whole(module):
            outermost, module = module, module.parent
        found[_path(outermost) if outermost is not None else _one(param)] = None
    return list(found)


def _path(module: Module) -> str:
    parts = [_plain(part) for part in module.path.split(".") if part]
    return ".".join(parts) or module.shown


def _one(param: Param) -> str:
    """A parameter, or what is left of a module of which some were told apart."""
    inner = _path(param.module) if param.module.parent is not None else ""
    if param.one:
        return f"{inner}.{param.name}" if inner else param.name
    tests = [f"{test[2][0]!r} {'' if held else 'not '}in the name" for test, held in param.tests]
    rest = f"the rest of {inner or param.module.shown}"
    return f"{rest} ({', '.join(tests)})" if tests else rest


def _plain(part: str) -> str:
    """Modules at unknown places have no names of their own."""
    return {NORMS: "BatchNorm layers", REST: "other layers"}.get(part, part)


def verb(params: Iterable[Param], one: str = "is", more: str = "are") -> str:
    """`is` or `are`, for what `names` says of these."""
    return one if len(each(params)) == 1 else more


def _is_put(event: Event) -> bool:
    """A module takes the place of another, or is added to a model that was complete."""
    complete = event.data["old"] is not None or not event.data.get("building")
    return complete and isinstance(event.data["new"], Module)


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
    switches = _switches(world)
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
                site = event.stack[-1] if event.site in switches and event.stack else event.site
                told.setdefault((verb, site), []).extend(common)
        elif event.kind == REPLACE and _is_put(event):
            common = [p for p in event.data["new"].parameters() if p.id in chosen]
            if common:
                told.setdefault(("put in place here", event.site), []).extend(common)
    return tuple(
        Note(f"{text}: {names(about)}" if about else text, site)
        for (text, site), about in told.items()
    )


def _switches(world: World) -> set[Site | None]:
    """Lines that freeze as well as unfreeze: of these, the calls that lead to them tell more."""
    frozen, unfrozen = (
        {event.site for event in world.of(FLAG) if event.value is value} for value in (False, True)
    )
    return frozen & unfrozen
