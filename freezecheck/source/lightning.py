"""Lightning: the life of a module in `trainer.fit`, fine-tuning callbacks, and Fabric.

A fit keeps the modes that the modules are in (2.2 and later), and after each validation
brings them back one by one.
"""

from __future__ import annotations

from typing import Any

from freezecheck import program
from freezecheck.program import Module, Optimizer, Param
from freezecheck.source import assumed, attributes, calls, iteration, lives, modules, objects, optim
from freezecheck.source.calls import Call
from freezecheck.source.machine import Machine
from freezecheck.source.objects import on
from freezecheck.source.values import (
    Class,
    Dict,
    Instance,
    List,
    Object,
    Super,
    Tensor,
    Unknown,
)

_FINETUNING = "lightning.pytorch.callbacks.BaseFinetuning"
_BACKBONE = "lightning.pytorch.callbacks.BackboneFinetuning"


def is_lightning(cls: Any) -> bool:
    """A class of the file's own is a LightningModule."""
    return isinstance(cls, Class) and any(
        name.rpartition(".")[2] == "LightningModule" for name in cls.libraries()
    )


@on("lightning.Trainer", "fit")
def fit(m: Machine, owner: Any, given: Call) -> Any:
    """`trainer.fit(model, ...)`."""
    module = given.get(0, "model")
    if not isinstance(module, Module) or not is_lightning(module.cls):
        return NotImplemented
    trainer = owner if isinstance(owner, Object) else Object("lightning.Trainer", None, "trainer")
    live(m, module, trainer, given.node)
    return None


@on("lightning.Trainer", "validate", "test", "predict", "save_checkpoint")
def look(m: Machine, owner: Any, given: Call) -> Any:
    return Unknown(m.spot(given.node))


def live_alone(m: Machine, module: Any, node: Any) -> None:
    """A fit of which the file says nothing."""
    if isinstance(module, Module) and module.escaped is None:
        live(m, module, Object("lightning.Trainer", None, "trainer"), node)


def live(m: Machine, module: Module, trainer: Object, node: Any) -> None:
    """One fit of a module, from its optimizers to its last epoch."""
    callbacks = _callbacks(m, module, trainer, node)

    def hook(name: str, *args: Any) -> None:
        for callback in callbacks:
            _callback(m, callback, name, [trainer, module, *args], node)
        lives.own(m, module, name, list(args), node)

    module.attributes["trainer"] = trainer
    hook("setup", "fit")
    lives.own(m, module, "configure_model", [], node)
    optimizers, schedulers = _configured(m, module, node)
    trainer.attributes["optimizers"] = List(optimizers)
    module.attributes["<optimizers>"] = List(optimizers)
    module.attributes["<schedulers>"] = List(schedulers)
    hook("on_fit_start")
    hook("on_train_start")
    numbers = lives.compared_with_epoch(module.cls, module)
    for each in callbacks:
        numbers |= lives.compared_with_epoch(each.cls, each)
        if isinstance(each.attributes.get("unfreeze_backbone_at_epoch"), int):
            numbers.add(each.attributes["unfreeze_backbone_at_epoch"])
    for epoch in lives.epochs(m, node, numbers, trainer.attributes.get("max_epochs")):
        trainer.attributes["current_epoch"] = module.attributes["current_epoch"] = epoch
        hook("on_train_epoch_start")
        for number in range(lives.PASSES if epoch == 0 else 1):
            _train(m, module, optimizers, number, hook, node)
        if lives.defines(module, "validation_step"):
            lives.validate(m, module, node, lambda: _validation(m, module, hook, node))
        hook("on_train_epoch_end")
        lives.own(m, module, "training_epoch_end", [Unknown("outputs")], node)
        lives.schedule(m, schedulers, node)
    hook("on_train_end")
    hook("on_fit_end")


