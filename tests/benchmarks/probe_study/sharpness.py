"""The largest curvature at the initial weights beside what the optimizer stands at its highest rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

_ROUNDS = 15
_SAMPLES = 128
_BATCHES = 4  # whose gradients make Adam's preconditioner

Vector = list[Tensor]


def sharpness(model: nn.Module, optimizer: Any, x: Tensor, y: Tensor) -> float:
    """Above 1 a quadratic loss of this curvature diverges: the largest eigenvalue of the Hessian, its
    rows and columns scaled by the roots of the rates and, for Adam, of the preconditioner, beside
    2 (1 + momentum) or (2 + 2 beta1) / (1 - beta1). A schedule's peak is its `initial_lr`."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    groups = optimizer.param_groups
    params = [p for group in groups for p in group["params"]]
    rates = [group.get("initial_lr", group["lr"]) for group in groups for _ in group["params"]]
    adam = "betas" in groups[0]
    with sdpa_kernel(SDPBackend.MATH):  # others have no second derivative
        scales = (
            _preconditioner(model, params, x, y, groups[0]["eps"]) if adam else [1.0] * len(params)
        )
        roots = [rate**0.5 * scale**0.5 for rate, scale in zip(rates, scales)]
        largest = _largest(_product(model, params, roots, x, y), params)
    model.load_state_dict(state)
    if adam:
        beta = groups[0]["betas"][0]
        return largest * (1 - beta) / (2 + 2 * beta)
    return largest / (2 * (1 + groups[0]["momentum"]))


def _product(
    model: nn.Module, params: Vector, roots: list[Any], x: Tensor, y: Tensor
) -> Callable[[Vector], Vector]:
    """The scaled Hessian times a vector."""
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:_SAMPLES]
    loss = F.cross_entropy(model(x[chosen]), y[chosen])
    slopes = torch.autograd.grad(loss, params, create_graph=True)

    def product(vector: Vector) -> Vector:
        scaled = [root * v for root, v in zip(roots, vector)]
        rows = torch.autograd.grad(
            slopes, params, scaled, retain_graph=True, materialize_grads=True
        )
        return [root * row for root, row in zip(roots, rows)]

    return product


def _largest(product: Callable[[Vector], Vector], like: Vector) -> float:
    """The largest eigenvalue; where one below 0 is larger in size, all are raised by it first."""
    value = _power(product, like, 0.0)
    return value if value >= 0 else _power(product, like, value)


def _power(product: Callable[[Vector], Vector], like: Vector, least: float) -> float:
    draw = torch.Generator().manual_seed(0)
    vector = [torch.randn(p.shape, generator=draw) for p in like]
    value = 0.0
    for _ in range(_ROUNDS):
        norm = float(sum((v**2).sum() for v in vector)) ** 0.5
        vector = [v / max(norm, 1e-30) for v in vector]
        turned = product(vector)
        value = float(sum((v * t).sum() for v, t in zip(vector, turned)))
        vector = [t - least * v for t, v in zip(turned, vector)]
    return value


def _preconditioner(model: nn.Module, params: Vector, x: Tensor, y: Tensor, eps: float) -> Vector:
    """One over the root of the mean square gradient of some batches."""
    squares = [torch.zeros_like(p) for p in params]
    for images, labels in zip(x.split(32)[:_BATCHES], y.split(32)[:_BATCHES]):
        slopes = torch.autograd.grad(F.cross_entropy(model(images), labels), params)
        squares = [s + g**2 / _BATCHES for s, g in zip(squares, slopes)]
    return [1 / (s.sqrt() + eps) for s in squares]
