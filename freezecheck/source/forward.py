"""Calling modules: what comes out, and through which modules it went; losses."""

from __future__ import annotations

from typing import Any

from freezecheck import program
from freezecheck.program import Event, Module
from freezecheck.source import calls
from freezecheck.source.calls import Call, effect
from freezecheck.source.machine import Machine
from freezecheck.source.values import Dict, Function, List, Tensor, Unknown, any_of, joined

# What a layer makes that losses care about; "linear": raw scores.
_MAKES = {
    "Softmax": "softmax", "Softmax2d": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid",
    "LogSigmoid": "log_sigmoid", "Linear": "linear", "LazyLinear": "linear",
}  # fmt: skip
_SAME = ("Identity", "Dropout", "Flatten")  # they pass on what they are given, or nearly so


def run(m: Machine, module: Module, given: Call) -> Any:
    """`module(x)`."""
    if module.builder.endswith("Loss") and module.cls is None:
        return loss(m, module.builder, given)
    event = m.event(program.FORWARD, given.node, module, said=() if m.building else m.said())
    result = _inside(m, module, given)
    if isinstance(result, (tuple, List, Dict)) and result:
        event.data["result"] = result
        return result
    out = _followed(m, module, event, result) if isinstance(result, Tensor) else None
    out = out or _through(m, module, event, tensors(given), given)
    event.data["result"] = out
    return out


def use(m: Machine, module: Module, given: Call) -> Any:
    """A forward pass through another method: `backbone.forward_features(x)`."""
    event = m.event(program.FORWARD, given.node, module, value=given.name)
    event.data["result"] = out = _through(m, module, event, tensors(given), given)
    return out


def _inside(m: Machine, module: Module, given: Call) -> Any:
    """What its own `forward` gives; None where that is not run, since it is a library's."""
    forward = module.cls.find("forward") if module.cls is not None else None
    if isinstance(forward, Function):
        with m.build():
            return calls.invoke(
                m, forward, [module, *given.args], given.keywords, given.node, given.open
            )
    if module.wrapper and len(module.children) == 1:
        return run(m, next(iter(module.children.values())), given)
    if module.builder == "Sequential" and module.children and not module.open:
        result = given.get(0)
        for child in list(module.children.values()):
            result = calls.call(m, child, Call(given.node, [result]))
        return result
    return None


def _followed(m: Machine, module: Module, event: Event, result: Tensor) -> Tensor:
    """What comes out of a module whose own `forward` was run."""
    assert event.site is not None
    out = joined([result], made=result.made)
    out.through = tuple(dict.fromkeys((*out.through, module)))
    out.param, out.copy = result.param, result.copy
    if out.cut:
        out.lost[event] = event.site
    else:
        out.live = (*out.live, event)
    return out if m.grad else out.severed("no_grad", event.site)


def _through(m: Machine, module: Module, event: Event, inputs: list[Tensor], given: Call) -> Tensor:
    """What comes out of a module, given what went into it."""
    out = joined(inputs)
    out.through = tuple(dict.fromkeys((*out.through, module)))
    out.made = _MAKES.get(module.builder, "")
    if module.builder.rstrip("123d") in _SAME and len(inputs) == 1:
        out.made = inputs[0].made
    event.data["whole"] = True  # all of it ran, as far as is known
    weights = any_of(param.trainable for param in module.parameters())
    out.live = (*out.live, event)
    out.needs = any_of((weights, *(requires(m, value) for value in given.all())))
    out.cut = out.cut if out.needs is False else ""
    return out if m.grad else out.severed("no_grad", m.site(given.node))


def requires(m: Machine, value: Any) -> bool | None:
    """Whether a value that a module is given requires grad."""
    if isinstance(value, Tensor):
        return value.needs
    if isinstance(value, Unknown):
        return False if m.is_data(value) else None
    return False


def tensors(given: Call) -> list[Tensor]:
    """The tensors that a call is given, those in its lists and dicts too."""
    return [t for value in given.all() for t in _tensors(value)]


def _tensors(value: Any, depth: int = 0) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts: Any = ()
    if isinstance(value, (List, tuple)):
        parts = value.items if isinstance(value, List) else value
    elif isinstance(value, Dict):
        parts = value.items.values()
    return [t for part in parts for t in _tensors(part, depth + 1)] if depth < 3 else []


def loss(m: Machine, name: str, given: Call) -> Tensor:
    """A loss function of torch."""
    first = given.get(0, "input")
    made = first.made if isinstance(first, Tensor) else ""
    last = (
        next((x for x in reversed(first.through) if x.builder == "Linear"), None) if made else None
    )
    width = last.options.get("out_features") if last is not None and made == "linear" else None
    m.event(program.LOSS, given.node, None, value=name, made=made, width=width)
    return joined(tensors(given), loss=True)


_LOSSES = (
    "cross_entropy nll_loss binary_cross_entropy binary_cross_entropy_with_logits mse_loss l1_loss"
    " smooth_l1_loss huber_loss kl_div triplet_margin_loss cosine_embedding_loss"
).split()


@effect(*(f"torch.nn.functional.{name}" for name in _LOSSES))
def functional_loss(m: Machine, given: Call) -> Any:
    return loss(m, given.name, given)