def _callbacks(m: Machine, module: Module, trainer: Object, node: Any) -> list[Instance]:
    given = trainer.attributes.get("callbacks")
    found = [given] if isinstance(given, Instance) else iteration.items(m, given, node)[0]
    more = lives.own(m, module, "configure_callbacks", [], node)
    if more is not NotImplemented:
        found += [more] if isinstance(more, Instance) else iteration.items(m, more, node)[0]
    return [each for each in found if isinstance(each, Instance)]


def _callback(m: Machine, callback: Instance, name: str, args: list[Any], node: Any) -> Any:
    """A hook of a callback: its own, or its library's."""
    result = lives.own(m, callback, name, args, node)
    if result is NotImplemented and isinstance(callback, Object):
        return objects.act(m, callback, name, Call(node, args))
    return result


def _train(
    m: Machine, module: Module, optimizers: list[Any], number: int, hook: Any, node: Any
) -> None:
    """A batch: the module's own step, and, unless it does it all itself, backward and step."""
    batch = lives.batch(m, number)
    hook("on_train_batch_start", batch, number)
    if module.attributes.get("automatic_optimization") is False:
        lives.own(m, module, "training_step", [batch, number], node)
    else:
        several = len(optimizers) > 1
        for index, optimizer in enumerate(optimizers):
            more = [index] if several else []
            result = lives.own(m, module, "training_step", [batch, number, *more], node)
            lives.zero_grad(m, optimizer, node)
            loss = lives.loss_of(result)
            if loss is not None and result is not NotImplemented:
                lives.backward(m, loss, node)
                hook("on_before_optimizer_step", optimizer)
                _step(m, module, optimizer, number, node)
    hook("on_train_batch_end", Unknown("outputs"), batch, number)


def _step(m: Machine, module: Module, optimizer: Any, number: int, node: Any) -> None:
    epoch = module.attributes.get("current_epoch")
    args = [epoch, number, optimizer, Unknown("optimizer_closure")]
    if lives.own(m, module, "optimizer_step", args, node) is NotImplemented:
        lives.step(m, optimizer, node)


def _validation(m: Machine, module: Module, hook: Any, node: Any) -> None:
    hook("on_validation_epoch_start")
    lives.own(m, module, "validation_step", [lives.batch(m), 0], node)
    hook("on_validation_epoch_end")


def _configured(m: Machine, module: Module, node: Any) -> tuple[list[Any], list[Any]]:
    """What `configure_optimizers` gives, in any of the shapes that it may have."""
    value = lives.own(m, module, "configure_optimizers", [], node)
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], (List, tuple)):
        optimizers = iteration.items(m, value[0], node)[0]
        schedulers = [_scheduler(each) for each in iteration.items(m, value[1], node)[0]]
        return _kept(optimizers), schedulers
    if isinstance(value, List) and len(value.items) == 2 and isinstance(value.items[0], List):
        return _configured_pair(value)
    every = iteration.items(m, value, node)[0] if isinstance(value, (List, tuple)) else [value]
    optimizers = [e.items.get("optimizer") if isinstance(e, Dict) else e for e in every]
    schedulers = [_scheduler(e.items.get("lr_scheduler")) for e in every if isinstance(e, Dict)]
    return _kept(optimizers), schedulers


def _configured_pair(value: List) -> tuple[list[Any], list[Any]]:
    first, second = value.items
    return _kept(first.items), [_scheduler(e) for e in getattr(second, "items", [second])]


def _kept(optimizers: list[Any]) -> list[Any]:
    return [each for each in optimizers if isinstance(each, (Optimizer, Instance))]


def _scheduler(value: Any) -> Any:
    return value.items.get("scheduler") if isinstance(value, Dict) else value


