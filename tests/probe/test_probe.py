"""The probe foretells what a full run at the same rates does, and leaves no trace."""

from __future__ import annotations

import copy
import importlib
import json
import math
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from described import ambient, described, difference
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import freezecheck
from freezecheck.plain import decode, encode
from freezecheck.probe.api import probe
from freezecheck.probe.task import level
from freezecheck.trace import Trace
from freezecheck.warmup import CLASSES, LABELS, NEAR, NUMBERS, PIXELS, SAFE, TOKENS, UNSAFE

DIGITS = Path(__file__).parents[2] / "fixtures" / "digits"


@pytest.fixture(scope="module")
def digits() -> SimpleNamespace:
    """The network of the fixtures, its weights and its data."""
    sys.path.insert(0, str(DIGITS))
    try:
        data, model = importlib.import_module("data"), importlib.import_module("model")
    finally:
        sys.path.remove(str(DIGITS))
    for name in ("data", "model"):
        sys.modules.pop(name, None)
    train, test = data.get_datasets([5, 6, 7, 8, 9])
    weights = torch.load(DIGITS / "pretrained.pt")
    return SimpleNamespace(train=train, test=test, net=model.DigitNet, weights=weights)


def grouped(module: nn.Module) -> None:
    """GroupNorm in place of BatchNorm."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(8, child.num_features))
        else:
            grouped(child)


def built(digits: SimpleNamespace, norm: str, name: str, lr: float, data: str) -> Any:
    """(model, optimizer, loader) of one configuration, with a new head."""
    torch.manual_seed(0)
    model = digits.net()
    model.load_state_dict(digits.weights)
    model.fc = nn.Linear(64, 5)
    if norm == "group":
        grouped(model)
    for module in model.modules():
        if norm == "frozen" and isinstance(module, nn.BatchNorm2d):
            module.eval()
    kinds: dict[str, Callable[..., Any]] = {
        "sgd": lambda params: torch.optim.SGD(params, lr=lr, momentum=0.9),
        "adamw": lambda params: torch.optim.AdamW(params, lr=lr),
    }
    images, labels = digits.train.tensors
    if data == "majority":
        rest = [(labels == label).nonzero().flatten()[:2] for label in range(1, 5)]
        kept = torch.cat([(labels == 0).nonzero().flatten(), *rest])
        images, labels = images[kept], labels[kept]
    loader = DataLoader(
        TensorDataset(images, labels), 32, shuffle=True, drop_last=True, generator=torch.Generator()
    )
    return model, kinds[name](model.parameters()), loader


def full_run_fails(model: nn.Module, optimizer: Any, loader: Any, steps: int = 70) -> bool:
    """Train for longer, as anybody would; the truth that the probe is held against."""
    losses: list[float] = []
    peak = optimizer.param_groups[0]["lr"]
    while len(losses) < steps:
        for images, labels in loader:
            optimizer.param_groups[0]["lr"] = peak * min(1.0, (len(losses) + 1) / 10)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                return True
    labels = loader.dataset.tensors[1]
    shares = torch.bincount(labels).double() / len(labels)
    entropy = float(torch.special.entr(shares).sum())
    return sum(losses[-20:]) / 20 > 0.9 * entropy  # it knows nothing, or worse


SETTINGS = [
    ("train", "sgd", 1e-2, "balanced", SAFE),
    ("train", "sgd", 10.0, "balanced", UNSAFE),
    ("frozen", "sgd", 1.0, "balanced", UNSAFE),
    ("frozen", "adamw", 1e-3, "balanced", SAFE),
    ("frozen", "adamw", 1.0, "balanced", UNSAFE),
    ("group", "sgd", 1e-2, "balanced", SAFE),
    ("group", "sgd", 3.0, "balanced", UNSAFE),
    ("train", "adamw", 1e-3, "majority", SAFE),
    ("frozen", "sgd", 3e-3, "majority", SAFE),
]


@pytest.mark.parametrize(("norm", "name", "lr", "data", "zone"), SETTINGS)
def test_the_zone_is_that_of_a_full_run(
    digits: SimpleNamespace, norm: str, name: str, lr: float, data: str, zone: str
):
    model, optimizer, loader = built(digits, norm, name, lr, data)
    everything = [model, optimizer, loader.generator]
    before = described(everything), ambient()
    report = probe(model, optimizer, loader, F.cross_entropy)
    assert difference(before, (described(everything), ambient())) == ""
    assert report.zone == zone, str(report)
    assert full_run_fails(model, optimizer, loader) == (zone == UNSAFE)
    if zone == UNSAFE:
        assert set(report.codes()) & {"FC601", "FC602", "FC603"}
        calm = report.warmup.calm
        assert calm is not None
        model, optimizer, loader = built(digits, norm, name, lr * calm, data)
        assert not full_run_fails(model, optimizer, loader)
    else:
        assert not report.findings, str(report)
    written = encode(report.trace)  # NaN is not equal to itself
    assert encode(decode(Trace, json.loads(json.dumps(written)))) == written


# -- small networks ---------------------------------------------------------------------


def blobs(samples: int = 512, size: int = 32) -> list[Any]:
    labels = torch.randint(4, (samples,))
    inputs = torch.randn(samples, 16) + 3 * F.one_hot(labels, 16)
    return list(zip(inputs.split(size), labels.split(size)))


def mlp(outputs: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, outputs))


def test_the_schedule_peak_is_probed_and_not_its_first_steps():
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=30.0, total_steps=1000)
    everything = [model, optimizer, scheduler]
    before = described(everything)
    report = freezecheck.probe(model, optimizer, blobs(), F.cross_entropy, scheduler=scheduler)
    assert difference(before, described(everything)) == ""
    assert report.warmup.rates == (30.0,)
    assert report.zone == UNSAFE
    assert freezecheck.probe(model, optimizer, blobs(), F.cross_entropy).warmup.rates[0] < 10


def test_ratios_of_groups_are_kept_and_an_advice_names_each():
    torch.manual_seed(0)
    model = mlp()
    groups = [{"params": model[0].parameters(), "lr": 20.0}, {"params": model[3].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=40.0, momentum=0.9)
    report = probe(model, optimizer, blobs(), F.cross_entropy)
    assert report.warmup.rates == (20.0, 40.0)
    calm = report.warmup.calm
    assert calm is not None
    assert f"group 1 from 40 to about {40 * calm:.1g}" in report.warmup.advice


def test_weights_that_do_not_move_have_the_initial_loss_to_the_last_digit():
    """Dropout draws the same for both."""
    torch.manual_seed(0)
    model = mlp()
    report = probe(model, torch.optim.SGD(model.parameters(), lr=0.0), blobs(), F.cross_entropy)
    assert report.warmup.losses == report.warmup.initial
    assert len(report.warmup.losses) == 60
    assert report.codes() == ["FC608"]


TASKS = {
    NUMBERS: (mlp(3), lambda x: x @ torch.ones(16, 3) / 4, F.mse_loss),
    LABELS: (mlp(3), lambda x: (x[:, :3] > 0).float(), F.binary_cross_entropy_with_logits),
    PIXELS: (
        nn.Conv2d(3, 2, 1),
        lambda x: (x[:, 0] > 0).long(),
        F.cross_entropy,
    ),
    TOKENS: (
        nn.Linear(3, 5),
        lambda x: x[..., :1].long().squeeze(-1).clamp(0, 4),
        lambda out, target: F.cross_entropy(out.flatten(0, 1), target.flatten()),
    ),
}
SHAPES = {NUMBERS: (16,), LABELS: (16,), PIXELS: (3, 4, 4), TOKENS: (6, 3)}


@pytest.mark.parametrize("task", TASKS)
def test_other_tasks_are_told_apart_and_collapse_is_said_not_to_be_judged(task: str):
    torch.manual_seed(0)
    model, label, loss = TASKS[task]
    model = copy.deepcopy(model)
    inputs = torch.randn(320, *SHAPES[task])
    batches = list(zip(inputs.split(32), label(inputs).split(32)))
    report = probe(model, torch.optim.AdamW(model.parameters(), lr=0.05), batches, loss)
    assert report.warmup.level is not None
    assert report.warmup.task == task
    assert report.zone == SAFE
    assert not report.findings
    assert any("collapse" in each and task in each for each in report.left_out)


def test_a_level_of_many_classes_is_not_thought_lower_than_it_is():
    """What 256 labels of a thousand classes tell is little."""
    torch.manual_seed(0)
    for classes, near in ((1000, 0.15), (4, 0.02)):
        pairs = [(torch.zeros(32, classes), torch.randint(classes, (32,))) for _ in range(8)]
        assert level(CLASSES, F.cross_entropy, pairs) == pytest.approx(math.log(classes), abs=near)
    pixels = [(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 1, 1]).repeat(4, 8, 2))]
    assert level(PIXELS, F.cross_entropy, pixels) == pytest.approx(0.5623, abs=0.01)
    mask = pixels[0][1].unsqueeze(1).float()
    binary = F.binary_cross_entropy_with_logits
    assert level(PIXELS, binary, [(torch.zeros(4, 1, 8, 8), mask)]) == pytest.approx(
        0.5623, abs=1e-3
    )


class OwnLoss(nn.Module):
    """As models of transformers do it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, inputs: Any, labels: Any = None) -> Any:
        logits = self.body(inputs)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_a_model_with_a_loss_of_its_own():
    torch.manual_seed(0)
    model = OwnLoss()
    batches = [{"inputs": x, "labels": y} for x, y in blobs()]
    report = probe(model, torch.optim.AdamW(model.parameters(), lr=0.01), batches)
    warmup = report.warmup
    assert (warmup.task, report.zone) == (CLASSES, SAFE)
    assert warmup.level == pytest.approx(math.log(4), abs=0.05)
    assert warmup.eval is not None
    assert warmup.eval.accuracy is not None
    assert warmup.eval.accuracy > 0.8


