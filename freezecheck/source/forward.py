"""Calling modules: what comes out, and through which modules it went; losses and backward."""

from __future__ import annotations

from typing import Any

from freezecheck import program
from freezecheck.program import Module
from freezecheck.source import calls
from freezecheck.source.calls import Call, effect
from freezecheck.source.machine import Machine
from freezecheck.source.values import Dict, Function, List, Tensor, Unknown

_ACTIVATIONS = {
    "Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid", "LogSigmoid": "log_sigmoid",
}  # fmt: skip


def run(m: Machine, module: Module, given: Call) -> Any:
    """`module(x)`."""
    short = module.builder
    inputs = tensors(given)
    if short.endswith("Loss") and module.cls is None:
        return _loss(m, short, given)
    event = m.event(program.FORWARD, given.node, module)
    through = tuple(dict.fromkeys(x for t in inputs for x in t.through))
    cut = "" if m.grad else "no_grad"
    if (
        not cut
        and inputs
        and all(t.cut for t in inputs)
        and not module.children
        and not module.params
    ):
        cut = inputs[0].cut
    made = _ACTIVATIONS.get(short, "")
    result: Any = None
    forward = module.cls.find("forward") if module.cls is not None else None
    if isinstance(forward, Function):
        result = calls.invoke(
            m, forward, [module, *given.args], given.keywords, given.node, given.open
        )
    elif short == "Sequential" and module.children and not module.open:
        result = given.get(0)
        for child in list(module.children.values()):
            result = run(m, child, Call(given.node, [result]))
    if isinstance(result, Tensor):
        through = tuple(dict.fromkeys((*result.through, *through)))
        cut, made = (result.cut or cut), result.made
    elif isinstance(result, (tuple, List, Dict)) and result:
        event.data["result"] = result
        return result
    event.data["result"] = out = Tensor((*through, module), cut=cut, made=made)
    return out


def tensors(given: Call) -> list[Tensor]:
    """The tensors that a call is given."""
    return [v for v in given.all() if isinstance(v, Tensor)]


def _loss(m: Machine, name: str, given: Call) -> Any:
    m.event(program.LOSS, given.node, None, value=name, input=given.get(0, "input"))
    inputs = tensors(given)
    through = tuple(dict.fromkeys(x for t in inputs for x in t.through))
    cut = inputs[0].cut if inputs and all(t.cut for t in inputs) else ""
    return Tensor(through, cut=cut, loss=True)


_LOSSES = (
    "cross_entropy nll_loss binary_cross_entropy binary_cross_entropy_with_logits mse_loss l1_loss"
    " smooth_l1_loss huber_loss kl_div triplet_margin_loss cosine_embedding_loss"
).split()


@effect(*(f"torch.nn.functional.{name}" for name in _LOSSES))
def functional_loss(m: Machine, given: Call) -> Any:
    return _loss(m, calls.called(None, given.node), given)


@effect(
    *(
        f"{home}.{name}"
        for home in ("torch.nn.functional", "torch")
        for name in ("softmax", "log_softmax", "sigmoid")
    )
)
def activation(m: Machine, given: Call) -> Any:
    return _made(given.get(0, "input"), calls.called(None, given.node))


def _made(value: Any, name: str) -> Any:
    if isinstance(value, Tensor):
        return Tensor(value.through, cut=value.cut, made=name)
    return Tensor(made=name)


def tensor_method(m: Machine, owner: Any, name: str, given: Call) -> Any:
    """Methods of tensors, and of values that may be tensors."""
    if name == "backward" and not given.args and isinstance(owner, (Tensor, Unknown)):
        m.event(program.BACKWARD, given.node, owner if isinstance(owner, Tensor) else None)
        return None
    if isinstance(owner, (Tensor, Unknown)) and name == "requires_grad_":
        m.event(
            program.ATTRIBUTE,
            given.node,
            owner,
            value=given.get(0, "requires_grad", True),
            attribute="requires_grad_()",
        )
        return owner
    if not isinstance(owner, Tensor):
        return NotImplemented
    if name in ("detach", "item", "numpy", "tolist"):
        return Tensor(owner.through, cut=name, copy="detach", param=owner.param)
    if name in ("softmax", "log_softmax", "sigmoid"):
        return _made(owner, name)
    if name in ("size", "dim", "numel", "shape"):
        return Unknown(m.spot(given.node))
    if name in ("items", "keys", "values"):
        return Unknown(m.spot(given.node))
    inputs = [owner, *tensors(given)]
    through = tuple(dict.fromkeys(x for t in inputs for x in t.through))
    cut = owner.cut if all(t.cut for t in inputs) else ""
    made = (
        owner.made
        if name
        in (
            "to",
            "cuda",
            "cpu",
            "float",
            "half",
            "contiguous",
            "clone",
            "squeeze",
            "view",
            "reshape",
        )
        else ""
    )
    return Tensor(through, cut=cut, made=made, loss=owner.loss, param=owner.param, copy=owner.copy)


calls.METHODS.append(tensor_method)


@effect("torch.no_grad", "torch.inference_mode", "torch.enable_grad", "torch.set_grad_enabled")
def grad_mode(m: Machine, given: Call) -> Any:
    value = given.get(0, "mode")
    from freezecheck.source import conditions

    name = getattr(given.node.func, "attr", getattr(given.node.func, "id", ""))
    if name == "set_grad_enabled":
        held = conditions.formula(value)
        held = m.decide(held, given.node)
        return Unknown(f"torch.set_grad_enabled({held})")
    return Unknown(f"torch.{name}()")


@effect("torch.autograd.Variable", "torch.autograd.variable.Variable")
def variable(m: Machine, given: Call) -> Any:
    value = given.get(0, "data")
    if given.keywords.get("requires_grad") is True:
        m.event(program.ATTRIBUTE, given.node, value, value=True, attribute="Variable")
    return value


@effect(
    "torch.nn.utils.clip_grad_norm_",
    "torch.nn.utils.clip_grad_value_",
    "torch.nn.utils.clip_grad_norm",
)
def clip(m: Machine, given: Call) -> Any:
    from freezecheck.source import iteration
    from freezecheck.source.values import Iterator

    value = given.get(0, "parameters")
    spent = isinstance(value, Iterator) and value.spent
    found, complete = iteration.items(m, value, given.node)
    m.event(
        program.CLIP, given.node, None, tuple(p for p in found if isinstance(p, program.Param)),
        value=calls.called(None, given.node), exhausted=spent, complete=complete,
    )  # fmt: skip
    return Unknown(m.spot(given.node))
