"""Tensors: what functions and methods make of them, where a graph is cut, and backward."""

from __future__ import annotations

import ast
from typing import Any

from freezecheck import program
from freezecheck.source import assignment, calls, conditions
from freezecheck.source.calls import Call, effect
from freezecheck.source.forward import tensors
from freezecheck.source.machine import Machine
from freezecheck.source.values import GradMode, Iterator, Tensor, Unknown, joined

_CUTS = ("detach", "detach_", "item", "numpy", "tolist")
# Methods after which the values are still those that an activation or a layer made.
_SAME = frozenset("to cuda cpu float half double bfloat16 contiguous clone".split())
_SHAPED = _SAME | frozenset("squeeze unsqueeze view reshape flatten transpose permute".split())
_TYPES = ("half", "double", "bfloat16", "float16", "float64")
_MADE_HERE = (
    "randn rand randint zeros ones empty full arange linspace tensor as_tensor from_numpy eye"
    " randperm zeros_like ones_like rand_like randn_like"
).split()


@effect(*(f"torch.{name}" for name in _MADE_HERE))
def new(m: Machine, given: Call) -> Any:
    flag = given.keywords.get("requires_grad", False)
    if flag is not False:
        m.event(program.ATTRIBUTE, given.node, None, value=flag, attribute="requires_grad=")
        return Tensor(needs=True if flag is True else None)
    return Tensor(cut="data")


@effect(
    *(
        f"{home}.{name}"
        for home in ("torch.nn.functional", "torch")
        for name in ("softmax", "log_softmax", "sigmoid")
    )
)
def activation(m: Machine, given: Call) -> Any:
    return _activated(given.get(0, "input"), given.name)


def _activated(value: Any, name: str) -> Any:
    if not isinstance(value, Tensor):
        return Tensor(made=name)
    result = joined([value], made=name)
    result.param = value.param
    return result


def of_torch(m: Machine, name: str, given: Call) -> Any:
    """A function of torch that computes something from tensors alone."""
    short = name.rpartition(".")[2]
    if not name.startswith(("torch.nn.functional.", "torch.")) or not short.islower():
        return NotImplemented
    if name.count(".") > 1 and not name.startswith("torch.nn.functional."):
        return NotImplemented
    found = tensors(given)
    if not found or any(isinstance(v, program.Module) for v in given.all()):
        return NotImplemented
    if any(isinstance(v, program.Param) for v in given.all()):
        return NotImplemented
    result = joined(found, loss="loss" in short)
    if short == "dropout":
        result.made = found[0].made
    if not all(isinstance(v, Tensor) or not isinstance(v, Unknown) for v in given.all()):
        result.needs, result.cut = (True if result.needs else None), ""
    return result


calls.PATTERNS.append(of_torch)


_INITIALISERS = frozenset(
    "uniform_ normal_ trunc_normal_ constant_ ones_ zeros_ eye_ dirac_ xavier_uniform_"
    " xavier_normal_ kaiming_uniform_ kaiming_normal_ orthogonal_ lecun_normal_".split()
)


def initialised(m: Machine, name: str, given: Call) -> Any:
    """`nn.init.kaiming_normal_(weight)`, under its own or under a library's name: other values,
    and nothing else."""
    known = name.startswith("torch.nn.init.") or name.rpartition(".")[2] in _INITIALISERS
    return given.get(0, "tensor") if known else NotImplemented


calls.PATTERNS.append(initialised)


# They change the values of a tensor, and so those of the parameter that it was taken from.
IN_PLACE = frozenset("copy_ mul_ add_ sub_ lerp_".split())


