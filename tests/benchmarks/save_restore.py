"""What saving and restoring takes beside one training step.

    python tests/benchmarks/save_restore.py [BATCH]

ResNet-50 with AdamW on a GPU, if there is one, else on the CPU; medians of five, after a first
one. The memory is that of the copies: parameters, gradients, buffers and two moments.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torchvision

from freezecheck.probe.saved import Saved

REPEATS = 5


def seconds(run: Callable[[], Any]) -> float:
    """The time that it takes until the device has done it."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Print a row for copies on the device, and one for copies in the CPU's memory."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = int(sys.argv[1]) if len(sys.argv) > 1 else 32 if device == "cuda" else 8
    model = torchvision.models.resnet50().to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    images = torch.randn(batch, 3, 224, 224, device=device)
    labels = torch.randint(1000, (batch,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    step()
    print("copies     step s  save s  restore s  both/step    MiB")
    for offload in (False, True) if device == "cuda" else (False,):
        rows = []
        for _ in range(REPEATS + 1):
            kept: list[Saved] = []
            # The arguments are bound as they are now: `seconds` calls at once.
            save = seconds(lambda: kept.append(Saved(model, optimizer, offload=offload)))  # noqa: B023
            rows.append((seconds(step), save, seconds(kept[0].restore)))
        taken, save, restore = (statistics.median(column) for column in zip(*rows[1:]))
        where = "CPU" if offload or device == "cpu" else "device"
        size = kept[0].nbytes / 2**20
        ratio = (save + restore) / taken
        print(f"{where:9} {taken:7.3f} {save:7.3f} {restore:10.3f} {ratio:10.2f} {size:6.0f}")


if __name__ == "__main__":
    main()
