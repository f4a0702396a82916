"""What torch brings for training beside modules and optimizers: mixed precision, checkpointed
blocks, averaged models, optimizers that are written in the file itself."""

from __future__ import annotations

from typing import Any

from freezecheck import program
from freezecheck.program import Module, Optimizer
from freezecheck.source import assumed, calls, iteration, optim
from freezecheck.source.calls import Call, effect
from freezecheck.source.forward import requires, tensors
from freezecheck.source.knowledge import optimizers
from freezecheck.source.machine import Machine
from freezecheck.source.objects import on
from freezecheck.source.values import Class, Tensor, Unknown, is_constant


@on("torch.amp.GradScaler", "scale")
def scale(m: Machine, owner: Any, given: Call) -> Any:
    return given.get(0, "outputs")


@on("torch.amp.GradScaler", "step")
def scaled_step(m: Machine, owner: Any, given: Call) -> Any:
    if isinstance(given.get(0, "optimizer"), Optimizer):
        optim.step(m, given.get(0, "optimizer"), given.node)


@on("torch.amp.GradScaler", "unscale_", "update", "get_scale", "state_dict", "load_state_dict")
def nothing(m: Machine, owner: Any, given: Call) -> Any:
    return Unknown(m.spot(given.node))


@effect("apex.amp.initialize")
def initialize(m: Machine, given: Call) -> Any:
    """Gives back what it is given, patched in place."""
    models, optimizers = given.get(0, "models"), given.get(1, "optimizers")
    return models if optimizers is None else (models, optimizers)


@effect("torch.utils.checkpoint.checkpoint", "torch.utils.checkpoint.checkpoint_sequential")
def checkpoint(m: Machine, given: Call) -> Any:
    """A block that is run again for its gradients. The reentrant kind, which is the default,
    gives none at all if no tensor that goes in requires grad."""
    function, inputs = given.get(0, "function"), given.args[1:]
    if given.name == "checkpoint_sequential":
        function, inputs = _chain(m, function, given), given.args[2:]
    reentrant = given.keywords.get("use_reentrant", None if given.open else True)
    reentrant = True if reentrant is None and not given.open else reentrant
    needed = [requires(m, value) for value in inputs]
    dark = bool(reentrant is True and m.grad and needed and all(x is False for x in needed))
    event = m.event(program.CHECKPOINT, given.node, value=reentrant, dark=dark)
    named = {k: v for k, v in given.keywords.items() if k not in _OPTIONS}
    if isinstance(function, (Module, Unknown)):
        event.subject = function if isinstance(function, Module) else None
    result = calls.call(m, function, Call(given.node, inputs, named))
    if not dark:
        return result
    event.data["lost"] = tuple(e for t in tensors(Call(None, [result])) for e in t.live)
    return (
        result.severed("checkpoint", m.site(given.node)) if isinstance(result, Tensor) else result
    )


_OPTIONS = (
    "use_reentrant preserve_rng_state context_fn determinism_check debug early_stop"
    " respect_saved_tensors_hooks segments input functions"
).split()


def _chain(m: Machine, functions: Any, given: Call) -> Any:
    if isinstance(functions, Module):
        return functions
    found, complete = iteration.items(m, functions, given.node)
    if not complete or not all(isinstance(each, Module) for each in found):
        return Unknown(m.spot(given.node))
    made = m.new_module("torch.nn.Sequential", given.node)
    made.children = {str(index): child for index, child in enumerate(found)}
    return made


@effect("torch.optim.swa_utils.AveragedModel")
def averaged(m: Machine, given: Call) -> Any:
    """A copy that follows the model by averaging: no optimizer moves it."""
    from freezecheck.source.wrappers import copied

    inner = assumed.as_module(m, given.get(0, "model"), given.node)
    if inner is None:
        return Unknown(m.spot(given.node))
    made = m.new_module("torch.optim.swa_utils.AveragedModel", given.node)
    twin = copied(m, inner, given.node)
    made.wrapper, made.pretrained = "AveragedModel", inner.pretrained
    made.children["module"] = twin
    twin.parent, twin.name = made, "module"
    return made


@effect("torch.optim.swa_utils.update_bn")
def update_bn(m: Machine, given: Call) -> Any:
    return None


@effect(
    "torch.distributed.fsdp.fully_shard",
    "torch.distributed._composable.fsdp.fully_shard",
    "torch.distributed._composable.replicate",
)
def shard(m: Machine, given: Call) -> Any:
    """`fully_shard(model)`: in place, its parameters become others."""
    inner = assumed.as_module(m, given.get(0, "module"), given.node)
    if inner is not None:
        m.event(program.WRAP, given.node, inner, value=given.name, wrapper=inner)
    return inner


@effect("torch.load")
def load(m: Machine, given: Call) -> Any:
    return Unknown(f"torch.load({m.spot(given.node)})")


def own_optimizer(m: Machine, cls: Class, given: Call) -> Any:
    """An optimizer of the file's own class (SAM, LARS): it holds what it is given first, or is
    a wrapper around the optimizer that it is given."""
    if not any(n.endswith("optim.Optimizer") or optimizers.find(n) for n in cls.libraries()):
        return NotImplemented
    params = given.get(0, "params")
    if isinstance(params, Optimizer):
        return params
    options = {k: v for k, v in given.keywords.items() if k != "params" and is_constant(v)}
    if params is None:
        return Unknown(m.spot(given.node))
    name = f"{m.scope.file.name}.{cls.name}"
    return optim.build(m, name, params, options, given, set(options))


calls.MAKERS.insert(0, own_optimizer)
