"""What `model.train()` would do, held against calling it."""

from __future__ import annotations

from types import MethodType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from untouched import fingerprint

from freezecheck.live.capture import capture
from freezecheck.live.train_copy import changing
from freezecheck.live.tree import unwrap, walk


class Part(nn.Module):
    """A module with children, and with what overrides of train() usually look at."""

    def __init__(self, children: list[nn.Module], freeze: bool, index: int) -> None:
        super().__init__()
        for number, child in enumerate(children):
            setattr(self, f"part{number}", child)
        self.freeze = freeze
        chosen = children[: index + 1]
        self.frozen: Any = chosen
        self.by_name = {"chosen": {id(m): m for m in chosen}, "few": tuple(chosen)}
        self.scale = torch.ones(3)
        self.register_buffer("count", torch.zeros(()))
        self.calls: list[bool] = []


class KeepsNorms(Part):
    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        for m in self.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and self.freeze:
                m.eval()
        return self


class KeepsList(Part):
    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        for m in self.frozen:
            m.eval()
        return self


class KeepsNested(Part):
    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        for m in (*self.by_name["chosen"].values(), *self.by_name["few"]):
            m.train(not self.freeze)
        return self


class Undone(Part):
    def train(self, mode: bool = True) -> Any:
        for m in self.frozen:
            m.eval()
        return super().train(mode)


class Refuses(Part):
    def train(self, mode: bool = True) -> Any:
        return self


class SelfOnly(Part):
    def train(self, mode: bool = True) -> Any:
        self.training = mode
        return self


class Stays(Part):
    def train(self, mode: bool = True) -> Any:
        if mode and self.freeze:
            return self.eval()
        return super().train(mode)


class Writes(Part):
    """Changes tensors, flags, hooks and lists as it goes."""

    def train(self, mode: bool = True) -> Any:
        self.count.add_(1)
        self.scale.mul_(2)
        self.calls.append(mode)
        print("mode", mode)
        for p in self.parameters():
            p.requires_grad = self.freeze
            p.data.mul_(0.5)
        self.register_forward_hook(lambda *a: None)
        self.extra = nn.Identity()
        return super().train(mode)


class Fails(Part):
    def train(self, mode: bool = True) -> Any:
        if float(self.count) >= 0:  # values that a stand-in has not
            super().train(mode)
        return self


CLASSES = [Part, KeepsNorms, KeepsList, KeepsNested, Undone, Refuses, SelfOnly, Stays, Writes]
LEAVES = [
    lambda: nn.Linear(2, 2),
    lambda: nn.BatchNorm1d(2),
    lambda: nn.Dropout(0.1),
    lambda: nn.Sequential(nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2)),
    lambda: nn.LSTM(2, 2),
]
leaves = st.sampled_from(LEAVES).map(lambda make: make())


def bound(module: nn.Module) -> nn.Module:
    """`train` put on the instance, as a method of it."""

    def train(self: Any, mode: bool = True) -> Any:
        nn.Module.train(self, mode)
        for m in self.modules():
            if isinstance(m, nn.BatchNorm1d):
                m.eval()
        return self

    module.train = MethodType(train, module)
    return module


@st.composite
def parts(draw: st.DrawFn, below: st.SearchStrategy[nn.Module]) -> nn.Module:
    children = draw(st.lists(below, min_size=1, max_size=3))
    if draw(st.integers(0, 3)) == 0:
        children.append(children[0])  # one module under two names
    kind = draw(st.sampled_from(CLASSES))
    part = kind(children, draw(st.booleans()), draw(st.integers(0, 2)))
    how = draw(st.integers(0, 7))
    if how == 0:
        return nn.DataParallel(part)
    return bound(part) if how == 1 else part


models = parts(st.recursive(leaves, lambda below: parts(below), max_leaves=8))


def modes(model: nn.Module) -> dict[str, bool]:
    return {node.path: node.module.training for node in walk(unwrap(model)[0])}


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=models, data=st.data())
def test_it_says_what_train_then_does(model: nn.Module, data: st.DataObject):
    for module in model.modules():
        module.training = data.draw(st.booleans())
    nodes = walk(unwrap(model)[0])
    before, untouched = modes(model), fingerprint([model])

    said = changing(nodes)

    assert fingerprint([model]) == untouched
    model.train()
    after = modes(model)
    assert said == {path for path in before if before[path] != after[path]}


def test_a_train_that_reads_values_is_not_guessed_at():
    model = Fails([nn.BatchNorm1d(2)], True, 0).eval()
    assert changing(walk(model)) is None


def test_a_closure_over_the_model_is_noticed_and_undone():
    model = Part([nn.BatchNorm1d(2), nn.Linear(2, 2)], True, 0)
    original = model.train

    def train(mode: bool = True) -> Any:
        nn.Module.train(model, mode)
        model.part0.eval()
        model.part1.requires_grad_(False)
        return model

    model.train = train
    model.part1.eval()
    before = fingerprint([model])
    assert changing(walk(model)) is None
    assert fingerprint([model]) == before
    assert original is not None


def test_disabled_train_of_latent_diffusion():
    """`model.train = disabled_train`: a plain function that takes the mode for self."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)).eval()
    model.train = lambda self, mode=True: self
    assert changing(walk(model)) == set()


def test_scripted_modules_are_left_alone():
    inner = torch.jit.script(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)))
    model = KeepsNorms([inner, nn.BatchNorm1d(2)], True, 0).eval()
    assert changing(walk(model)) is None
    assert not any(m.training for m in model.modules())


def test_a_module_that_refers_to_itself_in_circles():
    model = KeepsList([nn.BatchNorm1d(2)], True, 0).eval()
    model.circle = {}
    model.circle["circle"] = model.circle
    model.parent = [model]
    assert changing(walk(model)) is None


def test_lightning_module_with_a_trainer():
    lightning = pytest.importorskip("lightning")

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
            self.head = nn.Linear(2, 2)

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.backbone.eval()
            return self

    model = Lit().train()
    model.trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    assert changing(walk(model)) == set()
    assert changing(walk(model.eval())) == {"", "head"}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=models, data=st.data())
def test_capture_changes_nothing(model: nn.Module, data: st.DataObject):
    for module in model.modules():
        module.training = data.draw(st.booleans())
    for p in model.parameters():
        p.requires_grad = data.draw(st.booleans())
    params = list(model.parameters())
    optimizers = {"optimizer": torch.optim.SGD(params, lr=0.1)} if params else {}
    before = fingerprint([model], optimizers.values())
    capture({"model": model}, optimizers)
    assert fingerprint([model], optimizers.values()) == before
