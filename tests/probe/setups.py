"""Training setups of all kinds: models that do to themselves what modules in the wild do, every
optimizer of torch's own, schedulers and precisions; and a way to interrupt them anywhere."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy
import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim import lr_scheduler


class Eccentric(nn.Module):
    """Does to itself what modules in the wild do."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Parameter(torch.randn(24))
        self.view = nn.Parameter(self.flat.data[:12].view(4, 3))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.register_buffer("wide", torch.ones(1).expand(5))
        self.calls, self.seen, self.recent = 0, [], {"last": None}
        self.array = numpy.zeros(3)
        self.aside = [nn.Linear(3, 3)]  # not registered

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen.append(self.calls)
        self.recent["last"] = x.detach().mean()
        self.array += 1
        self.scratch.add_(1)
        self.note = "added"
        return self.aside[0].to(x.dtype)(x @ self.view.to(x.dtype)) + self.flat[12:15]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3, num_layers=2, dropout=0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x.view(len(x), 2, 2))[0][:, -1]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.first.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def norms() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.4), nn.Linear(6, 3)
    )


def reparametrized() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, 4)),
        parametrizations.spectral_norm(nn.Linear(4, 3)),
    )


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.Linear(5, 3))


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 3, sparse=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table((x.abs() * 2).long().clamp(max=6)).mean(1)


class Matrices(nn.Module):
    """Muon takes these alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


MODELS = [norms, reparametrized, lazy, Eccentric, Recurrent, Tied]

OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "fused sgd": ("SGD", {"lr": 0.1, "momentum": 0.9, "fused": True}),
    "adam": ("Adam", {"lr": 0.01}),
    "adam with a tensor rate": ("Adam", {"lr": torch.tensor(0.01), "capturable": False}),
    "adamw amsgrad": ("AdamW", {"lr": 0.01, "amsgrad": True}),
    "adamw fused": ("AdamW", {"lr": 0.01, "fused": True}),
    "adamw foreach": ("AdamW", {"lr": 0.01, "foreach": True}),
    "adadelta": ("Adadelta", {}),
    "adafactor": ("Adafactor", {}),
    "adagrad": ("Adagrad", {"lr": 0.1}),
    "adamax": ("Adamax", {}),
    "asgd": ("ASGD", {}),
    "nadam": ("NAdam", {}),
    "radam": ("RAdam", {}),
    "rmsprop": ("RMSprop", {"momentum": 0.5, "centered": True}),
    "rprop": ("Rprop", {}),
    "lbfgs": ("LBFGS", {"max_iter": 3, "history_size": 2}),
    "lbfgs with a line search": ("LBFGS", {"max_iter": 3, "line_search_fn": "strong_wolfe"}),
    "muon": ("Muon", {}),
    "sparse adam": ("SparseAdam", {"lr": 0.05}),
}


class Decay:
    """A callable with a state of its own."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, epoch: int) -> float:
        self.asked += 1
        return 1 / (1 + self.asked)


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "none": lambda optimizer: None,
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, Decay()),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
    "sequence": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer), lr_scheduler.CosineAnnealingLR(optimizer, 5)],
        milestones=[2],
    ),
    "chain": lambda optimizer: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    ),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=100, cycle_momentum=False
    ),
}


class Setup:
    """A model that trains; two of the same seed are twins."""

    def __init__(
        self, model: Callable[[], nn.Module], optimizer: str, scheduler: str, precision: str
    ):
        name, options = OPTIMIZERS[optimizer]
        self.closure = name == "LBFGS"
        self.model = model()
        if precision == "bf16":
            self.model.bfloat16()
        self.precision = precision
        options = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        self.optimizer = getattr(torch.optim, name)(self.model.parameters(), **options)
        self.scheduler = SCHEDULERS[scheduler](self.optimizer)
        self.scaler = (
            torch.amp.GradScaler("cpu", growth_interval=2) if precision == "fp16" else None
        )
        self.draws = torch.Generator().manual_seed(3)

    def saved(self) -> tuple[Any, ...]:
        return self.model, self.optimizer, self.scheduler, self.scaler, [self.draws]

    def step(self) -> float:
        """One step of training, with random numbers of all kinds; the loss."""
        x = torch.randn(6, 4, generator=self.draws) + random.random() + numpy.random.rand()
        if self.precision == "bf16":
            x = x.bfloat16()

        def loss() -> torch.Tensor:
            self.optimizer.zero_grad()
            kind = {"amp": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
            with torch.autocast("cpu", kind or torch.bfloat16, enabled=kind is not None):
                value = self.model(x).float().square().mean()
            (self.scaler.scale(value) if self.scaler else value).backward()
            return value

        if self.closure:
            value = self.optimizer.step(loss)
        else:
            value = loss()
            if self.scaler:
                self.scaler.step(self.optimizer)
                self.scaler.update()
            else:
                self.optimizer.step()
        if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(value.detach())
        elif self.scheduler is not None:
            self.scheduler.step()
        return float(value.detach())

    def mistreat(self) -> None:
        """All that a probe might do, and more."""
        for group in self.optimizer.param_groups:
            group["lr"], group["new"] = 0.5, 1
        self.step()
        self.model.eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(not parameter.requires_grad)
            parameter.marked = True
        self.model.extra = nn.Linear(1, 1)
        self.model.register_buffer("another", torch.ones(2))
        for name, child in list(self.model.named_children())[:1]:
            setattr(self.model, name, nn.Identity())
            child.half()
        self.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
        self.optimizer.state.clear()
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)


def seed() -> None:
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


class Interruption(BaseException):
    pass


def interrupted_at(count: int, run: Callable[[], None]) -> bool:
    """Run it until the `count`-th call of anything inside, Python or C, and raise there."""
    left = count

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal left
        if event in ("call", "c_call"):
            left -= 1
            if left == 0:
                raise Interruption

    sys.setprofile(profile)
    try:
        run()
    except Interruption:
        return True
    finally:
        sys.setprofile(None)
    return False


@st.composite
def setups(draw: st.DrawFn) -> tuple[Any, ...]:
    optimizer = draw(st.sampled_from(sorted(OPTIMIZERS)))
    special = {"muon": Matrices, "sparse adam": Sparse}.get(optimizer)
    precisions = ["fp32", "bf16", "amp"]
    # A first step of fused SGD that the scaler skips leaves memory as it happens to be in the state.
    if OPTIMIZERS[optimizer][0] not in ("LBFGS", "SparseAdam") and optimizer != "fused sgd":
        precisions.append("fp16")
    ready = [m for m in MODELS if m is not lazy or optimizer != "adagrad"]  # it asks for shapes
    model = special or draw(st.sampled_from(ready))
    if model is lazy:
        precisions.remove("bf16")  # which torch's lazy BatchNorm does not survive
    if model is Recurrent and "fp16" in precisions:
        precisions.remove("fp16")  # which torch's LSTM does not know on a CPU
    return (
        model,
        optimizer,
        draw(st.sampled_from(sorted(SCHEDULERS))),
        draw(st.sampled_from(precisions)),
    )
