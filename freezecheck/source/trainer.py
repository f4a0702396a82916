"""The Trainer of Transformers: what `trainer.train()` does to a model.

The optimizer is made at the first `train()`, from what requires grad then, and kept. The
model is put into train mode before each step, whatever mode its parts were in.
"""

from __future__ import annotations

from typing import Any

from freezecheck import program
from freezecheck.program import Module, Optimizer
from freezecheck.source import (
    assumed,
    calls,
    forward,
    iteration,
    lives,
    modules,
    objects,
)
from freezecheck.source.calls import Call
from freezecheck.source.machine import Machine
from freezecheck.source.objects import on
from freezecheck.source.optim import build
from freezecheck.source.values import Class, Instance, List, Object, Tensor, Unknown

_KINDS = "transformers.Trainer transformers.Seq2SeqTrainer"
_EVENTS = ("on_train_begin", "on_epoch_begin", "on_step_begin", "on_step_end", "on_epoch_end")


@on(_KINDS, "train")
def train(m: Machine, owner: Any, given: Call) -> Any:
    """`trainer.train()`."""
    if not isinstance(owner, Object):
        return NotImplemented
    model = _model(m, owner, given.node)
    if model is None:
        return Unknown(m.spot(given.node))
    _prepare(m, owner, given.node)
    callbacks = _callbacks(m, owner, given.node)

    def hook(name: str) -> None:
        for callback in callbacks:
            state = Unknown(f"<state>{m.spot(given.node)}")
            named = {"model": model, "optimizer": owner.attributes.get("optimizer")}
            args = [owner.attributes.get("args"), state, Unknown("control")]
            lives.own(m, callback, name, args, given.node, **named)

    hook("on_train_begin")
    numbers: set[int] = set()
    for callback in callbacks:
        numbers |= lives.compared_with_epoch(callback.cls, callback)
    for epoch in lives.epochs(m, given.node, ()):
        hook("on_epoch_begin")
        for number in range(lives.PASSES if epoch == 0 else 1):
            hook("on_step_begin")
            _step(m, owner, model, number, given)
            hook("on_step_end")
        if owner.attributes.get("eval_dataset") is not None:
            _evaluate(m, owner, model, given)
        hook("on_epoch_end")
    hook("on_train_end")
    return Unknown(m.spot(given.node))


def _model(m: Machine, owner: Object, node: Any) -> Module | None:
    value = owner.attributes.get("model")
    start = owner.attributes.get("model_init")
    if value is None and start is not None:
        value = lives.call(m, start, [], node)
    model = assumed.as_module(m, value, node) if isinstance(value, (Module, Unknown)) else None
    if model is not None:
        owner.attributes["model"] = model
    return model


def _callbacks(m: Machine, owner: Object, node: Any) -> list[Instance]:
    found = iteration.items(m, owner.attributes.get("callbacks"), node)[0]
    found += owner.attributes.get("<callbacks>", [])
    made = [calls.make(m, e, Call(node, [])) if isinstance(e, Class) else e for e in found]
    return [each for each in made if isinstance(each, Instance)]


@on(_KINDS, "add_callback")
def add_callback(m: Machine, owner: Any, given: Call) -> Any:
    if isinstance(owner, Object):
        owner.attributes.setdefault("<callbacks>", []).append(given.get(0, "callback"))


def _prepare(m: Machine, owner: Object, node: Any) -> None:
    """The optimizer and the scheduler, unless there are some already."""
    given = owner.attributes.get("optimizers")
    for index, name in enumerate(("optimizer", "lr_scheduler")):
        if isinstance(given, tuple) and len(given) == 2 and given[index] is not None:
            owner.attributes.setdefault(name, given[index])
    _dispatch(m, owner, "create_optimizer_and_scheduler", [Unknown("steps")], node)


def _dispatch(m: Machine, owner: Object, name: str, args: list[Any], node: Any) -> Any:
    """A method of the Trainer: of its own class, or the library's."""
    result = lives.own(m, owner, name, args, node)
    return objects.act(m, owner, name, Call(node, args)) if result is NotImplemented else result


@on(_KINDS, "create_optimizer_and_scheduler")
def create_both(m: Machine, owner: Any, given: Call) -> Any:
    if isinstance(owner, Object):
        _dispatch(m, owner, "create_optimizer", [], given.node)
        steps, optimizer = given.get(0, "num_training_steps"), owner.attributes.get("optimizer")
        _dispatch(m, owner, "create_scheduler", [steps, optimizer], given.node)


