"""Up to which learning rate the curvature of the loss promises stability, for one parameter group.

On a quadratic with curvature c, an optimizer's steps are a linear recurrence, and a rate is too
high when a root of its characteristic polynomial leaves the unit circle, at -1. Adam and its like
divide by a root mean square of gradients first, and so meet the curvature of S H S, with S squared
the inverse of that divisor.

A rate below is safe as far as curvature goes. One above may be safe, too: weights before a
BatchNorm layer that trains make their own curvature smaller as they grow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from freezecheck.live import drawn, values
from freezecheck.probe.hessian import gradients, largest
from freezecheck.probe.setup import Setup
from freezecheck.probe.steps import RAMP

_LIKE_ADAM = ("Adam", "AdamW", "NAdam")
KNOWN = ("SGD", *_LIKE_ADAM, "RMSprop")
_SEEN = 4  # batches whose gradients stand for an optimizer's state where it has none yet


def certified(setup: Setup, group: int, family: str, options: Mapping[str, Any]) -> float | None:
    """The largest rate of a group that the curvature at the weights of now allows, on the first
    batch. None where it is not known: another optimizer, no curvature upwards, several devices.

    Args:
        family: the optimizer's class in torch.optim.
        options: the group's, as plain values.

    What it changes (random states, BatchNorm statistics, perhaps gradients) is for the caller to put back.
    """
    params = [p for p in setup.optimizer.param_groups[group]["params"] if p.requires_grad]
    unlike = options.get("maximize") or options.get("centered")
    if family not in KNOWN or unlike or any(p.is_complex() for p in params):
        return None
    if len({p.device for p in params}) != 1:
        return None
    batch, state = setup.batch(0), drawn.states(setup.device)

    def loss() -> Any:
        drawn.draw_again(state, setup.device)  # drops out the same
        return setup.run(batch)[0]

    roots = _roots(setup, params, family, options)
    inside = 0.0 if _decoupled(family, options) else options.get("weight_decay") or 0.0
    curvature = largest(loss, params, roots, inside)
    if curvature is None or not 0 < curvature < math.inf:
        return None
    return limit(family, options, curvature)


def limit(family: str, options: Mapping[str, Any], curvature: float) -> float:
    """The rate from which on steps along a direction of that curvature (a number above 0, as the
    optimizer meets it) grow. `options` are the group's, `family` is one of `KNOWN`."""
    decay = options.get("weight_decay") or 0.0
    pull = decay if _decoupled(family, options) else 0.0
    return 2 / (pull + _gain(family, options) * curvature)


def _decoupled(family: str, options: Mapping[str, Any]) -> bool:
    """Weight decay does not go through the gradient."""
    return bool(options.get("decoupled_weight_decay", family == "AdamW"))


def _gain(family: str, options: Mapping[str, Any]) -> float:
    """What is left of a gradient that changes its sign at every step, as momentum averages it."""
    if family in _LIKE_ADAM:
        beta: float = options["betas"][0]
        late = (1 - beta) / (1 + beta)
        if family != "NAdam":
            return late
        ahead = beta * (1 - 0.5 * 0.96 ** options["momentum_decay"])  # of the first step, where the
        return ahead * late + 1 - ahead  # gradient of now counts most
    momentum: float = options.get("momentum") or 0.0
    if not momentum:
        return 1.0
    late = (1 - (options.get("dampening") or 0.0)) / (1 + momentum)
    return 1 + momentum * late if options.get("nesterov") else late


def _roots(
    setup: Setup, params: list[Any], family: str, options: Mapping[str, Any]
) -> list[Any] | None:
    """S, a tensor for each parameter: the root of what the optimizer multiplies gradients by; None
    where that is 1."""
    if family == "SGD":
        return None
    squares = [_state(setup.optimizer.state.get(p) or {}, family, options) for p in params]
    if any(square is None for square in squares):
        squares = _squares(setup, params)
        if family == "RMSprop":  # its mean begins at 0, which it does not correct
            squares = [square * (1 - options["alpha"] ** RAMP) for square in squares]
    return [(square.float().sqrt() + options["eps"]).rsqrt() for square in squares]


def _state(state: Mapping[str, Any], family: str, options: Mapping[str, Any]) -> Any:
    """The mean of squared gradients that an optimizer keeps, None where it has none yet."""
    if family == "RMSprop":
        return state.get("square_avg")
    kept = state.get("max_exp_avg_sq" if options.get("amsgrad") else "exp_avg_sq")
    steps = values.number(state.get("step", 0))
    return None if kept is None or not steps else kept / (1 - options["betas"][1] ** steps)


def _squares(setup: Setup, params: list[Any]) -> list[Any]:
    """The mean of the squared gradients of the first batches."""
    sums = [0.0] * len(params)
    for step in range(_SEEN):
        loss, _, _ = setup.run(setup.batch(step))
        found = gradients(loss, params)
        sums = [total + g.float().square() / _SEEN for total, g in zip(sums, found)]
    return sums
