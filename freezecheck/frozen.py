"""What is frozen, and meant to be: the parts of a model that its training leaves as they are."""

from __future__ import annotations

from collections.abc import Iterator

from freezecheck.snapshot import Dropout, Norm, Param, Snapshot, count, summarise


def norms(now: Snapshot) -> list[Norm]:
    """Norm layers with running statistics that are frozen in a model that trains.

    Without weight and bias of its own, a norm counts as frozen where its stage is. Left
    out are a momentum encoder (see `copies`) and what is frozen for a moment only, as a
    GAN's discriminator in the generator's step: it has gradients, or its own optimizer
    holds nothing that is trainable.
    """
    found = [n for n in now.norms if n.has_stats and not n.trainable]
    if not found:
        return []
    trained = {p.model for p in now.trainable}
    besides = {model: copies(now, model) for model in trained}
    own: dict[tuple[int, str], list[Param]] = {}
    for param in now.frozen:
        own.setdefault((param.model, param.module), []).append(param)

    def rests(norm: Norm) -> bool:
        params = own.get((norm.model, norm.path), [])
        if norm.trainable is None:
            params = now.by_stage[norm.model, norm.stage]
        return bool(params) and not any(
            p.trainable or p.grad is not None or any(h.optimizer in now.paused for h in p.held)
            for p in params
        )

    return [
        n
        for n in found
        if n.model in trained and rests(n) and not n.path.startswith(besides[n.model])
    ]


def modal(now: Snapshot, model: int) -> list[Norm | Dropout]:
    """Layers that train mode makes a difference to, in the part that trains."""
    norms: list[Norm | Dropout] = [
        n for n in now.norms if n.model == model and n.has_stats and n.trainable and not n.still
    ]
    random = [d for d in now.dropouts if d.model == model and d.p > 0]
    if not random:
        return norms
    trained = {p.stage for p in now.trainable if p.model == model}
    return norms + [d for d in random if d.stage in trained]


def probes(now: Snapshot, model: int) -> bool:
    """A linear probe: of the model, the head alone is trainable."""
    last = len(now.models[model].stages) - 1
    trained = {p.stage for p in now.trainable if p.model == model}
    return last > 0 and now.models[model].stages[last].kind == "head" and trained == {last}


def copies(now: Snapshot, model: int) -> tuple[str, ...]:
    """Prefixes (`encoder_k.`) of frozen parts that are built like a part that trains beside
    them: momentum encoders, targets and teachers. Numbered siblings are stages."""
    return tuple(_copies(now.of_model(model), ""))


def _copies(params: list[Param], prefix: str) -> Iterator[str]:
    parts: dict[str, list[Param]] = {}
    for param in params:
        name, dot, _ = param.name[len(prefix) :].partition(".")
        if dot:
            parts.setdefault(name, []).append(param)
    trains = {name: any(p.trainable for p in below) for name, below in parts.items()}
    if all(trains.values()) or not any(trains.values()):
        resting = []
    else:
        resting = [name for name in parts if not trains[name]]
    shapes = {n: _shapes(parts[n], len(prefix) + len(n)) for n in (parts if resting else ())}
    for name in resting:
        is_network = any(path.count(".") > 1 for path, _ in shapes[name])
        if is_network and any(
            trains[other] and shapes[name] <= shapes[other] and not _numbered(name, other)
            for other in parts
        ):
            yield f"{prefix}{name}."
    for name, below in parts.items():
        if trains[name] and any(not p.trainable for p in below):
            yield from _copies(below, f"{prefix}{name}.")


def _shapes(params: list[Param], start: int) -> set[tuple[str, tuple[int, ...]]]:
    """Paths from a module on (`.0.weight`), with the shapes of the tensors."""
    return {(p.name[start:], tuple(p.shape)) for p in params}


def _numbered(one: str, other: str) -> bool:
    """`layer2` and `layer3`."""
    return one.rstrip("0123456789") == other.rstrip("0123456789")


def layers(now: Snapshot, norms: list[Norm]) -> str:
    """`20 BatchNorm layers of model (bn1, layer1.0.bn1 and 18 more)`; all of one model."""
    kind = "BatchNorm layer" if all(n.kind == "batch" for n in norms) else "norm layer"
    label = now.models[norms[0].model].label
    return f"{count(len(norms), kind)} of {label} ({summarise([n.path for n in norms])})"
