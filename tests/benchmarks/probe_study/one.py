"""One configuration: probed, then run in full; what both showed, as plain data."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import freezecheck
from freezecheck.live import ranking
from freezecheck.plain import encode

from .digits import loader, task
from .networks import pretrained
from .settings import Configuration, Setting
from .sharpness import sharpness

STEPS = 300
_WARM_UP = 60  # steps, of the cosine schedule
_JUDGED = 20  # losses at the end
_KEPT = 60  # losses of the beginning
_SANE = {"sgd": 1e-2, "adamw": 1e-3}  # rate of the other stages where the stem's alone varies


def record(this: Configuration, folder: Path) -> dict[str, Any]:
    """What the probe and the run showed."""
    made = build(this, folder)
    report = freezecheck.probe(
        made.model, made.optimizer, made.batches, F.cross_entropy, scheduler=made.scheduler
    )
    sharp = sharpness(made.model, made.optimizer, made.x, made.y)
    return {
        "key": this.key,
        "zone": report.zone,
        "codes": report.codes(),
        "trace": encode(replace(report.trace, warmup=replace(report.warmup, shares=None))),
        "sharpness": sharp,
        "truth": truth(made),
    }


class Built:
    """A model, what trains it, and its data."""

    def __init__(self, this: Configuration, folder: Path) -> None:
        setting = this.setting
        (self.x, self.y), self.held = task(setting.labels, setting.noise)
        self.model = pretrained(setting.network, this.seed, folder)
        self.batches = loader(self.x, self.y, setting.batch, this.seed)
        kind, more = {
            "sgd": (torch.optim.SGD, {"momentum": 0.9}),
            "adamw": (torch.optim.AdamW, {}),
        }[setting.optimizer]
        self.optimizer = kind(_groups(self.model, setting, this.rate), lr=this.rate, **more)
        self.scheduler = (
            torch.optim.lr_scheduler.LambdaLR(self.optimizer, _cosine)
            if setting.schedule == "cosine"
            else None
        )


def build(this: Configuration, folder: Path) -> Built:
    """As a script would have it before its first step."""
    return Built(this, folder)


def _groups(model: nn.Module, setting: Setting, rate: float) -> list[dict[str, Any]]:
    if setting.scope == "stem":
        stem = list(model.stem.parameters())
        rest = [p for p in model.parameters() if all(p is not q for q in stem)]
        return [{"params": stem, "lr": rate}, {"params": rest, "lr": _SANE[setting.optimizer]}]
    if setting.scope != "all":
        model.requires_grad_(False)
        model.fc.requires_grad_(True)
    if setting.scope == "last":
        model.last.requires_grad_(True)
    return [{"params": [p for p in model.parameters() if p.requires_grad]}]


def _cosine(step: int) -> float:
    if step < _WARM_UP:
        return (step + 1) / _WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * (step - _WARM_UP) / (STEPS - _WARM_UP))


def truth(made: Built) -> dict[str, Any]:
    """What becomes of the run, all of it."""
    before = _scores(made.model, made.x, training=True)
    initial = float(F.cross_entropy(before, made.y))
    losses = _trained(made)
    after = _scores(made.model, made.x, training=True)
    shares = made.y.bincount().double() / len(made.y)
    entropy = float(torch.special.entr(shares).sum())
    last = losses[-_JUDGED:]
    finite = all(map(math.isfinite, losses)) and bool(after.isfinite().all())
    last_mean = fmean(last) if finite else math.inf
    return {
        "losses": [float(f"{loss:.4g}") for loss in losses[:_KEPT]],
        "last": last_mean if finite else None,
        "initial": initial,
        "entropy": entropy,
        "exploded": not finite or last_mean > 1.5 * max(initial, entropy),
        "collapsed": finite and _collapsed(before, after, made.y),
        "accuracy": _accuracy(made.model, *made.held) if finite else 0.0,
    }


def _trained(made: Built) -> list[float]:
    losses: list[float] = []
    while True:
        for images, labels in made.batches:
            made.optimizer.zero_grad()
            loss = F.cross_entropy(made.model(images), labels)
            loss.backward()
            made.optimizer.step()
            if made.scheduler is not None:
                made.scheduler.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]) or len(losses) == STEPS:
                return losses


def _scores(model: nn.Module, x: Tensor, *, training: bool) -> Tensor:
    """In the modes in which it trains, or in eval mode; the model is as before."""
    model = copy.deepcopy(model)
    if not training:
        model.eval()
    with torch.no_grad():
        return model(x)


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((_scores(model, x, training=False).argmax(1) == y).double().mean())


def _collapsed(before: Tensor, after: Tensor, labels: Tensor) -> bool:
    """Nearly all are said to be one class and the scores do not tell the labels; and training has made
    it so: they did before, or the scores of different samples have come together."""
    first = ranking.pool(0, [(before, labels)], None, ranked=True)
    last = ranking.pool(0, [(after, labels)], None, ranked=True)
    assert first is not None
    assert last is not None
    faded = (last.spread or 0.0) < 0.01 * (first.spread or 0.0)
    return last.uninformed and (not first.uninformed or faded)
