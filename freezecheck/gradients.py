"""Which parameters a backward gets to, as far as a text tells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from freezecheck.program import BACKWARD, FORWARD, STEP, Event, Module, Optimizer, Param, World


def leading_to(world: World, optimizer: Optimizer, use: Event) -> list[Event]:
    """What happens between the step before a use of an optimizer, and that use."""
    before = [e.index for e in world.of(STEP, optimizer) if e.index < use.index]
    return world.events[before[-1] + 1 if before else 0 : use.index]


def arrives(events: Sequence[Event], param: Param) -> bool | None:
    """Whether the parameter gets a gradient in these events, if it is trainable. False where
    every loss, or every call of its model, that can be seen says that it gets none."""
    losses = [event.subject for event in events if event.kind == BACKWARD]
    if losses and None not in losses:
        return any(passes(param, (call.subject for call in loss.live)) for loss in losses)
    calls = [e for e in events if e.kind == FORWARD and passes(param, (e.subject,))]
    return False if calls and not any(event.grad for event in calls) else None


def passes(param: Param, called: Iterable[Module]) -> bool:
    """The parameter works where one of these modules is called: its own module, or one
    around it that calls its parts itself."""
    own = param.module
    return any(module is own or (_is_opaque(module) and _is_used(own, module)) for module in called)


def _is_used(module: Module | None, outer: Module) -> bool:
    """It is below `outer`, and in nothing that `outer` does not know of."""
    while module is not None and module is not outer and not module.added:
        module = module.parent
    return module is outer


def _is_opaque(module: Module) -> bool:
    """Calls of its parts are not recorded one by one."""
    if module.wrapper or (module.builder == "Sequential" and not module.open):
        return False
    return module.cls is None or module.cls.find("forward") is None


def is_in(module: Module, outer: Module) -> bool:
    """It is `outer`, or below it; a module may be below several."""
    return module.is_below(outer) or any(each is module for each in outer.walk())
