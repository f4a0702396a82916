"""The probe on networks of real size, in half precision: verdicts against full runs, and what it takes.

    python tests/benchmarks/probe_gpu.py [--device cpu --tiny] [--steps 200]

Images are random, each class with a pattern of its own under the noise, so that there is something to
learn; a short training on other classes stands for the pretraining. For each network, optimizer,
precision and rate: the probe's zone, what a full run becomes, the ratio of a probe's step to a step
alone, and the peak of the memory.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import freezecheck
from freezecheck.probe import steps as engine
from freezecheck.probe.batches import Batches
from freezecheck.probe.initial import Initial
from freezecheck.probe.saved import restored
from freezecheck.probe.setup import Given

CLASSES = 10
RATES = {"sgd": (1e-3, 1e-1, 10.0, 1e3), "adamw": (1e-5, 1e-3, 1e-1)}


@dataclass
class Case:
    """One configuration."""

    network: str
    optimizer: str
    precision: str
    rate: float


def small() -> nn.Module:
    """A convolution with BatchNorm."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(5))
    model.append(nn.Flatten())
    model.add_module("fc", nn.Linear(144, CLASSES))
    return model


def networks(tiny: bool) -> dict[str, Callable[[], nn.Module]]:
    """By name; the tiny ones are for trying this script."""
    models = torchvision.models
    if tiny:
        return {
            "tiny conv": small,
            "tiny ViT": lambda: models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=CLASSES),
        }
    return {
        "ResNet-18": lambda: models.resnet18(num_classes=CLASSES),
        "ResNet-50": lambda: models.resnet50(num_classes=CLASSES),
        "ViT-B/16": lambda: models.vit_b_16(num_classes=CLASSES),
    }


class Images:
    """Batches that are made on the device; of `first` on are the classes of their own."""

    def __init__(self, size: int, batch: int, device: str, first: int) -> None:
        draws = torch.Generator().manual_seed(first)
        self._patterns = torch.randn(CLASSES, 3, size, size, generator=draws).to(device)
        self._batch, self._device = batch, device

    def batch(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        draws = torch.Generator(self._device).manual_seed(index)
        labels = torch.randint(CLASSES, (self._batch,), device=self._device, generator=draws)
        noise = torch.randn(self._patterns[labels].shape, device=self._device, generator=draws)
        return self._patterns[labels] * 0.3 + noise, labels

    def __iter__(self) -> Iterator[Any]:
        return (self.batch(index) for index in range(16))


def built(case: Case, weights: dict[str, Any], make: Callable[[], nn.Module], device: str) -> Any:
    """(model, optimizer, scaler), with a new head."""
    torch.manual_seed(0)
    model = make().to(device)
    head = {k for k in weights if k.startswith(("fc.", "heads."))}
    model.load_state_dict({k: v for k, v in weights.items() if k not in head}, strict=False)
    if case.optimizer == "sgd":
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=case.rate, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=case.rate)
    return model, optimizer, torch.amp.GradScaler(device) if case.precision == "fp16" else None


def forward(case: Case, device: str) -> Callable[[nn.Module, Any], Any]:
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(case.precision)

    def run(model: nn.Module, batch: Any) -> Any:
        with torch.autocast(device, kind or torch.bfloat16, enabled=kind is not None):
            return model(batch[0]).float()

    return run


def full_run(case: Case, made: Any, images: Images, device: str, number: int) -> str:
    """What becomes of it: `fails`, `slow` or `well`; rates rise in ten steps as the probe's do."""
    model, optimizer, scaler = made
    run, losses = forward(case, device), []
    for step in range(number):
        optimizer.param_groups[0]["lr"] = case.rate * min(1.0, (step + 1) / 10)
        batch = images.batch(step)
        optimizer.zero_grad()
        loss = F.cross_entropy(run(model, batch), batch[1])
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        losses.append(loss.detach())
    first, late = losses[0].item(), torch.stack(losses[-20:]).mean().item()
    if not late <= max(first, math.log(CLASSES)):
        return "fails"
    return "well" if late < 0.9 * math.log(CLASSES) else "slow"


def seconds(device: str, run: Callable[[], Any]) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def overhead(case: Case, made: Any, images: Images, device: str) -> float:
    """A probe's ten steps to the same ten alone."""
    model, optimizer, scaler = made
    given = Given(
        model=model,
        optimizer=optimizer,
        batches=Batches(list(images)),
        scaler=scaler,
        device=torch.device(device),
        peaks=[case.rate],
        steps=10,
        max_steps=10,
        loss=F.cross_entropy,
        forward=forward(case, device),
    )
    ratios = []
    with restored(model, optimizer, None, scaler, offload=None) as saved:
        initial = Initial(model, saved)
        for _ in range(4):
            course = engine.Course(initial, CLASSES)
            alone = seconds(device, lambda: full_run(case, made, images, device, 10))
            probed = seconds(device, lambda: engine.warm_up(given, None, course))  # noqa: B023
            ratios.append(probed / alone)
    return sorted(ratios[1:])[1]


def main() -> None:
    """Print a row for each configuration."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    device, size = options.device, 32 if options.tiny else 224
    batch = 16 if options.tiny else 64
    card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{card}, torch {torch.__version__}, batches of {batch}, {time.strftime('%Y-%m-%d')}\n")
    print("| network | optimizer | precision | rate | zone | full run | step | peak |")
    print("|---|---|---|---|---|---|---|---|")
    for name, make in networks(options.tiny).items():
        first = Case(name, "adamw", "bf16", 1e-4 if not options.tiny else 1e-3)
        start = built(first, {}, make, device)
        full_run(first, start, Images(size, batch, device, first=1), device, options.steps)
        weights = start[0].state_dict()
        images = Images(size, batch, device, first=2)
        for precision in ("fp16", "bf16"):
            for kind, rates in RATES.items():
                for rate in rates[:: len(rates) - 1] if options.tiny else rates:
                    case = Case(name, kind, precision, rate)
                    if device == "cuda":
                        torch.cuda.reset_peak_memory_stats()
                    model, optimizer, scaler = made = built(case, weights, make, device)
                    report = freezecheck.probe(
                        model,
                        optimizer,
                        images,
                        F.cross_entropy,
                        scaler=scaler,
                        forward=forward(case, device),
                    )
                    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
                    ratio = overhead(case, made, images, device)
                    truth = full_run(case, made, images, device, options.steps)
                    print(
                        f"| {name} | {kind} | {precision} | {rate:g} | {report.zone} | {truth} |"
                        f" {ratio:.2f} | {peak / 2**30:.1f} GiB |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
