"""Models with PEFT adapters, in a text: what FC115 and FC116 ask of a `World`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from freezecheck.program import WRAP, Event, Module, Optimizer, Param, World


class Adapted(NamedTuple):
    """A model with adapters: the event that made it, the model, the adapters' parameters."""

    wrap: Event
    module: Module
    params: list[Param]


def adapters(world: World) -> Iterator[Adapted]:
    """Every model that was given adapters, and that nothing unknown got hold of."""
    for event in world.of(WRAP):
        module = event.subject
        if event.value != "PeftModel" or module.escaped is not None:
            continue
        found = [m for m in module.children.values() if m.type == "peft.Adapter"]
        params = [param for each in found for param in each.parameters()]
        if params:
            yield Adapted(event, module, params)


def takers(world: World, model: Adapted) -> Iterator[tuple[Optimizer, int]]:
    """The optimizers that were built from the model afterwards and do step; and when built."""
    inside = list(model.module.parameters())
    for optimizer in world.optimizers:
        event = optimizer.event
        if event is None or event.index < model.wrap.index or optimizer.open:
            continue
        if not any(True for _ in world.uses(optimizer)):
            continue
        held = [p for group in optimizer.groups for p in group.params]
        if not held or any(optimizer.holds(param) for param in inside):
            yield optimizer, event.index


def head(model: Adapted) -> Module | None:
    """The new layer at the end of the model, if it is known to be new and to have no adapter."""
    inner = model.module
    named = [inner.children[n] for n in inner.options.get("heads", ()) if n in inner.children]
    if not named:
        plain = [m for m in inner.walk() if m.type == "torch.nn.Linear" and m.params]
        named = plain[-1:] if not inner.open else []
    new = [m for m in named if m.pretrained is False and m.escaped is None and any(m.parameters())]
    if len(new) != 1 or not _is_spared(new[0], model.wrap.data["wrapper"].options):
        return None
    return new[0]


def _is_spared(mine: Module, options: dict[str, object]) -> bool:
    """The config's `target_modules` are known not to name it."""
    targets = options.get("target_modules")
    names = getattr(targets, "items", targets)
    if names is None:
        return mine.root.type.startswith(("peft.", "transformers."))
    if not isinstance(names, (list, tuple)) or getattr(targets, "open", False):
        return False
    return all(isinstance(n, str) and not mine.path.endswith(n) for n in names)
