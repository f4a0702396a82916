"""Models, losses and calls of kinds that are rarer: a verdict, or one clear line, and no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from described import ambient, described, difference
from torch import nn
from torch.nn import functional as F

import freezecheck
from freezecheck.warmup import CLASSES, SAFE, UNKNOWN


class Auxiliary(nn.Module):
    """Two heads in training, as inception has them; `always`: in eval mode, too."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.body, self.head, self.second = nn.Linear(16, 32), nn.Linear(32, 4), nn.Linear(32, 4)
        self.always = always

    def forward(self, x: torch.Tensor) -> Any:
        features = self.body(x).relu()
        if self.training or self.always:
            return self.head(features), self.second(features)
        return self.head(features)


def both(out: Any, target: torch.Tensor) -> torch.Tensor:
    if isinstance(out, tuple):
        return F.cross_entropy(out[0], target) + 0.4 * F.cross_entropy(out[1], target)
    return F.cross_entropy(out, target)


class Detector(nn.Module):
    """Losses in training, boxes otherwise, as torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 4)

    def forward(self, images: list[torch.Tensor], targets: list[dict[str, Any]]) -> Any:
        scores = self.head(torch.stack(images))
        if not self.training:
            return [{"boxes": row} for row in scores]
        labels = torch.stack([target["label"] for target in targets])
        return {"class": F.cross_entropy(scores, labels), "box": 0.01 * scores.square().mean()}


def blobs(size: int = 32) -> list[Any]:
    labels = torch.randint(4, (512,))
    inputs = torch.randn(512, 16) + 3 * F.one_hot(labels, 16)
    return list(zip(inputs.split(size), labels.split(size)))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def probed(model: nn.Module, batches: Any, loss: Any, lr: float = 0.01) -> freezecheck.ProbeReport:
    """Its report, after which all is as it was."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    before = described((model, optimizer)), ambient()
    report = freezecheck.probe(model, optimizer, batches, loss)
    assert difference(before, (described((model, optimizer)), ambient())) == ""
    assert report.zone == SAFE, str(report)
    return report


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("always", [False, True])
def test_outputs_that_are_tuples_reach_the_loss_as_they_are(always: bool):
    report = probed(Auxiliary(always), blobs(), both)
    assert report.warmup.task == CLASSES
    assert (report.warmup.level is None) is always  # of the sum of two losses nothing is known


def test_a_detector_gives_losses_in_training_only():
    batches = [(list(x), [{"label": label} for label in y]) for x, y in blobs()]
    report = probed(Detector(), batches, None)
    assert report.warmup.task == UNKNOWN
    assert report.warmup.eval is None
    assert any("in eval mode the model gives no loss" in each for each in report.left_out)


def test_a_compiled_model_is_not_compiled_again():
    model = mlp()
    compiled = torch.compile(model, backend="eager")
    compiled(torch.randn(32, 16)).sum().backward()
    model.zero_grad()
    frames = torch._dynamo.utils.counters["frames"]["total"]
    weights = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(compiled.parameters(), lr=0.01)
    report = freezecheck.probe(compiled, optimizer, blobs(), F.cross_entropy)
    assert report.zone == SAFE
    assert any("compiled" in each for each in report.left_out)
    compiled(torch.randn(32, 16))
    assert torch._dynamo.utils.counters["frames"]["total"] == frames
    assert all(map(torch.equal, model.parameters(), weights))


@pytest.mark.parametrize("surrounding", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_whatever_surrounds_the_call(surrounding: Callable[[], Any]):
    model, batches = mlp(), blobs()
    with surrounding():
        probed(model, batches, F.cross_entropy)


def endless() -> Iterator[Any]:
    while True:
        yield from blobs()


CASES: dict[str, Callable[[], tuple[nn.Module, Any, Any]]] = {
    "batches without end": lambda: (mlp(), endless(), F.cross_entropy),
    "samples one by one": lambda: (mlp(), blobs(1)[:300], F.cross_entropy),
    "a sample without a batch": lambda: (
        mlp(),
        [(x[0], y[0]) for x, y in blobs()],
        F.cross_entropy,
    ),
    "labels to be ignored": lambda: (
        mlp(),
        [(x, y.masked_fill(y == 3, 255)) for x, y in blobs()],
        nn.CrossEntropyLoss(ignore_index=255),
    ),
    "soft labels": lambda: (
        mlp(),
        [(x, 0.9 * F.one_hot(y, 4) + 0.025) for x, y in blobs()],
        F.cross_entropy,
    ),
    "one output": lambda: (
        nn.Sequential(mlp(), nn.Linear(4, 1), nn.Flatten(0)),
        [(x, (y > 1).float()) for x, y in blobs()],
        F.binary_cross_entropy_with_logits,
    ),
    "double precision": lambda: (
        mlp().double(),
        [(x.double(), y) for x, y in blobs()],
        F.cross_entropy,
    ),
    "weights by a norm": lambda: (
        nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(16, 32)), nn.ReLU(), nn.Linear(32, 4)
        ),
        blobs(),
        F.cross_entropy,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_odd_data_and_losses(case: str):
    model, batches, loss = CASES[case]()
    probed(model, batches, loss, lr=3e-3)
