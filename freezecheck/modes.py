"""Train and eval mode in a `World`: what a model was trained with, and which BatchNorm layers
rest in it.

What `frozen.py` is for a snapshot, this is for a text. Everything here is definite: a
layer of which it is not known whether it is frozen, or in which mode, is not among the answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from freezecheck.program import BACKWARD, FORWARD, NORMS, STEP, Event, Module, Param, World
from freezecheck.records import dataclass
from freezecheck.snapshot import count, summarise


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """A forward through which a gradient came that an optimizer then used.

    `forwards` are the calls of modules in it, newest last, by the module's id.
    """

    module: Module
    forward: Event
    backward: Event
    step: Event
    forwards: dict[int, Event]

    @property
    def root(self) -> Module:
        """The whole model."""
        return self.module.root

    def reached(self, module: Module) -> Event | None:
        """The call that ran a module; None where it may not have been run."""
        for found in module.around():
            event = self.forwards.get(found.id)
            own = found.cls is not None and found.cls.find("forward") is not None
            if event is not None:
                return None if own and found is not module else event
            if own:
                return None
        return None


@lru_cache(maxsize=1)
def trainings(world: World) -> tuple[Training, ...]:
    """Every training forward, oldest first."""
    forwards = list(world.of(FORWARD))
    found, last = [], -1
    for backward in world.of(BACKWARD):
        # The calls that its gradients go back through; those since the last one, where it is
        # not known what it is called on.
        live = getattr(backward.subject, "live", None) or [
            e for e in forwards if last < e.index < backward.index and e.grad
        ]
        newest = {event.subject.id: event for event in live}
        for event in newest.values():
            if any(m.id in newest for m in event.subject.around() if m is not event.subject):
                continue
            root = event.subject.root
            step = next(
                (s for s in world.since(backward, STEP) if trains(s, root, backward.index)), None
            )
            if step is not None:
                inner = {
                    e.subject.id: e
                    for e in forwards
                    if event.index <= e.index < backward.index and e.subject.is_below(event.subject)
                }
                found.append(Training(event.subject, event, backward, step, inner))
        last = backward.index
    return tuple(found)


def trains(step: Event, root: Module, index: int) -> bool:
    """An optimizer's step moves something in a model."""
    return any(
        param.module.root is root and param.trains(index) is True
        for group in step.subject.groups
        for param in group.params
    )


def batchnorms(module: Module) -> Iterator[Module]:
    """The BatchNorm layers in it that keep running statistics; a module whose parts are not
    listed stands for all that are in it."""
    for each in module.walk():
        if each.escaped is not None:
            continue
        if each.norm == "batch" and each.name != NORMS:
            if _keeps_statistics(each):
                yield each
        elif each.batchnorm and each.rest and NORMS not in each.children:
            yield each


def _keeps_statistics(norm: Module) -> bool:
    said = {**norm.options, **norm.attributes}
    return said.get("track_running_stats", True) is True and said.get("momentum", 0.1) != 0


def own(module: Module) -> list[Param]:
    """The parameters of one of `batchnorms`."""
    listed = (*module.params.values(), *module.rest)
    return [leaf for param in listed for leaf in param.leaves()]


def is_frozen(norm: Module, index: int) -> bool:
    """None of its parameters requires grad at event number `index`."""
    params = own(norm)
    return bool(params) and all(param.trains(index) is False for param in params)


@lru_cache(maxsize=64)
def resting(training: Training, world: World) -> list[Module]:
    """BatchNorm layers that were run frozen, in a model that learns.

    Left out are copies of what trains beside them (momentum encoders), and what is frozen
    for this step only, as a GAN's discriminator is in the generator's.
    """
    found = []
    for norm in batchnorms(training.module):
        event = training.reached(norm)
        if event is not None and is_frozen(norm, event.index):
            found.append((norm, event))
    if not found:
        return []
    index = found[0][1].index
    copies, paused = _copies(training.root, index), _paused(world, index)
    return [
        norm
        for norm, event in found
        if norm.id not in copies
        and own(norm)[0] not in paused
        and not _alternates(norm, event, world)
    ]


