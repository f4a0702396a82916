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
        leaf
        for group in optimizer.groups
        if group.event is None or group.event.index < event.index
        for leaf in group.params
    ]
    names = set(step.names.values())
    real = {step.names.get(p, "?") for p in step.held}
    mine = {leaf.path if leaf.module.root.parent is None else "?" for leaf in held}
    if all(_exact(leaf) for leaf in held) and not optimizer.open:
        tally["memberships"] += 1
        # What the model does not own any more has some name or other.
        inside = {n for n in mine if n in names and _owned(held, n, event)}
        if inside != real - {"?"}:
            yield (
                f"{_where(event)}: holds {sorted(real)[:6]} but not {sorted(inside - real)[:6]},"
                f" and also {sorted(real - inside)[:6]}"
            )
    for leaf in held:
        trains = leaf.trains(event.index)
        answers = _answers(leaf, step)
        if trains is not None and answers and _owned(held, leaf.path, event):
            tally["flags"] += 1
            if trains not in answers:
                yield f"{_where(event)}: {leaf.path} is {'trainable' if trains else 'frozen'} in mind only"


def _owned(held: list[Param], path: str, event: Event) -> bool:
    """A leaf with this path is in a model, and not in what was replaced."""
    return any(
        leaf.path == path and leaf.module.root.detached is None and not _detached(leaf, event)
        for leaf in held
    )


def _detached(leaf: Param, event: Event) -> bool:
    module: Module | None = leaf.module
    while module is not None:
        if module.detached is not None:
            return True
        module = module.parent
    return False


def _exact(leaf: Param) -> bool:
    return leaf.one and "<" not in leaf.path


def _answers(leaf: Param, step: Step) -> set[bool]:
    """Whether the tensors that a leaf stands for require grad; nothing if it is not clear."""
    if "<" in leaf.path or leaf.tests:
        return set()
    start = leaf.path.removesuffix("*")
    return {
        step.trains[p]
        for p, name in step.names.items()
        if (name == leaf.path if leaf.one else name.startswith(start))
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
