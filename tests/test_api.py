"""`inspect` and `assert_sane` on real objects."""

from __future__ import annotations

import gc
import json
import weakref

import pytest
import torch
import torchvision
from torch import nn
from untouched import fingerprint
from weights import look_trained

from freezecheck import Report, SetupError, Severity, Snapshot, assert_sane, inspect


def net() -> nn.Module:
    return look_trained(
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
        )
    )


def late_unfreeze() -> tuple[nn.Module, torch.optim.Optimizer]:
    """The classic: the optimizer was built before the last but one layer was unfrozen."""
    model = net().eval()
    model.requires_grad_(False)
    model[4].requires_grad_(True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model[0].requires_grad_(True)
    return model, optimizer


def test_a_healthy_setup_is_clean():
    model = torchvision.models.resnet18()
    report = inspect(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    assert report.findings == ()
    assert report.ok
    assert report.left_out == ()


def test_the_classic_bug_is_found():
    report = inspect(*late_unfreeze())
    assert report.codes() == ["FC201"]
    assert not report.ok
    finding = report.findings[0]
    assert finding.symbol == "0.weight"
    assert finding.site is None
    assert "2 trainable tensors (40 parameters)" in finding.message


def test_select_and_ignore():
    model, optimizer = late_unfreeze()
    assert inspect(model, optimizer, select=["FC1"]).findings == ()
    assert inspect(model, optimizer, ignore=["trainable-not-in-optimizer"]).findings == ()
    assert inspect(model, optimizer, select="FC201").codes() == ["FC201"]
    with pytest.raises(ValueError, match="FC201"):
        inspect(model, optimizer, select=["FC20l"])


def test_without_an_optimizer_nothing_is_said_about_it_and_that_is_said():
    model, _ = late_unfreeze()
    report = inspect(model, None)
    assert not [f for f in report.findings if f.code.startswith(("FC2", "FC3"))]
    assert "no optimizer was given" in report.left_out[0]


def test_several_models_and_optimizers():
    generator, critic = net(), net()
    optimizers = [torch.optim.Adam(m.parameters(), lr=2e-4) for m in (generator, critic)]
    report = inspect({"G": generator, "D": critic}, optimizers)
    assert report.ok
    assert [m.label for m in report.snapshot.models] == ["G", "D"]
    critic[4] = nn.Linear(16, 1)
    report = inspect({"G": generator, "D": critic}, optimizers)
    assert [f.symbol for f in report.findings if f.code == "FC201"] == ["D.4.weight"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((nn.Linear(2, 2), "adam"), "optimizer is a str"),
        (("resnet18", None), "model is a str"),
        ((None, None), "needs a model"),
        ((nn.Linear(2, 2), nn.Linear(2, 2)), "optimizer is a Linear"),
    ],
)
def test_arguments_that_cannot_be_meant(arguments, words):
    with pytest.raises(TypeError, match=words):
        inspect(*arguments)


def test_the_report_prints_and_serialises():
    report = inspect(*late_unfreeze())
    text = str(report)
    assert "FC201" in text
    assert "0.weight" in text
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["findings"][0]["code"] == "FC201"
    again = Snapshot.from_dict(json.loads(json.dumps(report.snapshot.to_dict())))
    assert again.to_dict() == report.snapshot.to_dict()


@pytest.mark.parametrize("moment", ["new", "after forward", "after backward", "after step"])
def test_nothing_is_changed(moment: str):
    model, optimizer = late_unfreeze()
    model.train()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    if moment != "new":
        loss = model(torch.randn(4, 1, 4, 4)).square().sum()
        if moment != "after forward":
            loss.backward()
        if moment == "after step":
            optimizer.step()
    before = fingerprint([model], [optimizer], [scheduler])
    report = inspect(model, optimizer, scheduler=scheduler)
    str(report)
    with pytest.raises(SetupError):
        assert_sane(model, optimizer, scheduler=scheduler)
    assert fingerprint([model], [optimizer], [scheduler]) == before


def test_assert_sane_passes_and_returns_the_report():
    model = net()
    report = assert_sane(model, torch.optim.SGD(model.parameters(), lr=0.001))
    assert isinstance(report, Report)


def test_assert_sane_says_all_that_is_needed():
    with pytest.raises(SetupError) as error:
        assert_sane(*late_unfreeze())
    text = str(error.value)
    assert "FC201 trainable-not-in-optimizer (error)" in text
    assert "0.weight, 0.bias" in text
    assert "to mend it: " in text
    assert isinstance(error.value, AssertionError)
    assert error.value.report.codes() == ["FC201"]


def probe() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = net().eval()
    model.requires_grad_(False)
    model[4].requires_grad_(True)
    return model, torch.optim.SGD(model[4].parameters(), lr=0.01)


@pytest.mark.parametrize("trainable", ["4.*", ["4.weight", "4.bias"], ["4.w*", "*.bias"]])
def test_intent_that_holds_or_not(trainable):
    model, optimizer = probe()
    if trainable == ["4.w*", "*.bias"]:
        with pytest.raises(SetupError, match=r"meant to be trainable but frozen: .*0.bias, 1.bias"):
            assert_sane(model, optimizer, trainable=trainable)
    else:
        assert_sane(model, optimizer, trainable=trainable, batchnorm="eval")


def test_intent_is_exactly_these_and_nothing_else():
    model, optimizer = probe()
    model[1].requires_grad_(True)
    optimizer.add_param_group({"params": model[1].parameters(), "lr": 1e-4})
    with pytest.raises(SetupError, match=r"only the given ones.*1\.weight, 1\.bias"):
        assert_sane(model, optimizer, trainable="4.*")
    assert_sane(model, optimizer, trainable=["1.*", "4.*"])
    with pytest.raises(SetupError, match=r"frozen, though only the given ones.*: 0\.bias"):
        assert_sane(model, optimizer, frozen="0.weight")


def test_a_pattern_that_matches_nothing_is_an_error():
    model, optimizer = probe()
    with pytest.raises(
        SetupError, match=r"'fc\.\*' matches no parameter \(names begin with 0, 1, 4\)"
    ):
        assert_sane(model, optimizer, trainable=["4.*", "fc.*"])


def test_batchnorm_intent():
    model, optimizer = probe()
    with pytest.raises(SetupError, match="1 BatchNorm layer not in train mode: 1"):
        assert_sane(model, optimizer, batchnorm="train")
    with pytest.raises(ValueError, match="'train' or 'eval'"):
        assert_sane(model, optimizer, batchnorm="frozen")
    with pytest.raises(SetupError, match="no BatchNorm layer"):
        assert_sane(model[4], optimizer, batchnorm="eval")


def test_fail_on_and_ignore():
    model, optimizer = late_unfreeze()
    assert_sane(model, optimizer, ignore=["FC201"])
    with pytest.raises(ValueError, match="choose from info, warning, error"):
        assert_sane(model, optimizer, fail_on="fatal")
    report = inspect(model, optimizer)
    assert report.at_least(Severity.ERROR) == list(report.findings)


def test_nothing_is_kept_alive():
    """The memory of a model that is deleted is free at once, without the garbage collector."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 1, 4, 4)).sum().backward()
    dead = weakref.ref(model), weakref.ref(optimizer), weakref.ref(model[0].weight)
    gc.collect()
    gc.disable()
    try:
        assert str(inspect(model, optimizer))
        del model, optimizer
        assert [reference() for reference in dead] == [None] * 3
    finally:
        gc.enable()