def of_module(m: Machine, owner: Any, name: str, given: Call) -> Any:
    """What a LightningModule has beside what a module has."""
    if isinstance(owner, Super):
        owner = owner.owner
    if isinstance(owner, Class) and name == "load_from_checkpoint" and is_lightning(owner):
        return _loaded(m, owner, given)
    if not isinstance(owner, Module) or not is_lightning(owner.cls):
        return NotImplemented
    if name in ("freeze", "unfreeze"):
        m.write_flag(given.node, list(owner.parameters()), name == "unfreeze", via=owner)
        modules.turn(m, owner, name == "unfreeze", given.node)
        return owner
    if name in ("optimizers", "lr_schedulers"):
        kind = "<optimizers>" if name == "optimizers" else "<schedulers>"
        held = owner.attributes.get(kind)
        if not isinstance(held, List):
            return Unknown(m.spot(given.node))
        return held.items[0] if len(held.items) == 1 else held
    if name == "manual_backward":
        loss = given.get(0, "loss")
        m.event(program.BACKWARD, given.node, loss if isinstance(loss, Tensor) else None)
        return None
    if name in _QUIET or name.startswith(("log", "on_", "configure_")):
        return None
    return NotImplemented


_QUIET = frozenset(
    "save_hyperparameters print toggle_optimizer untoggle_optimizer clip_gradients setup teardown"
    " optimizer_zero_grad prepare_data".split()
)


def _loaded(m: Machine, cls: Class, given: Call) -> Any:
    """`Model.load_from_checkpoint(path)`: made as it was saved, with the values in the file."""
    from freezecheck.source.entries import instance

    made = instance(m, cls, given.node, given.keywords)
    if isinstance(made, Module):
        for each in made.walk():
            each.pretrained = True
    return made


calls.METHODS.insert(0, of_module)


# Fine-tuning callbacks


@on(f"{_FINETUNING} {_BACKBONE}", "setup")
def setup(m: Machine, owner: Object, given: Call) -> Any:
    _callback(m, owner, "freeze_before_training", [given.get(1, "pl_module")], given.node)


@on(f"{_FINETUNING} {_BACKBONE}", "on_train_epoch_start")
def epoch_start(m: Machine, owner: Object, given: Call) -> Any:
    trainer, module = given.get(0, "trainer"), given.get(1, "pl_module")
    if not isinstance(trainer, Object):
        return
    epoch = trainer.attributes.get("current_epoch")
    for optimizer in iteration.items(m, trainer.attributes.get("optimizers"), given.node)[0]:
        _callback(m, owner, "finetune_function", [module, epoch, optimizer], given.node)


@on(_BACKBONE, "freeze_before_training")
def freeze_backbone(m: Machine, owner: Object, given: Call) -> Any:
    backbone = _backbone(m, given)
    # The option does not reach this call: whatever it is, BatchNorm goes on training.
    return _freeze(m, owner, backbone, True, given)


@on(_BACKBONE, "finetune_function")
def finetune_backbone(m: Machine, owner: Object, given: Call) -> Any:
    if given.get(1, "epoch") != owner.attributes.get("unfreeze_backbone_at_epoch"):
        return
    optimizer = given.get(2, "optimizer")
    rate = owner.attributes.get("backbone_initial_lr")
    if rate is None and isinstance(optimizer, Optimizer):
        first, ratio = optimizer.lr(optimizer.groups[0]), owner.attributes.get(_RATIO)
        rate = first * ratio if first is not None and isinstance(ratio, float) else None
    train_bn = owner.attributes.get("train_bn")
    _unfreeze(m, owner, _backbone(m, given), optimizer, rate, train_bn, given)


_RATIO = "backbone_initial_ratio_lr"


def _backbone(m: Machine, given: Call) -> Any:
    return attributes.load(m, given.get(0, "pl_module"), "backbone", given.node)


@on(f"{_FINETUNING} {_BACKBONE}", "freeze")
def freeze(m: Machine, owner: Any, given: Call) -> Any:
    return _freeze(m, owner, given.get(0, "modules"), given.get(1, "train_bn", True), given)