def test_an_iterator_and_few_batches_will_do():
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    report = probe(model, optimizer, iter(blobs(samples=96)), F.cross_entropy)
    assert report.warmup.samples == 96
    assert any("96 samples" in each for each in report.left_out)


def test_batchnorm_on_tiny_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    report = probe(model, optimizer, blobs(samples=64, size=2), F.cross_entropy)
    assert "FC412" in report.codes()
    model[1].eval()
    report = probe(model, optimizer, blobs(samples=64, size=2), F.cross_entropy)
    assert "FC412" not in report.codes()


# -- half precision ----------------------------------------------------------------------


def test_a_step_that_the_scaler_skips_is_none():
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = scaler.state_dict()
    report = probe(model, optimizer, blobs(), F.cross_entropy, scaler=scaler)
    assert scaler.state_dict() == before
    assert len(report.warmup.losses) == 30
    assert report.zone == SAFE


def test_gradients_that_are_never_finite():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return grad * math.inf

    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    report = probe(
        model,
        optimizer,
        blobs(),
        lambda out, target: F.cross_entropy(Broken.apply(out), target),
        scaler=torch.amp.GradScaler("cpu"),
    )
    assert report.zone == UNSAFE
    assert report.codes() == ["FC601"]


def test_a_scale_that_falls_below_one_is_an_alarm_at_once():
    """Long before sixteen steps have been skipped."""
    torch.manual_seed(0)
    model = mlp()
    hook = model[3].weight.register_hook(lambda grad: grad * math.inf)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    steps: list[int] = []
    handle = optimizer.register_step_pre_hook(lambda *_: steps.append(1))
    report = probe(model, optimizer, blobs(), F.cross_entropy, scaler=scaler)
    handle.remove()
    hook.remove()
    assert report.codes() == ["FC601"]
    assert not steps


