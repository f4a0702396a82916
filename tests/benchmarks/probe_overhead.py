"""What a probe's steps take beside the same steps alone, and what is fixed, in steps.

    python tests/benchmarks/probe_overhead.py [ROUNDS]

Both are taken in turns, ten steps at a time (from one decision to the next), each with its shares of
the classes; medians. Fixed are the looks before and after, and saving and restoring.
A step of the smallest network is the worst case: all calls, no arithmetic.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import freezecheck
from freezecheck.probe import steps
from freezecheck.probe.batches import Batches
from freezecheck.probe.initial import Initial
from freezecheck.probe.saved import Saved
from freezecheck.probe.setup import Given

CLASSES, BATCH = 10, 16


class Vit(nn.Module):
    """A small vision transformer."""

    def __init__(self, width: int = 96, depth: int = 4) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, width, 8, 8)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.cut(x).flatten(2).transpose(1, 2)).mean(1))


def resnet18() -> nn.Module:
    from torchvision.models import resnet18

    return resnet18(num_classes=CLASSES)


def deep() -> nn.Module:
    """800 small tensors, each of which changes places twice in a step."""
    layers = [m for _ in range(100) for m in (nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())]
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 16), *layers)


def two() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, CLASSES))


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def setup(model: nn.Module) -> Given:
    batches = [(torch.randn(BATCH, 3, 64, 64), torch.randint(CLASSES, (BATCH,))) for _ in range(16)]
    return Given(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-5),
        batches=Batches(batches),
        device=torch.device("cpu"),
        peaks=[1e-5],
        steps=30,
        max_steps=60,
        loss=F.cross_entropy,
        forward=None,
    )


def measure(name: str, model: nn.Module, rounds: int) -> None:
    """Print a row."""
    given = setup(model)

    def alone() -> None:
        for index in range(10):
            inputs, labels = given.batch(index)
            given.optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            given.optimizer.step()

    def forward() -> None:
        with torch.no_grad():
            for index in range(10):
                inputs, labels = given.batch(index)
                F.cross_entropy(model(inputs), labels)

    alone()
    kept: list[Saved] = []
    save = statistics.median(
        seconds(lambda: kept.append(Saved(model, given.optimizer))) for _ in range(5)
    )
    restore = statistics.median(seconds(kept[0].restore) for _ in range(5))
    initial = Initial(model, kept[0])
    taken: tuple[list[float], ...] = ([], [], [])
    for _ in range(rounds):
        # As `warm_up` does it, for ten steps.
        brief = steps.Course(initial, CLASSES)
        given.steps = given.max_steps = 10
        taken[0].append(seconds(alone))
        taken[1].append(seconds(lambda: steps.warm_up(given, None, brief)))  # noqa: B023
        taken[2].append(seconds(forward))
    plain, probed, passes = (statistics.median(column) / 10 for column in taken)
    given.steps, given.max_steps = 10, 10
    batches = list(given.batches.held())
    freezecheck.probe(model, given.optimizer, batches, F.cross_entropy, steps=10, max_steps=10)
    whole = min(
        seconds(
            lambda: freezecheck.probe(
                model, given.optimizer, batches, F.cross_entropy, steps=10, max_steps=10
            )
        )
        for _ in range(3)
    )
    fixed = (whole - 10 * probed) / plain
    print(
        f"| {name} | {plain * 1e3:.1f} ms | {probed / plain:.2f} | {(plain + passes) / plain:.2f} |"
        f" {(save + restore) / plain:.2f} | {fixed:.0f} |",
        flush=True,
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print("| model | a step | probed | with a forward pass | save and restore | fixed |")
    print("|---|---|---|---|---|---|")
    measure("ResNet-18", resnet18(), rounds)
    measure("small ViT", Vit(), rounds)
    measure("300 layers", deep(), rounds)
    measure("one layer", two(), 3 * rounds)


if __name__ == "__main__":
    main()
