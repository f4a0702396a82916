"""fastai's optimizers: what their next step moves is foretold, the step is taken, and both compared."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

import freezecheck

home = pytest.importorskip("fastai.optimizer")
pytestmark = pytest.mark.frameworks

KINDS = ("SGD", "Adam", "RAdam")


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def build(kind: str, model: nn.Module, draw: random.Random) -> Any:
    """Two groups, of which the first may be frozen."""
    options: dict[str, Any] = {
        "lr": draw.choice((0.0, 1e-2, 1e-2)),
        "wd": draw.choice((0.0, 0.1)),
        "decouple_wd": draw.random() < 0.5,
    }
    if kind == "SGD":
        options["mom"] = draw.choice((0.0, 0.9))
    groups = [[*model[0].parameters(), *model[1].parameters()], [*model[3].parameters()]]
    optimizer = getattr(home, kind)(groups, **options)
    if draw.random() < 0.5:  # as a Learner does with norms and biases
        for p in model[1].parameters():
            optimizer.state[p]["do_wd"] = False
            optimizer.state[p]["force_train"] = draw.random() < 0.5
    return optimizer


def backward(model: nn.Module) -> None:
    loss = nn.functional.cross_entropy(model(torch.randn(8, 3)), torch.randint(0, 2, (8,)))
    loss.backward()


@pytest.mark.parametrize("kind", KINDS)
def test_forecast_and_step_agree(kind: str):
    decided = moved = 0
    for seed in range(60):
        draw = random.Random(f"{kind}{seed}")
        torch.manual_seed(seed)
        model = network()
        optimizer = build(kind, model, draw)
        for _ in range(draw.choice((0, 2))):
            backward(model)
            optimizer.step()
            optimizer.zero_grad()  # to zeros, not None: what is frozen then still decays
        if draw.random() < 0.6:
            optimizer.freeze()
        if draw.random() < 0.3:
            optimizer.clear_state()
        if draw.random() < 0.8:
            backward(model)
        state = {id(p): dict(kept) for p, kept in optimizer.state.items()}
        told = freezecheck.forecast(model, optimizer)
        assert {id(p): dict(kept) for p, kept in optimizer.state.items()} == state
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.step()
        for movement in told:
            changed = not torch.equal(before[movement.name], model.get_parameter(movement.name))
            if movement.moves is not None:
                decided += 1
                assert movement.moves == changed, (kind, seed, movement)
            moved += changed
    assert decided > 250  # of 300
    assert moved > 100


def test_what_is_frozen_again_still_decays():
    """zero_grad() leaves zeros, and fastai's step decays whatever has a gradient."""
    model = network()
    optimizer = home.SGD([list(model[:2].parameters()), list(model[3].parameters())], 0.1, wd=0.1)
    backward(model)
    optimizer.step()
    optimizer.zero_grad()
    optimizer.freeze()
    backward(model)
    before = model[0].weight.detach().clone()
    report = freezecheck.inspect(model, optimizer)
    assert "FC206" in {f.code for f in report.findings}
    optimizer.step()
    assert not torch.equal(before, model[0].weight)


def test_a_step_of_ones_own_is_not_judged():
    def jump(p: torch.Tensor, lr: float, **_: Any) -> None:
        p.data.add_(lr)

    model = network()
    optimizer = home.Optimizer(list(model.parameters()), [jump], lr=0.1)
    backward(model)
    assert {m.moves for m in freezecheck.forecast(model, optimizer)} == {None}


def test_a_wrapped_optimizer_of_torch_is_inspected_as_itself():
    model = network()
    wrapper = home.OptimWrapper(list(model.parameters()), torch.optim.AdamW, lr=0.1)
    backward(model)
    report = freezecheck.assert_sane(model, wrapper)
    assert report.snapshot.optimizers[0].family == "AdamW"
