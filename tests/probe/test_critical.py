"""Critical rates of parameter groups are those at which full runs fail."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from described import ambient, described, difference
from torch import nn
from torch.nn import functional as F

from freezecheck.live.api import take_snapshot
from freezecheck.probe.api import probe
from freezecheck.probe.named import names
from freezecheck.probe.suggested import suggested
from freezecheck.warmup import SAFE


def blobs(samples: int = 512, size: int = 32) -> list[Any]:
    labels = torch.randint(4, (samples,))
    inputs = torch.randn(samples, 16) + 3 * F.one_hot(labels, 16)
    return list(zip(inputs.split(size), labels.split(size)))


def made(norm: bool = False, rates: tuple[float, ...] = (0.01, 0.01)) -> tuple[Any, Any, list[Any]]:
    """(model, optimizer, batches); two groups, of which a train-mode BatchNorm may follow the first."""
    torch.manual_seed(0)
    between = [nn.BatchNorm1d(32)] if norm else []
    model = nn.Sequential(nn.Linear(16, 32, bias=not norm), *between, nn.ReLU(), nn.Linear(32, 4))
    groups = [
        {"params": [*model[0].parameters()], "lr": rates[0]},
        {"params": [*model[-1].parameters()], "lr": rates[1]},
    ]
    return model, torch.optim.SGD(groups, momentum=0.9), blobs()


def fails(group: int, rate: float, norm: bool = False, steps: int = 300) -> bool:
    model, optimizer, batches = made(norm)
    peaks = [each["lr"] for each in optimizer.param_groups]
    peaks[group] = rate
    losses: list[float] = []
    for step in range(steps):
        for each, peak in zip(optimizer.param_groups, peaks):
            each["lr"] = peak * min(1.0, (step + 1) / 10)
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return not sum(losses[-20:]) / 20 < 0.9 * math.log(4)


def test_full_runs_fail_above_and_not_below_and_nothing_is_left_behind():
    model, optimizer, batches = made()
    everything = [model, optimizer]
    before = described(everything), ambient()
    report = probe(model, optimizer, batches, F.cross_entropy, groups=True)
    assert difference(before, (described(everything), ambient())) == ""
    assert report.zone == SAFE
    found = report.warmup.critical
    assert [each.name for each in found] == ["0", "2"]
    assert [each.rate for each in found] == [0.01, 0.01]
    for each in found:
        assert each.safe is not None
        assert each.diverges is not None
        assert each.certified is None or not fails(each.group, each.certified)
        assert each.suggested == each.rate
        assert not fails(each.group, each.safe / 1.5)
        assert fails(each.group, each.diverges * 3)
        assert 1 < each.diverges / each.safe < 2


def test_weights_before_a_batchnorm_that_trains_have_no_limit():
    report = probe(*made(norm=True), F.cross_entropy, groups=True)
    first = report.warmup.critical[0]
    assert first.diverges is None
    assert first.tried is not None
    assert first.tried > 100 * first.rate
    assert not fails(0, first.tried, norm=True)


def test_a_group_that_is_too_fast_does_not_blame_the_others():
    report = probe(*made(rates=(0.01, 300.0)), F.cross_entropy, groups=True)
    backbone, head = report.warmup.critical
    assert head.diverges is not None
    assert head.rate > head.diverges
    assert backbone.safe is not None
    assert backbone.rate <= backbone.safe
    assert any("other groups" in each for each in report.left_out)
    assert backbone.suggested == backbone.rate
    assert head.suggested is not None
    assert head.suggested < head.diverges / 2
    assert not fails(1, head.suggested)
    advice = report.warmup.advice
    assert f"group 1 (2) from 3e+02 to about {head.suggested:.1g}" in advice
    assert "group 0" not in advice


def test_suggested_rates_keep_their_order():
    all_alike = [0.1, 0.1, 0.1]
    assert suggested(all_alike, {1: 0.5}, [0, 1, 2]) == all_alike
    assert suggested(all_alike, {1: 0.08}, [0, 1, 2]) == [0.03, 0.03, 0.1]
    assert suggested(all_alike, {0: 0.08}, [2, 1, 0]) == [0.03, 0.03, 0.03]
    assert suggested([0.1, 0.01], {1: 0.003}, [0, 1]) == [0.1, 0.001]  # already the other way round
    assert suggested([0.1, 0.1], {0: 0.08}, [1, 1]) == [0.03, 0.1]  # two halves of each stage


def test_groups_that_cannot_move_are_left_out():
    model, optimizer, batches = made(rates=(0.0, 0.01))
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2), requires_grad=False)]})
    report = probe(model, optimizer, batches, F.cross_entropy, groups=True)
    assert [each.group for each in report.warmup.critical] == [1]
    assert any("2 parameter groups" in each for each in report.left_out)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("layer1", "layer2", "layer3"):
            setattr(self, name, nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
        self.fc = nn.Linear(8, 3)


def called(*groups: dict[str, Any]) -> list[str]:
    net = Network()
    made = [{**group, "params": list(group["params"](net))} for group in groups]
    return names(take_snapshot(net, torch.optim.SGD(made, lr=0.1)), 0)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (
            [{"params": lambda n: n.layer1.parameters()}, {"params": lambda n: n.fc.parameters()}],
            ["layer1", "fc"],
        ),
        ([{"params": lambda n: n.parameters()}], ["all stages"]),
        ([{"params": lambda n: n.parameters(), "name": "everything"}], ["everything"]),
        (
            [
                {"params": lambda n: [p for p in n.parameters() if p.dim() > 1], "weight_decay": w}
                if w
                else {"params": lambda n: [p for p in n.parameters() if p.dim() == 1]}
                for w in (0.1, 0)
            ],
            ["all stages, decay 0.1", "all stages, decay 0"],
        ),
        (
            [
                {"params": lambda n: [n.fc.weight]},
                {"params": lambda n: [n.fc.bias]},
            ],
            ["fc (group 0)", "fc (group 1)"],
        ),
    ],
    ids=["stages", "all", "own name", "decay", "halves"],
)
def test_groups_are_called_by_their_stages(groups: list[dict[str, Any]], expected: list[str]):
    assert called(*groups) == expected


def test_harm_has_a_measured_remedy_though_the_loss_be_well():
    """A stem that flies away behind a BatchNorm: by how much rates are to be lowered is tried."""

    def setting(factor: float) -> Any:
        torch.manual_seed(0)
        x = torch.randn(512, 16)
        y = x[:, :4].argmax(1)
        model = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))
        groups = [
            {"params": model[0].parameters(), "lr": 300.0 * factor},
            {"params": model[3].parameters(), "lr": 3e-3 * factor},
        ]
        return model, torch.optim.AdamW(groups), list(zip(x.split(32), y.split(32)))

    report = probe(*setting(1.0), F.cross_entropy)
    assert report.codes() == ["FC605"]
    calm = report.warmup.calm
    assert calm is not None
    assert f"group 0 from 3e+02 to about {300 * calm:.1g}" in report.warmup.advice
    assert "FC605" not in probe(*setting(calm), F.cross_entropy).codes()
