"""timm: heads that are made anew, optimizers over whole models, and its own freezing."""

from __future__ import annotations

from typing import Any

from freezecheck.program import Module
from freezecheck.source import (
    assignment,
    assumed,
    attributes,
    calls,
    iteration,
    optim,
    structure,
    subscripts,
)
from freezecheck.source.calls import Call, effect
from freezecheck.source.knowledge import architectures, optimizers
from freezecheck.source.machine import Machine
from freezecheck.source.values import List, Unknown, is_constant

_SHORT = {
    "sgd": "SGD", "momentum": "SGD", "nesterov": "SGD", "adam": "Adam", "adamw": "AdamW",
    "nadam": "NAdam", "radam": "RAdam", "rmsprop": "RMSprop", "adagrad": "Adagrad",
}  # fmt: skip


def method(m: Machine, owner: Any, name: str, given: Call) -> Any:
    """What models of timm have beside what a module has."""
    if not isinstance(owner, Module) or not owner.type.startswith("timm."):
        return NotImplemented
    if name == "reset_classifier":
        return _reset(m, owner, given)
    if name == "get_classifier":
        heads = _heads(owner)
        return (
            attributes.load(m, owner, heads[0], given.node)
            if heads
            else Unknown(m.spot(given.node))
        )
    if name in ("set_grad_checkpointing", "no_weight_decay", "group_matcher", "set_input_size"):
        return Unknown(m.spot(given.node))
    return NotImplemented


calls.METHODS.insert(0, method)


def _heads(owner: Module) -> tuple[str, ...]:
    return architectures.head(owner.type)


def _reset(m: Machine, owner: Module, given: Call) -> Any:
    """`model.reset_classifier(n)`: a fresh head in the place of the old one."""
    classes = given.get(0, "num_classes")
    heads = _heads(owner)
    if not heads or isinstance(classes, Unknown) or given.open:
        calls.escape(m, owner, given.node, "reset_classifier")
        return None
    structure.unfold(m, owner)
    for path in heads:
        *above, last = path.split(".")
        parent = owner
        for part in above:
            structure.unfold(m, parent)
            parent = parent.children.get(part, parent)
        structure.unfold(m, parent)
        old = parent.children.get(last)
        if old is None:
            calls.escape(m, owner, given.node, "reset_classifier")
            return None
        made = m.new_module("torch.nn.Linear" if classes else "torch.nn.Identity", given.node)
        made.pretrained = False
        if classes:
            made.options["out_features"] = classes
            m.new_param(made, "weight")
            m.new_param(made, "bias")
        assignment.put(m, given.node, parent, last, made)
    return None


@effect("timm.optim.create_optimizer_v2", "timm.optim.optim_factory.create_optimizer_v2")
def create_optimizer(m: Machine, given: Call) -> Any:
    """An optimizer over what requires grad; with weight decay or layer-wise rates in groups."""
    value = given.get(0, "model_or_params")
    name = given.get(1, "opt", "sgd")
    model = assumed.as_module(m, value, given.node) if isinstance(value, Module) else None
    bound = dict(given.keywords)
    bound.update(zip(("opt", "lr", "weight_decay", "momentum"), given.args[1:]))
    options: dict[str, Any] = {
        k: bound[k] for k in ("lr", "weight_decay", "momentum") if k in bound
    }
    short = _SHORT.get(name) if isinstance(name, str) else None
    kind = f"torch.optim.{short}" if short else "timm.optim.create_optimizer_v2"
    known = optimizers.find(kind)
    options = {**(known.arguments.defaults if known is not None else {}), **options}
    params: Any = value
    if model is not None:
        decays = bound.get("layer_decay") is not None or bound.get("weight_decay", 0.0) != 0
        every = list(model.parameters())
        chosen = [p for p in every if p.trainable or not decays]
        params = List(chosen, decays and any(p.trainable is None for p in every))
    made = optim.build(m, kind, params, options, given, set(options))
    if bound.get("layer_decay") is not None:
        for group in made.groups:
            group.options["lr"] = None
    return made


@effect("timm.optim.create_optimizer")
def create_from_args(m: Machine, given: Call) -> Any:
    """The same, from parsed arguments."""
    inner = Call(given.node, [given.get(1, "model"), Unknown("args.opt")], {"lr": None})
    inner.keywords["weight_decay"] = Unknown("args.weight_decay")
    return create_optimizer(m, inner)


@effect("timm.optim.param_groups_weight_decay", "timm.optim.param_groups_layer_decay")
def groups(m: Machine, given: Call) -> Any:
    """Groups of what requires grad; here as one, since nobody asks which is in which."""
    model = assumed.as_module(m, given.get(0, "model"), given.node)
    if model is None:
        return Unknown(m.spot(given.node))
    every = list(model.parameters())
    found = List([p for p in every if p.trainable], any(p.trainable is None for p in every))
    from freezecheck.source.values import Dict

    options = {"params": found, "weight_decay": Unknown("weight_decay")}
    if given.name == "param_groups_layer_decay":
        options["lr"] = Unknown("lr_scale")
    return List([Dict(options)])


@effect("timm.scheduler.create_scheduler", "timm.scheduler.create_scheduler_v2")
def create_scheduler(m: Machine, given: Call) -> Any:
    optimizer = (
        given.get(1, "optimizer") if given.name == "create_scheduler" else given.get(0, "optimizer")
    )
    options = {k: v for k, v in given.keywords.items() if is_constant(v)}
    made = optim.schedule(
        m, f"timm.scheduler.{given.name}", {"optimizer": optimizer, **options}, given, {}
    )
    return (made, Unknown(m.spot(given.node)))


@effect(
    "timm.utils.freeze",
    "timm.utils.model.freeze",
    "timm.utils.unfreeze",
    "timm.utils.model.unfreeze",
)
def freeze(m: Machine, given: Call) -> Any:
    """Flags, and BatchNorm layers made into others that keep their values: what is thawed are
    new layers with new parameters."""
    root = assumed.as_module(m, given.get(0, "root_module"), given.node)
    names = given.get(1, "submodules", List())
    names = List([names]) if isinstance(names, str) else names
    found, complete = iteration.items(m, names, given.node)
    if root is None:
        return
    if not complete or not all(isinstance(name, str) for name in found):
        calls.escape(m, root, given.node, given.name)
        return
    statistics = given.get(2, "include_bn_running_stats", True)
    parts: list[Any] = [_at(m, root, name, given) for name in found] or [root]
    for part in parts:
        if not isinstance(part, Module):
            calls.escape(m, root, given.node, given.name)
            continue
        m.write_flag(given.node, list(part.parameters()), given.name == "unfreeze")
        if statistics is not False:
            for _, each in iteration.modules(m, part):
                _convert(m, each, given.name == "unfreeze")


def _at(m: Machine, root: Module, path: str, given: Call) -> Any:
    found: Any = root
    for part in path.split("."):
        found = subscripts.load_item(m, found, part, given.node)
        found = assumed.as_module(m, found, given.node)
    return found


def _convert(m: Machine, module: Module, back: bool) -> None:
    """A BatchNorm layer becomes one of constants, or one with new parameters again."""
    if module.norm == "batch" and not back:
        module.norm, module.params, module.rest = "frozen", {}, []
    elif module.norm == "frozen" and back:
        module.norm = "batch"
        for name in ("weight", "bias"):
            m.new_param(module, name, norm=True)