@on(_KINDS, "create_optimizer")
def create_optimizer(m: Machine, owner: Any, given: Call) -> Any:
    """One over what requires grad; biases and norms without weight decay."""
    if not isinstance(owner, Object):
        return NotImplemented
    held, model = owner.attributes.get("optimizer"), owner.attributes.get("model")
    if held is not None or not isinstance(model, Module):
        return held
    every = list(model.parameters())
    chosen = List([p for p in every if p.trainable], any(p.trainable is None for p in every))
    options = {"lr": _option(owner, "learning_rate"), "weight_decay": None}
    kind = _option(owner, "optim", "adamw_torch")
    adam = isinstance(kind, str) and kind.startswith("adamw_torch")
    name = "torch.optim.AdamW" if adam else "transformers.Trainer.optimizer"
    made = build(m, name, chosen, options, given, {"lr", "weight_decay"})
    owner.attributes["optimizer"] = made
    return made


@on(_KINDS, "create_scheduler")
def create_scheduler(m: Machine, owner: Any, given: Call) -> Any:
    if not isinstance(owner, Object):
        return NotImplemented
    held, optimizer = owner.attributes.get("lr_scheduler"), owner.attributes.get("optimizer")
    if held is None and isinstance(optimizer, Optimizer):
        name = "transformers.get_scheduler"
        options = {"name": _option(owner, "lr_scheduler_type", "linear")}
        held = m.new_scheduler(name, optimizer, options, given.node)
        held.event = m.event(
            program.SCHEDULER, given.node, held, value=name, optimizer=optimizer,
            groups=len(optimizer.groups), named=frozenset(),
        )  # fmt: skip
        owner.attributes["lr_scheduler"] = held
    return held


def _option(owner: Object, name: str, default: Any = None) -> Any:
    """What the Trainer's arguments say; None where they are not known."""
    args = owner.attributes.get("args")
    if not isinstance(args, Object) or args.open:
        return None if args is not None else {"learning_rate": 5e-5}.get(name, default)
    return args.attributes.get(name, default)


def _step(m: Machine, owner: Object, model: Module, number: int, given: Call) -> None:
    inputs = lives.batch(m, number)
    _dispatch(m, owner, "training_step", [model, inputs], given.node)
    optimizer = owner.attributes.get("optimizer")
    lives.step(m, optimizer, given.node)
    lives.schedule(m, [owner.attributes.get("lr_scheduler")], given.node)
    lives.zero_grad(m, model, given.node)


@on(_KINDS, "training_step")
def training_step(m: Machine, owner: Any, given: Call) -> Any:
    model, inputs = given.get(0, "model"), given.get(1, "inputs")
    if not isinstance(owner, Object) or not isinstance(model, Module):
        return NotImplemented
    modules.turn(m, model, True, given.node)
    loss = lives.loss_of(_dispatch(m, owner, "compute_loss", [model, inputs, False], given.node))
    lives.backward(m, loss, given.node)
    return loss.severed("detach", m.site(given.node)) if isinstance(loss, Tensor) else loss


@on(_KINDS, "compute_loss")
def compute_loss(m: Machine, owner: Any, given: Call) -> Any:
    model = given.get(0, "model")
    if not isinstance(model, Module):
        return NotImplemented
    result = forward.run(m, model, Call(given.node, [], {}, open=True))
    own = owner.attributes.get("compute_loss_func") if isinstance(owner, Object) else None
    if own is not None:
        return lives.call(m, own, [result, Unknown("labels")], given.node)
    return result


def _evaluate(m: Machine, owner: Object, model: Module, given: Call) -> None:
    """The model is left in eval mode: the next step puts all of it into train mode."""
    modules.turn(m, model, False, given.node)
    with m.gradient(False):
        args = [model, lives.batch(m), False]
        _dispatch(m, owner, "compute_loss", args, given.node)


@on(_KINDS, "evaluate", "predict")
def evaluate(m: Machine, owner: Any, given: Call) -> Any:
    model = owner.attributes.get("model") if isinstance(owner, Object) else None
    if isinstance(model, Module):
        _evaluate(m, owner, model, given)
    return Unknown(m.spot(given.node))


@on(
    _KINDS,
    *"save_model save_state log log_metrics save_metrics push_to_hub get_train_dataloader"
    " get_eval_dataloader remove_callback pop_callback is_world_process_zero"
    " is_local_process_zero num_examples hyperparameter_search create_model_card"
    " _prepare_inputs get_decay_parameter_names".split(),
)
def quiet(m: Machine, owner: Any, given: Call) -> Any:
    return Unknown(m.spot(given.node))