def _copies(root: Module, index: int) -> set[int]:
    """Ids of the modules in copies of what trains beside them, and in deep copies."""
    shapes: dict[int, int] = {}

    def shape(module: Module) -> int:
        inner = tuple((name, shape(child)) for name, child in module.children.items())
        found = shapes[module.id] = hash((module.type, id(module.architecture), inner))
        return found

    def spread(module: Module, copied: bool) -> Iterator[int]:
        if copied:
            yield module.id
        alike: dict[int, list[Module]] = {}
        for child in module.children.values():
            if child.children or child.rest:
                alike.setdefault(shapes[child.id], []).append(child)
        for name, child in module.children.items():
            twin = any(
                not _numbered(name, other.name) and any(p.trains(index) for p in other.parameters())
                for other in alike.get(shapes[child.id], ())
            )
            yield from spread(child, copied or twin or child.copied is not None)

    shape(root)
    return set(spread(root, root.copied is not None))


def _numbered(one: str, other: str) -> bool:
    """`layer2` and `layer3`."""
    return one.rstrip("0123456789") == other.rstrip("0123456789")


def _paused(world: World, index: int) -> set[Param]:
    """What is in an optimizer of which nothing is trainable for the moment."""
    found: set[Param] = set()
    for optimizer in world.optimizers:
        if optimizer.event is not None and optimizer.event.index < index:
            held = [p for group in optimizer.groups for p in group.params]
            if not any(p.trains(index) for p in held):
                found.update(held)
    return found


def _alternates(norm: Module, event: Event, world: World) -> bool:
    """It is frozen and unfrozen in turn, and trained before and after."""
    (param, *_) = own(norm)
    later = any(write.value and write.index > event.index for write in param.writes)
    return later and _stepped(param, event, world)


def _stepped(param: Param, event: Event, world: World) -> bool:
    """It was trained before this moment, and is again after it."""
    moments = [
        step.index
        for step in world.of(STEP)
        if step.subject.holds(param, step.index) and param.trains(step.index)
    ]
    return any(i < event.index for i in moments) and any(i > event.index for i in moments)


def probes(root: Module, index: int) -> bool:
    """A linear probe: the last part of a model alone is trainable."""
    module = root
    while True:
        if any(p.trains(index) is not False for p in own(module)):
            return False
        parts = [child for child in module.children.values() if child.parameters()]
        if len(parts) == 1:
            module = parts[0]
            continue
        if not parts or any(
            p.trains(index) is not False for part in parts[:-1] for p in part.parameters()
        ):
            return False
        module = parts[-1]
        if all(p.trains(index) for p in module.parameters()):
            return True


def said(root: Module) -> str:
    """What messages call a model; a wrapper is called like what it wraps."""
    while root.wrapper and not root.label and len(root.children) == 1:
        (root,) = root.children.values()
    return root.root.shown


def paths(norms: Iterable[Module]) -> list[str]:
    """`layer1.0.bn1`, ...: of modules whose parts are not listed, the layers in them."""
    found = []
    for norm in norms:
        inner = list(_inside(norm.architecture)) if norm.norm != "batch" else []
        lead = f"{norm.path}." if norm.path else ""
        found += [lead + path for path in inner] or [norm.path or norm.shown]
    return found


def _inside(node: object) -> Iterator[str]:
    for name, part in getattr(node, "children", {}).items():
        if part.norm == "batch":
            yield name
        else:
            for path in _inside(part) if "batch" in part.has_norm else ():
                yield f"{name}.{path}"


def layers(norms: Sequence[Module]) -> str:
    """`20 BatchNorm layers of model (bn1, layer1.0.bn1 and 18 more)`; all of one model."""
    names = paths(norms)
    return f"{count(len(names), 'BatchNorm layer')} of {said(norms[0].root)} ({summarise(names)})"


def by_place(found: Iterable[tuple[object, Module]]) -> dict[object, list[Module]]:
    """Norms by what they have in common, each once."""
    grouped: dict[object, dict[int, Module]] = {}
    for key, norm in found:
        grouped.setdefault(key, {})[norm.id] = norm
    return {key: list(norms.values()) for key, norms in grouped.items()}


def later_pass(one: Event, other: Event) -> bool:
    """Both are in one loop, and `other` in a later pass of it."""
    for (line, number), (there, later) in zip(one.loops, other.loops):
        if line != there:
            return False
        if number != later:
            return later > number
    return False
