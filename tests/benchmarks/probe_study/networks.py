"""Small networks with stages `stem`, `middle`, `last` and a head `fc`, pretrained on the digits 0 to 4."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .digits import CLASSES, digits, loader

NETWORKS = ("train", "frozen", "group", "vit")  # the first two: BatchNorm in either mode
_EPOCHS, _RATE = 30, 3e-3


class Conv(nn.Module):
    """Three convolutions, each with a norm."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem = _stage(1, 16, 1, norm)
        self.middle = _stage(16, 32, 2, norm)
        self.last = _stage(32, 64, 2, norm)
        self.fc = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.middle(self.stem(x))).mean((2, 3)))


def _stage(inputs: int, outputs: int, stride: int, norm: Callable[[int], nn.Module]) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, norm(outputs), nn.ReLU())


class ViT(nn.Module):
    """Sixteen patches of 2 x 2 pixels, two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 32)
        self.position = nn.Parameter(torch.randn(16, 32) * 0.02)
        self.middle, self.last = (
            nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(32)
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, 2, stride=2).transpose(1, 2)
        x = self.last(self.middle(self.stem(patches) + self.position))
        return self.fc(self.norm(x).mean(1))


def untrained(network: str) -> nn.Module:
    """Random weights."""
    if network == "vit":
        return ViT()
    if network == "group":
        return Conv(lambda channels: nn.GroupNorm(8, channels))
    return Conv(nn.BatchNorm2d)


def pretrained(network: str, seed: int, folder: Path) -> nn.Module:
    """With a new head; in the modes in which it is to train."""
    path = folder / f"{'batch' if network in NETWORKS[:2] else network}.pt"
    torch.manual_seed(0)
    model = untrained(network)
    if not path.exists():
        _pretrain(model, path)
    model.load_state_dict(torch.load(path, weights_only=True))
    torch.manual_seed(seed)
    model.fc = nn.Linear(model.fc.in_features, CLASSES)
    for module in model.modules():
        module.training = network != "frozen" or not isinstance(module, nn.BatchNorm2d)
    return model


def _pretrain(model: nn.Module, path: Path) -> None:
    (x, y), (held_x, held_y) = digits(0)
    batches = loader(x, y, 32, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _EPOCHS)
    for _ in range(_EPOCHS):
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        scheduler.step()
    model.eval()
    with torch.no_grad():
        right = (model(held_x).argmax(1) == held_y).double().mean()
    assert right > 0.95, f"pretraining of {path.stem} failed: {right:.1%}"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