def _freeze(m: Machine, owner: Any, value: Any, train_bn: Any, given: Call) -> None:
    norms, others = _split(m, value, given)
    name = owner.cls.name if isinstance(owner, Instance) and owner.cls is not None else ""
    option = owner.attributes.get("train_bn", train_bn) if isinstance(owner, Object) else train_bn
    data = {"via": "finetuning", "callback": name or "BackboneFinetuning", "train_bn": option}
    m.write_flag(given.node, [p for each in others for p in own_params(each)], False, **data)
    held = train_bn if isinstance(train_bn, bool) else None
    m.write_flag(given.node, [p for each in norms for p in own_params(each)], held, **data)


@on(f"{_FINETUNING} {_BACKBONE}", "make_trainable")
def make_trainable(m: Machine, owner: Any, given: Call) -> Any:
    norms, others = _split(m, given.get(0, "modules"), given)
    m.write_flag(given.node, [p for each in (*others, *norms) for p in own_params(each)], True)


@on(f"{_FINETUNING} {_BACKBONE}", "unfreeze_and_add_param_group")
def unfreeze(m: Machine, owner: Any, given: Call) -> Any:
    rate = given.get(2, "lr")
    optimizer = given.get(1, "optimizer")
    if rate is None and isinstance(optimizer, Optimizer):
        first, share = optimizer.lr(optimizer.groups[0]), given.get(3, "initial_denom_lr", 10.0)
        if first is not None and isinstance(share, (int, float)) and share:
            rate = first / share
    train_bn = given.get(4, "train_bn", True)
    _unfreeze(m, owner, given.get(0, "modules"), optimizer, rate, train_bn, given)


def _unfreeze(
    m: Machine, owner: Any, value: Any, optimizer: Any, rate: Any, train_bn: Any, given: Call
) -> None:
    norms, others = _split(m, value, given)
    every = [p for each in (*others, *norms) for p in own_params(each)]
    m.write_flag(given.node, every, True, via="finetuning")
    if not isinstance(optimizer, Optimizer):
        return
    wanted = every if train_bn is not False else [p for each in others for p in own_params(each)]
    new = [p for p in wanted if not optimizer.holds(p)]
    if new:
        optim.add_group(m, optimizer, Dict({"params": List(new), "lr": rate}), given.node)


def _split(m: Machine, value: Any, given: Call) -> tuple[list[Module], list[Module]]:
    """The BatchNorm layers in a module, or in several, and all else."""
    module = assumed.as_module(m, value, given.node)
    found = [module] if module is not None else iteration.items(m, value, given.node)[0]
    every = [
        each for part in found if isinstance(part, Module) for _, each in iteration.modules(m, part)
    ]
    norms = [each for each in every if each.norm == "batch"]
    return norms, [each for each in every if each.norm != "batch"]


def own_params(module: Module) -> list[Param]:
    """The parameters that are a module's own, not those of its listed children."""
    return [leaf for p in (*module.params.values(), *module.rest) for leaf in p.leaves()]


# Fabric


@on("lightning.Fabric", "setup", "setup_module", "setup_optimizers")
def fabric_setup(m: Machine, owner: Any, given: Call) -> Any:
    return given.args[0] if len(given.args) == 1 else tuple(given.args)


@on("lightning.Fabric", "setup_dataloaders")
def fabric_loaders(m: Machine, owner: Any, given: Call) -> Any:
    return given.args[0] if len(given.args) == 1 else tuple(given.args)


@on("lightning.Fabric", "backward")
def fabric_backward(m: Machine, owner: Any, given: Call) -> Any:
    lives.backward(m, given.get(0, "tensor"), given.node)


@on("lightning.Fabric", "clip_gradients")
def fabric_clip(m: Machine, owner: Any, given: Call) -> Any:
    return Unknown(m.spot(given.node))


@on("lightning.Fabric", "launch", "save", "print", "log", "log_dict", "no_backward_sync", "barrier")
def fabric_other(m: Machine, owner: Any, given: Call) -> Any:
    return Unknown(m.spot(given.node))
