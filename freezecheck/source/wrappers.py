"""Wrappers and copies: DataParallel, DistributedDataParallel, `torch.compile`, `deepcopy`."""

from __future__ import annotations

from typing import Any

from freezecheck import program
from freezecheck.program import Module, Optimizer, Param
from freezecheck.source import assumed, structure
from freezecheck.source.calls import Call, effect
from freezecheck.source.machine import Machine
from freezecheck.source.values import Dict, List, Unknown


@effect(
    "torch.nn.DataParallel",
    "torch.nn.parallel.DataParallel",
    "torch.nn.parallel.DistributedDataParallel",
    "torch.nn.parallel.distributed.DistributedDataParallel",
    "torch.distributed.fsdp.FullyShardedDataParallel",
)
def wrap(m: Machine, given: Call) -> Any:
    inner = assumed.as_module(m, given.get(0, "module"), given.node)
    if inner is None:
        return Unknown(m.spot(given.node))
    name = given.name
    kind = {
        "DDP": "DistributedDataParallel",
        "FSDP": "FullyShardedDataParallel",
        "DP": "DataParallel",
    }.get(name, name)
    made = m.new_module(f"torch.nn.{kind}", given.node)
    made.wrapper = kind
    made.pretrained = inner.pretrained
    made.children["module"] = inner
    made.options = {k: v for k, v in given.keywords.items() if isinstance(v, (bool, int, str))}
    if inner.parent is None:
        made.label = inner.label
        inner.parent, inner.name = made, "module"
    m.event(program.WRAP, given.node, inner, value=kind, wrapper=made)
    return made


@effect("torch.compile")
def compile(m: Machine, given: Call) -> Any:
    inner = given.get(0, "model")
    if not isinstance(inner, Module):
        return inner if inner is not None else Unknown(m.spot(given.node))
    made = m.new_module("torch._dynamo.OptimizedModule", given.node)
    made.wrapper, made.pretrained = "compile", inner.pretrained
    made.born, made.modes = inner.born, list(inner.modes)
    made.children["_orig_mod"] = inner
    if inner.parent is None:
        made.label = inner.label
        inner.parent, inner.name = made, "_orig_mod"
    m.event(program.WRAP, given.node, inner, value="compile", wrapper=made)
    return made


@effect("torch.nn.SyncBatchNorm.convert_sync_batchnorm")
def synchronised(m: Machine, given: Call) -> Any:
    """Every BatchNorm layer becomes one of that class, with the same parameters."""
    module = given.get(0, "module")
    if isinstance(module, Module):
        structure.unfold_all(m, module)
        for each in module.walk():
            if each.norm == "batch":
                each.type = "torch.nn.SyncBatchNorm"
    return through(m, given)


@effect(
    "torch.jit.script", "torch.jit.trace",
    "torch.distributed.optim.ZeroRedundancyOptimizer",
)  # fmt: skip
def through(m: Machine, given: Call) -> Any:
    return given.get(0, "module", Unknown(m.spot(given.node)))


@effect("copy.deepcopy")
def deepcopy(m: Machine, given: Call) -> Any:
    value = given.get(0, "x")
    if isinstance(value, Module):
        return copied(m, value, given.node)
    if isinstance(value, List):
        return List(
            [copied(m, x, given.node) if isinstance(x, Module) else x for x in value.items],
            value.open,
        )
    if isinstance(value, Dict):
        return Dict(dict(value.items), value.open)
    if isinstance(value, Optimizer):
        return Unknown(m.spot(given.node))
    return value


@effect("copy.copy")
def copy(m: Machine, given: Call) -> Any:
    return given.get(0, "x")


def copied(m: Machine, module: Module, node: Any) -> Module:
    """A copy of a module: equal parts, none of them the same."""
    twin = m.new_module(module.type, node)
    for name in (
        "open",
        "pretrained",
        "norm",
        "batchnorm",
        "stochastic",
        "architecture",
        "cls",
        "born",
        "wrapper",
    ):
        setattr(twin, name, getattr(module, name))
    twin.options, twin.attributes = dict(module.options), dict(module.attributes)
    twin.modes = list(module.modes)
    twin.copied = module
    for name, param in module.params.items():
        _copy_param(m, param, twin, name)
    for rest in module.rest:
        for leaf in rest.leaves():
            _copy_param(m, leaf, twin, "")
    for name, child in module.children.items():
        inner = copied(m, child, node)
        twin.children[name] = inner
        inner.parent, inner.name = twin, name
    return twin


def _copy_param(m: Machine, param: Param, twin: Module, name: str) -> None:
    made = m.new_param(twin, name, norm=param.norm)
    made.tests, made.born, made.trainable = param.tests, param.born, param.trainable
    made.writes = list(param.writes)


@effect("torch.nn.Identity")
def identity(m: Machine, given: Call) -> Any:
    made = m.new_module("torch.nn.Identity", given.node)
    made.pretrained = False
    return made


@effect("torch.nn.utils.weight_norm", "torch.nn.utils.parametrizations.weight_norm")
def weight_norm(m: Machine, given: Call) -> Any:
    """A weight gives way to two new parameters: its size and its direction."""
    module, name = given.get(0, "module"), given.get(1, "name", "weight")
    if not isinstance(module, Module):
        return Unknown(m.spot(given.node))
    if module.params.pop(name, None) is not None:
        m.new_param(module, f"{name}_g")
        m.new_param(module, f"{name}_v")
    return module


@effect("torch.nn.utils.spectral_norm", "torch.nn.utils.parametrizations.spectral_norm")
def spectral_norm(m: Machine, given: Call) -> Any:
    """The weight stays the parameter that it was."""
    return given.get(0, "module")
