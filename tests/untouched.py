"""A fingerprint of everything of the user's that an inspection must leave alone."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy
import torch


def fingerprint(
    models: Iterable[torch.nn.Module],
    optimizers: Iterable[Any] = (),
    schedulers: Iterable[Any] = (),
) -> Any:
    """Values, gradients, flags, modes, hooks, attributes, state, rates, random states."""
    return [
        [_module(m) for model in models for m in model.modules()],
        [_optimizer(optimizer) for optimizer in optimizers],
        [_plain(scheduler.__dict__) for scheduler in schedulers],
        random.getstate(),
        _plain(numpy.random.get_state()),
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        {name: id(f) for name, f in vars(torch.nn.Module).items()},
        {name: id(f) for name, f in vars(torch.nn.Parameter).items()},
        {name: id(f) for name, f in vars(torch.optim.Optimizer).items()},
    ]


def _module(module: torch.nn.Module) -> Any:
    attributes = {
        key: _plain(value) for key, value in module.__dict__.items() if key not in ("_parameters",)
    }
    return [
        id(module),
        type(module),
        attributes,
        {k: None if p is None else _tensor(p) for k, p in module._parameters.items()},
    ]


def _optimizer(optimizer: Any) -> Any:
    return [
        _plain({k: v for k, v in optimizer.__dict__.items() if k not in ("param_groups", "state")}),
        [[id(group), _plain(group)] for group in optimizer.param_groups],
        {id(p): _plain(state) for p, state in optimizer.state.items()},
    ]


def _tensor(tensor: torch.Tensor) -> Any:
    grad = tensor.grad if tensor.is_leaf else None
    dense = tensor.detach()
    return [
        id(tensor),
        tensor.requires_grad,
        tensor._version,
        sorted(tensor.__dict__),
        _values(dense),
        None if grad is None else [id(grad), grad._version, _values(grad)],
    ]


def _values(tensor: torch.Tensor) -> Any:
    if tensor.is_meta:
        return "meta"
    flat = tensor.detach().to_dense().reshape(-1)
    flat = torch.view_as_real(flat) if flat.is_complex() else flat
    return flat.float().nan_to_num(7.5).tolist()


def _plain(value: Any) -> Any:
    if isinstance(value, torch.nn.Module):
        return id(value)
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if isinstance(value, dict):
        return [(str(key), _plain(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, numpy.ndarray):
        return value.tolist()
    return id(value)
