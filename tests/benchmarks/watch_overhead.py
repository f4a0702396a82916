"""What `freezecheck.watch` adds to a training step on a CPU.

    python tests/benchmarks/watch_overhead.py [ROUNDS]

Steps with and without it are taken in turns, some at a time; CPU seconds, medians. The
ratio of a step of small modules is that of the worst case: all calls, no arithmetic.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn

import freezecheck


def resnet50() -> tuple[nn.Module, torch.Tensor]:
    from torchvision.models import resnet50

    return resnet50(weights=None), torch.randn(4, 3, 224, 224)


def small() -> tuple[nn.Module, torch.Tensor]:
    """900 modules, every third a BatchNorm."""
    layers = [m for _ in range(300) for m in (nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())]
    return nn.Sequential(*layers), torch.randn(32, 16)


def tiny() -> tuple[nn.Module, torch.Tensor]:
    """Next to nothing, so that the difference is what watching takes of any step."""
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10)), torch.randn(64, 16)


def seconds(step: Callable[[], None], number: int) -> float:
    """CPU seconds of a step, of several in a row."""
    start = time.process_time()
    for _ in range(number):
        step()
    return (time.process_time() - start) / number


def loss(scores: torch.Tensor) -> torch.Tensor:
    """A classifier's, which is listened to."""
    return nn.functional.cross_entropy(scores, torch.arange(len(scores)) % scores.shape[1])


def measure(name: str, model: nn.Module, inputs: torch.Tensor, rounds: int, number: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(inputs)).backward()
        optimizer.step()

    step()
    taken: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for watched in (False, True):
            with (
                freezecheck.watch(model, optimizer, on_finding=lambda finding: None)
                if watched
                else nullcontext()
            ):
                step()  # the first one is captured
                taken[watched].append(seconds(step, number))
    plain, ours = (statistics.median(taken[key]) for key in (False, True))
    print(
        f"{name}: {plain * 1e3:.2f} ms a step, watched {ours * 1e3:.2f} ms, ratio {ours / plain:.4f}",
        flush=True,
    )


def main() -> None:
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    measure("resnet50", *resnet50(), rounds, 1)
    measure("two layers", *tiny(), rounds * 2, 200)
    measure("900 small modules", *small(), rounds * 2, 10)


if __name__ == "__main__":
    main()
