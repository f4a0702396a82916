"""Stand-ins for pretrained weights, which the tests cannot download.

torchvision's own builders run unmodified; only the download is replaced by a
state dict that looks trained: norm weights that left 1, biases that left 0,
statistics that were gathered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from unittest import mock

import torch
import torchvision.models as zoo


@contextlib.contextmanager
def offline_weights() -> Iterator[None]:
    """`resnet18(weights="DEFAULT")` works without a network."""
    with mock.patch.object(zoo.WeightsEnum, "get_state_dict", lambda self, *a, **k: _state(self)):
        yield


@lru_cache(maxsize=8)
def _state(weights: Any) -> dict[str, torch.Tensor]:
    name = next(n for n in zoo.list_models() if zoo.get_model_weights(n) is type(weights))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return look_trained(zoo.get_model_builder(name)(weights=None, **_quick(name))).state_dict()


def _quick(name: str) -> dict[str, Any]:
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


@torch.no_grad()
def look_trained(model: torch.nn.Module) -> torch.nn.Module:
    """Move everything that training would have moved, slightly and at random."""
    for p in model.parameters():
        p.add_(0.05 * torch.randn_like(p))
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(1000)
    return model
