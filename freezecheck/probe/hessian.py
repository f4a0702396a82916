"""The largest curvature of a loss along some of its parameters, by products with the Hessian."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from freezecheck.live import values

_MOST = 24  # products
_CHECKED = 6  # of them between two looks at the result, each of which waits for the device
_EXACT = 0.02  # relative error at which no more are needed
_NEAR = 1e-3  # of the weights' norm: the change for a finite difference

Vector = list[Any]  # a tensor for each parameter
Product = Callable[[Vector], Vector]


def largest(
    loss: Callable[[], Any], params: Vector, roots: Vector | None, decay: float
) -> float | None:
    """The largest eigenvalue of S (H + decay) S, H being the Hessian of `loss()` at `params` and S a
    diagonal, `roots`; None where the gradients are constant.

    `loss` is to give the same function at every call. Where it can be differentiated only once (fused
    kernels, recurrent layers of cuDNN, checkpoints), parameters are changed for a while. Gradients
    are lost.
    """

    def scaled(product: Product) -> Product:
        def times(vector: Vector) -> Vector:
            inner = [v * s for v, s in zip(vector, roots)] if roots else vector
            outer = [h + decay * v for h, v in zip(product(inner), inner)]
            return [h * s for h, s in zip(outer, roots)] if roots else outer

        return times

    try:
        with _plain_attention():
            product = _twice(loss, params)
            return None if product is None else _top(scaled(product), params)
    except RuntimeError:
        with _kept(params) as kept:
            return _top(scaled(_difference(loss, params, kept)), params)


def gradients(loss: Any, params: Vector, graph: bool = False) -> Vector:
    """Of a loss; with `graph`, to be differentiated again."""
    found = values.torch().autograd.grad(
        loss, params, create_graph=graph, allow_unused=True, materialize_grads=True
    )
    return list(found)


def _twice(loss: Callable[[], Any], params: Vector) -> Product | None:
    """By differentiating the gradients."""
    first = gradients(loss(), params, graph=True)
    curved = [g for g in first if g.requires_grad]

    def times(vector: Vector) -> Vector:
        along = [v.to(g.dtype) for g, v in zip(first, vector) if g.requires_grad]
        # Not `autograd.grad`, which passes over functions that refuse to be differentiated twice.
        return _after(params, lambda: torch.autograd.backward(curved, along, retain_graph=True))

    torch = values.torch()
    return times if curved else None


def _after(params: Vector, backward: Callable[[], Any]) -> Vector:
    """The gradients that a backward pass leaves."""
    for param in params:
        param.grad = None
    backward()
    zeros = values.torch().zeros_like
    return [zeros(p) if p.grad is None else p.grad.to_dense().float() for p in params]


def _difference(loss: Callable[[], Any], params: Vector, kept: Vector) -> Product:
    """By central differences of gradients; `kept` are the values around which they are taken."""
    torch = values.torch()
    size = _norm(kept)

    def at(vector: Vector, step: Any) -> Vector:
        with torch.no_grad():
            for param, value, v in zip(params, kept, vector):
                param.copy_(value + step * v)
        return _after(params, lambda: loss().backward())

    def times(vector: Vector) -> Vector:
        step = _NEAR * size.clamp_min(_NEAR) / _norm(vector).clamp_min(1e-30)
        return [(a - b) / (2 * step) for a, b in zip(at(vector, step), at(vector, -step))]

    return times


@contextlib.contextmanager
def _kept(params: Vector) -> Any:
    """Parameters have their values again after the block."""
    torch = values.torch()
    kept = [p.detach().clone() for p in params]
    try:
        yield kept
    finally:
        with torch.no_grad():
            for param, value in zip(params, kept):
                param.copy_(value)


def _plain_attention() -> Any:
    """The one kernel of attention that can be differentiated twice."""
    attention = values.torch().nn.attention
    return attention.sdpa_kernel(attention.SDPBackend.MATH)


def _top(product: Product, params: Vector) -> float | None:
    """The largest eigenvalue, by Lanczos: each product gives a row of a tridiagonal matrix whose
    largest eigenvalue soon is that of the whole; with its error bound, so as not to be below."""
    torch = values.torch()
    generator = torch.Generator(params[0].device).manual_seed(0)
    now = [_drawn(p, generator) for p in params]
    now = _times(now, 1 / _norm(now))
    before = [torch.zeros_like(v) for v in now]
    diagonal: Vector = []
    beside = [_norm(before)]
    found = None
    for taken in range(1, _MOST + 1):
        after = product(now)
        diagonal.append(_dot(after, now))
        after = [a - diagonal[-1] * v - beside[-1] * b for a, v, b in zip(after, now, before)]
        beside.append(_norm(after))
        before, now = now, _times(after, 1 / beside[-1].clamp_min(1e-30))
        if taken % _CHECKED == 0:
            found, error = _ritz(diagonal, beside[1:])
            if not error > _EXACT * abs(found):
                break
            found += error
    return found


def _ritz(diagonal: Vector, beside: Vector) -> tuple[float, float]:
    """The largest eigenvalue of the tridiagonal matrix, and how far it may be from one of the whole."""
    torch = values.torch()
    main = torch.stack(diagonal).double().cpu()
    *off, last = torch.stack(beside).double().cpu()
    if not bool(torch.isfinite(main).all()):
        return float("nan"), 0.0
    matrix = torch.diag(main)
    if off:
        matrix += torch.diag(torch.stack(off), 1) + torch.diag(torch.stack(off), -1)
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    return float(eigenvalues[-1]), float((last * vectors[-1, -1]).abs())


def _drawn(like: Any, generator: Any) -> Any:
    torch = values.torch()
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=torch.float32)


def _times(vector: Vector, factor: Any) -> Vector:
    return [v * factor for v in vector]


def _dot(one: Vector, other: Vector) -> Any:
    return sum((a * b).sum() for a, b in zip(one, other))


def _norm(vector: Vector) -> Any:
    return _dot(vector, vector).sqrt()
