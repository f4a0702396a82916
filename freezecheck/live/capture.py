"""Real objects to a `Snapshot`, by identity and without touching them.

One pass over the module tree and one over the parameter groups. Values are
read only where a verdict hangs on them (a few entries of the head and of some
norms; gradients and moments as far as needed to see one that is not zero), so
nothing here waits for a GPU longer than that. torch is never imported: it is
there, or there is nothing to capture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from freezecheck.live import oddities, optimizers, ranks, sharding, unloaded, values
from freezecheck.live.seen import Seen
from freezecheck.live.stages import cut
from freezecheck.live.train_copy import changing
from freezecheck.live.traits import qualified
from freezecheck.live.tree import Node, release, unwrap, walk
from freezecheck.snapshot import Dropout, Head, Model, Norm, Param, Snapshot

# Root package of a class in the model's tree -> framework it shows.
_FRAMEWORKS = ("peft", "transformers", "timm", "torchvision", "lightning", "pytorch_lightning")


def capture(
    models: Mapping[str, Any],
    opts: Mapping[str, Any],
    scheds: Mapping[str, Any] | None = None,
    *,
    recorded: bool = False,
    grads: Mapping[int, str] | None = None,
    modes: Mapping[int, bool] | None = None,
    flags: Mapping[int, bool] | None = None,
) -> Snapshot:
    """The setup as plain data. Keys are the labels that findings will use.

    `models` are root modules, wrapped or not. `grads` (kind of gradient by id of
    the parameter), `modes` (train mode by id of the module) and `flags`
    (requires_grad by id of the parameter), where given, are what a run saw
    earlier, and count instead of what the objects say now.
    """
    seen = Seen(grads, modes or {}, flags or {})
    now = Snapshot(recorded=recorded, torch=values.torch().__version__)
    now.rank, now.world = ranks.place()
    known: dict[int, Param] = {}
    trees: list[list[Node]] = []
    for label, module in models.items():
        trees.append(_capture_model(now, known, label, module, seen))
        now.flats.extend(sharding.flats(module, len(now.models) - 1))
    optimizers.capture(now, known, opts, scheds or {}, seen)
    if now.rank is not None:
        one = len(opts) == 1  # of several, each has its gradients at a step of its own
        step = (grads if one else {}) if recorded else None
        now.shared = ranks.shared(models.values(), known, step)
    for index, nodes in enumerate(trees):
        oddities.capture(now, known, index, nodes)
        _weights(now, index, nodes)
        release(nodes)
    return now


def _capture_model(
    now: Snapshot, known: dict[int, Param], label: str, module: Any, seen: Seen
) -> list[Node]:
    """Add one model, its parameters, norms and dropouts."""
    root, wrappers = unwrap(module)
    nodes = walk(root)
    index = len(now.models)
    for node in nodes:
        if node.module._parameters:
            _parameters(now, known, index, node, seen)
    for node in reversed(nodes):
        if node.parent is not None:
            node.parent.numel += node.numel
    model = Model(label, qualified(type(root)), seen.mode(root), wrappers=wrappers)
    model.stages = cut(nodes)
    model.children = tuple(root._modules)
    now.models.append(model)
    model.resting = not any(n.module._parameters and seen.mode(n.module) for n in nodes)
    for node in nodes:
        for param in node.params:
            if param.stage < 0:
                param.stage = node.stage
        if node.traits.norm:
            now.norms.append(_norm(node, index, seen))
        elif node.traits.dropout:
            now.dropouts.append(_dropout(node, index, seen))
    packages = {node.traits.package for node in nodes}
    model.frameworks = tuple(name for name in _FRAMEWORKS if name in packages)
    return nodes


def _parameters(now: Snapshot, known: dict[int, Param], model: int, node: Node, seen: Seen) -> None:
    """A module's own parameters. Stages are given later, when the tree has been cut."""
    prefix = f"{node.path}." if node.path else ""
    for name, tensor in node.module._parameters.items():
        if tensor is None:
            continue
        path = prefix + name
        first = known.get(id(tensor))
        if first is not None:
            first.aliases += (path,)
            node.params.append(first)
            node.numel += first.numel
            continue
        param = seen.param(path, tensor, model)
        known[id(tensor)] = param
        node.params.append(param)
        node.numel += param.numel
        now.params.append(param)


def _norm(node: Node, model: int, seen: Seen) -> Norm:
    module = node.module
    norm = Norm(
        node.path,
        type(module).__name__,
        node.traits.norm,
        model,
        node.stage,
        seen.mode(module),
        any(p.trainable for p in node.params) if node.params else None,
    )
    if module._buffers.get("running_mean") is not None:
        norm.has_stats = True
        norm.tracking = bool(getattr(module, "track_running_stats", True))
        norm.still = getattr(module, "momentum", None) == 0
        norm.apart = node.parent is not None and seen.mode(node.parent.module) != norm.training
    return norm


def _dropout(node: Node, model: int, seen: Seen) -> Dropout:
    module = node.module
    p = getattr(module, "p", None)
    if p is None:
        p = getattr(module, "drop_prob", None)
    return Dropout(
        node.path, type(module).__name__, float(p or 0.0), seen.mode(module), model, node.stage
    )


def _weights(now: Snapshot, index: int, nodes: Sequence[Node]) -> None:
    """What only values tell: fresh head, pretrained norms, statistics never set."""
    model = now.models[index]
    by_path = {node.path: node.module for node in nodes if node.traits.norm}
    norms = [norm for norm in now.norms if norm.model == index]
    model.head = _head(nodes)
    model.pretrained = values.pretrained([by_path[norm.path] for norm in norms])
    if model.pretrained:
        inside: list[list[Any]] = [[] for _ in model.stages]
        for norm in norms:
            inside[norm.stage].append(by_path[norm.path])
        for stage, modules in zip(model.stages, inside):
            stage.pretrained = values.pretrained(modules)
    for norm in norms:
        if norm.has_stats and not norm.training:
            norm.fresh = values.fresh_norm(by_path[norm.path])
    if not now.recorded:  # in a run the modes of the forward itself are known
        tried = [norm for norm in norms if norm.has_stats and not norm.trainable]
        flips = changing(nodes) if tried else None
        for norm in tried:
            norm.reverts = None if flips is None else norm.path in flips


def _head(nodes: Sequence[Node]) -> Head | None:
    """The last layer with a matrix of weights."""
    for node in reversed(nodes):
        weight = node.module._parameters.get("weight")
        if weight is not None and weight.dim() >= 2 and not node.traits.norm:
            fresh = values.fresh_layer(node.module)
            if fresh is None and values.readable(weight) is None and _was_loaded(nodes):
                fresh = True  # weights were left out, and not its own
            return Head(node.path, type(node.module).__name__, tuple(weight.shape), fresh)
    return None


def _was_loaded(nodes: Sequence[Node]) -> bool:
    return any(unloaded.holds(node.module) for node in nodes)