@pytest.mark.parametrize("fused", [False, True])
def test_a_fused_optimizer_hides_that_a_step_was_skipped(fused: bool):
    """It is called all the same. The gradients of every second step overflow."""
    torch.manual_seed(0)
    model = mlp()
    calls: list[int] = []

    def overflow(grad: Any) -> Any:
        calls.append(1)
        return grad * math.inf if len(calls) % 2 else grad

    hook = model[3].weight.register_hook(overflow)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    report = probe(model, optimizer, blobs(), F.cross_entropy, scaler=scaler)
    hook.remove()
    assert report.zone == SAFE, str(report)
    assert len(report.warmup.losses) == 30
    assert len(calls) == 60


def test_a_scaled_loss_that_is_not_finite_is_not_only_a_skipped_step():
    torch.manual_seed(0)
    model = mlp()
    count = [0]

    def loss(out: Any, target: Any) -> Any:
        count[0] += torch.is_grad_enabled()
        return F.cross_entropy(out, target) * (
            math.inf if count[0] > 3 and out.requires_grad else 1
        )

    scaler = torch.amp.GradScaler("cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    report = probe(model, optimizer, blobs(), loss, scaler=scaler)
    assert report.codes() == ["FC601"]
    assert "step 4" in report.findings[0].message


def test_a_batch_without_labels_is_not_the_rates_doing():
    torch.manual_seed(0)
    model, batches = mlp(), blobs()
    batches[3][1].fill_(-100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    report = probe(model, optimizer, batches, F.cross_entropy)
    assert report.zone == SAFE, str(report)
    assert not report.findings
    assert report.warmup.level == pytest.approx(math.log(4), abs=0.05)
    assert any("not finite with the initial weights" in each for each in report.left_out)
    for _, labels in batches:
        labels.fill_(-100)
    assert probe(model, optimizer, batches, F.cross_entropy).codes() == ["FC601"]


def test_a_loss_below_zero_leaps_nowhere():
    torch.manual_seed(0)
    model = mlp(3)
    inputs = torch.randn(320, 16)
    batches = [(x, x[:, :3]) for x in inputs.split(32)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    report = probe(model, optimizer, batches, lambda o, t: -F.cosine_similarity(o, t).mean())
    assert report.zone == SAFE, str(report)


# -- what may go wrong -------------------------------------------------------------------


class Failing(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.body, self.error, self.left = mlp(), error, 60

    def forward(self, x: Any) -> Any:
        self.left -= 1
        if not self.left:
            raise self.error
        return self.body(x)


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()], ids=repr)
def test_what_the_model_raises_is_raised_after_restoring(error: BaseException):
    torch.manual_seed(0)
    model = Failing(error)
    optimizer, batches = torch.optim.AdamW(model.parameters(), lr=0.01), blobs()
    everything = [model, optimizer]
    before = described(everything), ambient()
    with pytest.raises(type(error)) as caught:
        probe(model, optimizer, batches, F.cross_entropy)
    assert caught.value is error
    assert difference(before, (described(everything), ambient())) == ""


def test_exhausted_memory_is_told_with_the_batch_size():
    model = Failing(MemoryError())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    everything = [model, optimizer]
    before = described(everything)
    with pytest.raises(freezecheck.OutOfMemory, match=r"batches of 32 samples; at the peak .* GiB"):
        probe(model, optimizer, blobs(), F.cross_entropy)
    assert difference(before, described(everything)) == ""


def wrong_calls() -> Iterator[tuple[Callable[[Any, Any], Any], str]]:
    yield lambda m, o: probe(m, None, blobs(), F.cross_entropy), "torch.optim.Optimizer"
    yield lambda m, o: probe(3, o, blobs(), F.cross_entropy), "torch.nn.Module"
    yield lambda m, o: probe(m, o, [], F.cross_entropy), "no batch"
    yield lambda m, o: probe(m, o, blobs(), F.cross_entropy, steps=5), "steps"
    yield lambda m, o: probe(m, o, [x for x, _ in blobs()]), "returns no loss"
    yield lambda m, o: probe(m, o, blobs(), lambda out, target: out), "one number"
    yield lambda m, o: probe(m, o, blobs(), lambda out, t: out.detach().mean()), "no trainable"
    yield lambda m, o: probe(nn.LazyLinear(4), o, blobs(), F.cross_entropy), "lazy parameters"
    yield (
        lambda m, o: probe(
            m,
            torch.optim.LBFGS(m.parameters()),
            blobs(),
            F.cross_entropy,
            scaler=torch.amp.GradScaler("cpu"),
        ),
        "no gradient scaler",
    )


@pytest.mark.parametrize(
    ("call", "text"), list(wrong_calls()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_wrong_arguments_get_one_line(call: Callable[[Any, Any], Any], text: str):
    model = mlp()
    with pytest.raises((TypeError, ValueError), match=text) as caught:
        call(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert "\n" not in str(caught.value)


def test_the_package_can_be_called_whatever_was_imported_first():
    importlib.import_module("freezecheck.probe.saved")
    torch.manual_seed(0)
    random.seed(0)
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    report = freezecheck.probe(model, optimizer, blobs(), F.cross_entropy)
    assert report.zone in (SAFE, NEAR)
    here = report.trace.site
    assert here is not None
    assert here.path.endswith("test_probe.py")
