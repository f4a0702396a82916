"""Does what the source half has in mind agree with what is?

Each step and each forward that a world foresees is held against the one that the run took at
the same place, in the same pass of the same loops: what the optimizer holds, what is
trainable, and the mode of each BatchNorm layer. What a world does not know is passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from reality import Pass, Place, Run, Step

from freezecheck.program import FORWARD, STEP, Event, Module, Param, World


def differences(world: World, run: Run, tally: Counter[str]) -> list[str]:
    """What the world has wrong, in words; `tally` counts what was compared."""
    found: list[str] = []
    steps: dict[Place, list[Step]] = {}
    for step in run.steps:
        steps.setdefault(step.place, []).append(step)
    passes: dict[Place, list[Pass]] = {}
    for once in run.passes:
        passes.setdefault(once.place, []).append(once)
    for event in world.of(STEP):
        real = steps.get(_place(event), [])
        if real:
            tally["steps"] += 1
            found += _step(event, real.pop(0), tally)
        elif run.error is None:
            found.append(f"{_where(event)}: no step is taken there")
    for event in world.of(FORWARD):
        place = _place(event)
        if isinstance(event.subject, Module) and passes.get(place):
            tally["forwards"] += 1
            found += _forward(event, passes[place].pop(0), tally)
    if run.error is None and world.complete and run.steps and not any(world.of(STEP)):
        tally["no step foreseen"] += 1
    if run.error is None and not world.complete:
        tally["given up"] += 1
    return found


def _place(event: Event) -> Place:
    lines = [site.line for site in event.stack]
    return (*lines, event.site.line if event.site else 0), event.loops


def _where(event: Event) -> str:
    return f"line {_place(event)[0]} loops {event.loops}"


def _step(event: Event, step: Step, tally: Counter[str]) -> Iterator[str]:
    optimizer = event.subject
    held = [
        (leaf, _path(leaf, event))
        for group in optimizer.groups
        if group.event is None or group.event.index < event.index
        for leaf in group.params
    ]
    names = set(step.names.values())
    if all(_exact(leaf) for leaf, _ in held) and not optimizer.open:
        tally["memberships"] += 1
        real = {step.names[p] for p in step.held if p in step.names}
        mine = {path for _, path in held if path in names}
        if mine != real:
            yield (
                f"{_where(event)}: {optimizer} holds {sorted(real)[:6]}, but in mind not"
                f" {sorted(real - mine)[:6]} and also {sorted(mine - real)[:6]}"
            )
    for leaf, path in held:
        trains = leaf.trains(event.index)
        answers = _answers(leaf, path, step)
        if trains is not None and answers:
            tally["flags"] += 1
            if trains not in answers:
                yield f"{_where(event)}: {path} is {'trainable' if trains else 'frozen'} in mind only"


def _path(leaf: Param, event: Event) -> str | None:
    """Its path below its model at that moment; None if it was in none."""
    parts = [leaf.name or "*"]
    module = leaf.module
    while True:
        gone = module.detached
        if gone is not None and gone.index < event.index:
            return None
        if module.parent is None and gone is None:
            return ".".join(reversed(parts))
        parts.append(module.name if gone is None else gone.data["name"])
        module = gone.subject if gone is not None else module.parent


def _exact(leaf: Param) -> bool:
    return leaf.one and "<" not in leaf.path


def _answers(leaf: Param, path: str | None, step: Step) -> set[bool]:
    """Whether the tensors that a leaf stands for require grad; nothing if it is not clear."""
    if path is None or "<" in path or leaf.tests:
        return set()
    start = path.removesuffix("*")
    return {
        step.trains[p]
        for p, name in step.names.items()
        if (name == path if leaf.one else name.startswith(start))
    }


def _forward(event: Event, once: Pass, tally: Counter[str]) -> Iterator[str]:
    real = {forward.name: forward.training for forward in once.norms}
    for module in event.subject.walk():
        mode = _mode(module, event)
        if module.norm == "batch" and mode is not None and module.path in real:
            tally["modes"] += 1
            if mode != real[module.path]:
                yield f"{_where(event)}: {module.path} is in {'train' if mode else 'eval'} mode in mind only"


def _mode(module: Module, event: Event) -> bool | None:
    before = [e for e in module.modes if e.index < event.index]
    return before[-1].value if before else None
