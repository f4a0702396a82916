"""What the tripwires of `freezecheck.watch` tell of runs, beside what becomes of the runs.

    python tests/benchmarks/tripwires.py [SEEDS [KINDS]]

Handwritten digits (5 to 9): a pretrained net with BatchNorm (whole, or its new head alone), a net without
norms and a small transformer from scratch; SGD with momentum and AdamW; all classes alike, or nine in ten of
one; rates from healthy to absurd, a factor of 10 apart. A run has failed if, over its last 40 steps, the
loss is not finite or more than 1.5 times the first one and ln 5, or if its scores rank the labels by
chance at the end (one-vs-rest AUC below 0.6).
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from collections import Counter
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

import freezecheck

DIGITS = Path(__file__).parents[2] / "fixtures" / "digits"
STEPS = 200
KINDS = ("whole", "head", "plain", "transformer")
RATES = {
    "SGD": [1e-2 * 10**k for k in range(5)],
    "AdamW": [1e-3 * 10**k for k in range(5)],
}


class Transformer(nn.Module):
    """Sixteen patches of 2 x 2, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 32)
        self.position = nn.Parameter(torch.randn(16, 32) * 0.02)
        layers = [nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True) for _ in range(2)]
        self.blocks = nn.Sequential(*layers)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = F.unfold(x, 2, stride=2).transpose(1, 2)
        return self.fc(self.blocks(self.embed(patches) + self.position).mean(1))


def build(kind: str) -> nn.Module:
    if kind == "transformer":
        return Transformer()
    if kind == "plain":
        widths = [(1, 16, 1), (16, 16, 2), (16, 16, 2)]
        layers = [m for i, o, s in widths for m in (nn.Conv2d(i, o, 3, s, 1), nn.ReLU())]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5))
    sys.path.insert(0, str(DIGITS))
    from model import DigitNet

    model = DigitNet(num_classes=5)
    model.load_state_dict(torch.load(DIGITS / "pretrained.pt", weights_only=True))
    model.fc = nn.Linear(model.fc.in_features, 5)
    if kind == "head":
        model.requires_grad_(False)
        model.fc.requires_grad_(True)
    return model


def data(labels: str) -> tuple[torch.Tensor, torch.Tensor]:
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target) - 5
    x, y = x[y >= 0], y[y >= 0]
    if labels == "majority":
        kept = torch.cat([torch.where(y == 0)[0], torch.where(y != 0)[0][:20]])
        x, y = x[kept], y[kept]
    return x, y


def run(kind: str, name: str, rate: float, labels: str, seed: int) -> tuple[str, list[str]]:
    """What became of a run, "" if all is well, and the codes that were told of it."""
    torch.manual_seed(seed)
    x, y = data(labels)
    model = build(kind)
    trained = [p for p in model.parameters() if p.requires_grad]
    more = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(torch.optim, name)(trained, lr=rate, **more)
    losses = []
    with freezecheck.watch(
        model, optimizer, select=["FC601", "FC602", "FC603"], on_finding=lambda finding: None
    ) as watch:
        for _ in range(STEPS):
            batch = torch.randint(0, len(y), (32,))
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return outcome(losses, model, x, y), [f.code for f in watch.findings]


def outcome(losses: list[float], model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> str:
    last = losses[-40:]
    if not all(map(math.isfinite, last)):
        return "not finite"
    if statistics.fmean(last) > 1.5 * max(losses[0], math.log(5)):
        return "exploded"
    with torch.no_grad():
        scores = model(x).double().softmax(1)
    auc = roc_auc_score(y, scores, multi_class="ovr", labels=range(5))
    return "collapsed" if auc < 0.6 else ""


def main() -> None:
    torch.set_num_threads(1)
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    table: Counter[tuple[str, bool]] = Counter()
    kinds = sys.argv[2].split(",") if len(sys.argv) > 2 else KINDS
    for kind, name, labels, seed in itertools.product(kinds, RATES, ("equal", "majority"), seeds):
        for rate in RATES[name]:
            truth, told = run(kind, name, rate, labels, seed)
            table[truth or "well", bool(told)] += 1
            if bool(truth) != bool(told):
                print(
                    f"{kind} {name} {labels} seed {seed} rate {rate:.3g}: {truth or 'well'}, told {told}",
                    flush=True,
                )
    for truth in ("well", "not finite", "exploded", "collapsed"):
        print(f"{truth}: {table[truth, True]} told, {table[truth, False]} not")


if __name__ == "__main__":
    main()