def method(m: Machine, owner: Any, name: str, given: Call) -> Any:
    """Methods of tensors, and of values that may be tensors."""
    if name == "backward" and not given.args and isinstance(owner, (Tensor, Unknown)):
        backward(m, owner, given)
        return None
    if name in ("backward", "manual_backward") and given.args and isinstance(given.args[0], Tensor):
        backward(m, given.args[0], given)  # of an accelerator, of an engine
        return None
    if isinstance(owner, (Tensor, Unknown)) and name == "requires_grad_":
        value = given.get(0, "requires_grad", True)
        before = owner.needs if isinstance(owner, Tensor) else None
        m.event(
            program.ATTRIBUTE, given.node, owner,
            value=value, attribute="requires_grad_()", before=before,
        )  # fmt: skip
        if isinstance(owner, Tensor):
            owner.needs, owner.cut = (value if isinstance(value, bool) else None), ""
        else:
            m.overrides[f"{owner.key}.requires_grad"] = value
        return owner
    if not isinstance(owner, Tensor):
        return NotImplemented
    if name in _CUTS:
        return owner.severed(name, m.site(given.node), copy="detach")
    if name in ("softmax", "log_softmax", "sigmoid"):
        return _activated(owner, name)
    if name in ("size", "dim", "numel", "shape", "items", "keys", "values", "get_device"):
        return Unknown(m.spot(given.node))
    if name in IN_PLACE and owner.param is not None and owner.copy in ("data", "detach"):
        m.event(program.ATTRIBUTE, given.node, owner.param, (owner.param,), attribute=f"{name}()")
    if name == "copy_" and owner.param is not None:
        assignment.filled(owner.param)
    kept = name in _SAME or (name in _SHAPED and owner.made != "linear")
    result = joined([owner, *tensors(given)], made=owner.made if kept else "")
    result.param, result.copy = owner.param, owner.copy
    if owner.made == "parameter" and _moves(name, given):
        result.made, result.copy = "", "parameter"
    return result


def _moves(name: str, given: Call) -> bool:
    """It makes a new tensor of a parameter, which is on the CPU and float32 if not made otherwise."""
    made = getattr(getattr(given.node, "func", None), "value", None)
    if made is None or any(word in ast.unparse(made) for word in ("cuda", "device", "dtype")):
        return False
    if name == "to":
        value = given.get(0, "dtype", given.get(0, "device"))
        name = value if isinstance(value, str) else getattr(value, "name", "")
        return name.startswith("cuda") or name.rpartition(".")[2] in _TYPES
    return name in ("cuda", "clone", *_TYPES)


calls.METHODS.append(method)


def backward(m: Machine, loss: Any, given: Call) -> None:
    """`loss.backward()`, under whatever name."""
    m.event(program.BACKWARD, given.node, loss if isinstance(loss, Tensor) else None, of=loss)


@effect("torch.autograd.backward")
def backward_function(m: Machine, given: Call) -> Any:
    backward(m, given.get(0, "tensors"), given)


@effect("torch.autograd.grad")
def gradients(m: Machine, given: Call) -> Any:
    """Gradients that the program handles itself: no telling where it puts them."""
    m.event(program.BACKWARD, given.node, None, value="autograd.grad")
    return Unknown(m.spot(given.node))


@effect("torch.no_grad", "torch.inference_mode", "torch.enable_grad", "torch.set_grad_enabled")
def grad_mode(m: Machine, given: Call) -> Any:
    if given.name == "set_grad_enabled":
        return GradMode(m.decide(conditions.formula(given.get(0, "mode")), given.node))
    return GradMode(given.name == "enable_grad")


@effect("torch.autograd.Variable", "torch.autograd.variable.Variable")
def variable(m: Machine, given: Call) -> Any:
    value = given.get(0, "data")
    if given.keywords.get("requires_grad") is True:
        event = m.event(program.ATTRIBUTE, given.node, value, value=True, attribute="Variable")
        if isinstance(value, Tensor):
            made = Tensor(value.through, lost=value.lost, needs=True, loss=value.loss)
            event.data["result"] = made
            return made
    return value


@effect(
    "torch.nn.utils.clip_grad_norm_",
    "torch.nn.utils.clip_grad_value_",
    "torch.nn.utils.clip_grad_norm",
)
def clip(m: Machine, given: Call) -> Any:
    from freezecheck.source import iteration

    value = given.get(0, "parameters")
    spent = isinstance(value, Iterator) and value.gave
    found, complete = iteration.items(m, value, given.node)
    m.event(
        program.CLIP, given.node, None, tuple(p for p in found if isinstance(p, program.Param)),
        value=given.name, exhausted=spent, complete=complete,
    )  # fmt: skip
    return Unknown(m.spot(given.node))
