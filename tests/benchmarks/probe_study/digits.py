"""scikit-learn's handwritten digits: 0 to 4 to pretrain on, 5 to 9 to fine-tune on."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

CLASSES = 5
_MAJORITY = 0.9
_SHUFFLED = 0.4


@cache
def digits(first: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(images, labels) of the five digits from `first` on, to train and to test on, half each."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target) - first
    kept = ((labels >= 0) & (labels < CLASSES)).nonzero().flatten()
    kept = kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))]
    train, test = kept[::2], kept[1::2]
    return (images[train], labels[train]), (images[test], labels[test])


@cache
def task(labels: str, noise: bool) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Digits 5 to 9. Of those to train on, with "majority" for `labels`, nine in ten are one class, drawn
    with repetition; `noise` shuffles four in ten labels among themselves. Tested are all classes alike."""
    (x, y), held = digits(5)
    if labels == "majority":
        x, y = _skewed(x, y)
    if noise:
        draw = torch.Generator().manual_seed(3)
        chosen = torch.randperm(len(y), generator=draw)[: int(_SHUFFLED * len(y))]
        y = y.clone()
        y[chosen] = y[chosen[torch.randperm(len(chosen), generator=draw)]]
    return (x, y), held


def _skewed(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.where(y == 0, _MAJORITY / (y == 0).sum(), (1 - _MAJORITY) / (y != 0).sum())
    draw = torch.Generator().manual_seed(1)
    chosen = torch.multinomial(weights, len(y), replacement=True, generator=draw)
    return x[chosen], y[chosen]


def loader(x: Tensor, y: Tensor, batch: int, seed: int) -> DataLoader:
    """Batches in an order of their own in each epoch; the last one is left out if short."""
    data = TensorDataset(x, y)
    draw = torch.Generator().manual_seed(seed)
    order = BatchSampler(RandomSampler(data, generator=draw), batch, drop_last=True)
    return DataLoader(data, sampler=order, batch_size=None, generator=draw)
