"""Critical learning rates by `freezecheck.probe(..., groups=True)` beside those of full runs.

    python tests/benchmarks/probe_critical.py [SEEDS [NORMS [OPTIMIZERS]]]

Handwritten digits (5 to 9) on a small residual net that was pretrained on the others: BatchNorm that
trains, BatchNorm in eval mode, or GroupNorm; SGD with momentum and AdamW; the groups are stem, layers
and a new head. The truth for a group: full runs of 200 steps with its rate at points of a geometric grid (a
factor of 1.8 apart, as far up as the probe goes), the others at theirs; the smallest rate that ends badly is
found by bisection. A run explodes if the loss is not finite or its mean over the last 20 steps is above
1.5 times the initial loss and the entropy of the labels; it fails if it explodes, or knows no more than
the frequencies of the labels (nine tenths of that entropy).
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import freezecheck

DIGITS = Path(__file__).parents[2] / "fixtures" / "digits"
NORMS = ("frozen", "train", "group")
RATES = {"SGD": 1e-2, "AdamW": 1e-3}
STEPS, GRID = 200, 1.8
LOW, HIGH, BEYOND = 1e-2, 1e3, 4e2  # times the configured rate, and the certified one
GROUPS = ("stem", "layers", "head")

sys.path.insert(0, str(DIGITS))
import data  # noqa: E402
import model as network  # noqa: E402

Builder = Callable[[], tuple[nn.Module, Any, DataLoader[Any]]]


def built(norm: str, name: str, seed: int) -> tuple[nn.Module, Any, DataLoader[Any]]:
    """(model, optimizer, loader)."""
    torch.manual_seed(seed)
    net = network.DigitNet()
    net.load_state_dict(torch.load(DIGITS / "pretrained.pt"))
    net.fc = nn.Linear(64, 5)
    for path, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and norm == "frozen":
            module.eval()
        if isinstance(module, nn.BatchNorm2d) and norm == "group":
            owner, _, attribute = path.rpartition(".")
            setattr(net.get_submodule(owner), attribute, nn.GroupNorm(8, module.num_features))
    layers = nn.ModuleList([net.layer1, net.layer2, net.layer3])
    parts = [net.stem, layers, net.fc]
    groups = [{"params": list(part.parameters())} for part in parts]
    more = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(torch.optim, name)(groups, lr=RATES[name], **more)
    train, _ = data.get_datasets([5, 6, 7, 8, 9])
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        TensorDataset(*train.tensors), 32, shuffle=True, drop_last=True, generator=generator
    )
    return net, optimizer, loader


def outcome(build: Builder, group: int, rate: float) -> str:
    """What becomes of a full run: "exploded", "ignorant", or "" for well. Its rates rise in the first ten steps."""
    net, optimizer, loader = build()
    peaks = [each["lr"] for each in optimizer.param_groups]
    peaks[group] = rate
    losses: list[float] = []
    while len(losses) < STEPS:
        for images, labels in loader:
            for each, peak in zip(optimizer.param_groups, peaks):
                each["lr"] = peak * min(1.0, (len(losses) + 1) / 10)
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                return "exploded"
            if len(losses) == STEPS:
                break
    last = statistics.fmean(losses[-20:])
    if last > 1.5 * max(losses[0], math.log(5)):
        return "exploded"
    return "ignorant" if last > 0.9 * math.log(5) else ""


class Truth:
    """Full runs at points of a grid; each is done once."""

    def __init__(self, build: Builder, group: int, lowest: float, highest: float) -> None:
        points = math.floor(math.log(highest / lowest, GRID))
        self.grid = [lowest * GRID**k for k in range(points + 1)]
        self.run = functools.cache(lambda point: outcome(build, group, self.grid[point]))

    def smallest(self, *bad: str) -> float | None:
        """The smallest rate that ends so, by bisection; None where even the highest does not."""
        well, ill = 0, len(self.grid) - 1
        if self.run(ill) not in bad:
            return None
        while ill - well > 1:
            middle = (well + ill) // 2
            if self.run(middle) in bad:
                ill = middle
            else:
                well = middle
        return self.grid[ill]


class Score:
    """How often the probe and the full runs agree."""

    def __init__(self) -> None:
        self.ratios: list[float] = []
        self.limitless = self.seen = 0  # without a limit in truth, of these found to be without

    def add(self, real: float | None, found: float | None) -> None:
        if real is None:
            self.limitless += 1
            self.seen += found is None
        else:
            self.ratios.append(math.inf if found is None else found / real)

    def __str__(self) -> str:
        close = sum(1 / 3 <= ratio <= 3 for ratio in self.ratios)
        middle = statistics.median(self.ratios) if self.ratios else math.nan
        return (
            f"within a factor of 3: {close} of {len(self.ratios)}, median ratio {middle:.2f};"
            f" no limit in truth: {self.limitless}, of these found so: {self.seen}"
        )


def main() -> None:
    torch.set_num_threads(1)
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    norms = sys.argv[2].split(",") if len(sys.argv) > 2 else NORMS
    kinds = sys.argv[3].split(",") if len(sys.argv) > 3 else tuple(RATES)
    print(
        "| setup | group | fails | explodes | diverges near | safe up to | certified | suggested |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    failing, exploding = Score(), Score()
    certain = [0, 0]  # certified rates, and those of them below the true limit
    seconds: list[float] = []
    for norm, name, seed in itertools.product(norms, kinds, seeds):
        build = functools.partial(built, norm, name, seed)
        start = time.perf_counter()
        report = freezecheck.probe(*build(), F.cross_entropy, groups=True)
        seconds.append(time.perf_counter() - start)
        for each in report.warmup.critical:
            highest = max(HIGH * each.rate, BEYOND * (each.certified or 0))
            truth = Truth(build, each.group, LOW * each.rate, highest)
            fails, explodes = truth.smallest("exploded", "ignorant"), truth.smallest("exploded")
            failing.add(fails, each.diverges)
            exploding.add(explodes, each.diverges)
            if each.certified is not None:
                certain[0] += 1
                certain[1] += fails is None or each.certified < fails
            cells = (fails, explodes, each.diverges, each.safe, each.certified, each.suggested)
            figures = " | ".join("-" if cell is None else f"{cell:.2g}" for cell in cells)
            print(f"| {norm}, {name}, {seed} | {GROUPS[each.group]} | {figures} |", flush=True)
    print(f"\nto fail: {failing}\nto explode: {exploding}")
    print(f"certified: {certain[0]}, of these below the rate that fails: {certain[1]}")
    print(f"seconds for each probe: {statistics.fmean(seconds):.0f}")


if __name__ == "__main__":
    main()
