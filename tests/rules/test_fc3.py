"""Rates and schedulers: what the rules say of real objects, held against what then happens."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from recording import record
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import lr_scheduler as schedules
from weights import look_trained

from freezecheck import catalogue
from freezecheck.check import check
from freezecheck.finding import Finding, Severity
from freezecheck.live.capture import capture
from freezecheck.snapshot import Snapshot

RULES = [catalogue._load(name) for name in catalogue.MODULES if name.startswith("fc3")]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield


class Net(nn.Module):
    """Four numbered stages with norms, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        for i in range(1, 5):
            setattr(self, f"layer{i}", nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x).relu()
        return self.fc(x.mean((2, 3)))


def pretrained() -> Any:
    """A trained-looking network with a new head."""
    model = look_trained(Net())
    model.fc = nn.Linear(8, 10)
    return model


def backbone(model: Any) -> list[Any]:
    return [p for name, p in model.named_parameters() if not name.startswith("fc.")]


def split(model: Any, low: float, high: float, **options: Any) -> list[dict[str, Any]]:
    return [
        {"params": backbone(model), "lr": low, **options},
        {"params": list(model.fc.parameters()), "lr": high, **options},
    ]


def findings(model: Any, optimizer: Any, scheduler: Any = None) -> list[Finding]:
    """Of all rules of the family; the snapshot goes through JSON."""
    several = isinstance(optimizer, dict)
    now = capture(
        model if isinstance(model, dict) else {"model": model},
        optimizer if several else {"optimizer": optimizer},
        scheduler if isinstance(scheduler, dict) else {"scheduler": scheduler} if scheduler else {},
    )
    return check(RULES, snapshots=[Snapshot.from_dict(now.to_dict())])


def codes(model: Any, optimizer: Any, scheduler: Any = None) -> list[str]:
    return [finding.code for finding in findings(model, optimizer, scheduler)]


def recorded(code: str) -> list[Finding]:
    seen = record(code)
    assert seen.snapshot is not None
    return check(RULES, timeline=seen.timeline, snapshots=[seen.snapshot])


def step(model: Any, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.arange(4))
    loss.backward()
    optimizer.step()


# -- FC301 --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Adam, {"lr": 1e-3}),
        (AdamW, {"lr": 1e-3, "weight_decay": 0.05}),
        (AdamW, {"lr": 5e-4}),
        (torch.optim.RMSprop, {"lr": 1e-3}),
        (torch.optim.NAdam, {}),
        (SGD, {"lr": 0.1, "momentum": 0.9}),
        (SGD, {"lr": 1.0}),
    ],
)
def test_one_high_rate(kind: Any, options: dict[str, Any]):
    model = pretrained()
    (finding,) = findings(model, kind(model.parameters(), **options))
    assert finding.code == "FC301"
    assert finding.severity == Severity.WARNING
    assert "fc" in finding.message
    assert "pretrained backbone" in finding.message


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (AdamW, {"lr": 5e-5}),
        (Adam, {"lr": 1e-4}),
        (AdamW, {"lr": 3e-4}),
        (SGD, {"lr": 0.001, "momentum": 0.9}),
        (SGD, {"lr": 0.03, "momentum": 0.9}),
        (SGD, {"lr": 0.06, "momentum": 0.9}),
        (SGD, {"lr": 0.1}),
        (torch.optim.Adagrad, {"lr": 0.01}),
        (torch.optim.Adadelta, {"lr": 1.0}),
        (torch.optim.LBFGS, {"lr": 1.0}),
        (torch.optim.Rprop, {"lr": 0.01}),
    ],
)
def test_a_rate_for_fine_tuning_is_fine_for_all(kind: Any, options: dict[str, Any]):
    model = pretrained()
    assert codes(model, kind(model.parameters(), **options)) == []


def test_one_rate_in_groups_by_weight_decay():
    model = pretrained()
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    assert codes(model, AdamW(groups, lr=1e-3)) == ["FC301"]


def test_one_rate_is_fine_from_scratch_and_with_a_trained_head():
    scratch, whole = Net(), look_trained(Net())
    assert codes(scratch, Adam(scratch.parameters(), lr=1e-3)) == []
    assert codes(whole, Adam(whole.parameters(), lr=1e-3)) == []


def test_the_head_alone_or_with_norms_takes_a_heads_rate():
    model = pretrained()
    for p in backbone(model):
        p.requires_grad = False
    assert codes(model, Adam(model.parameters(), lr=1e-3)) == []
    for p in backbone(model):
        p.requires_grad = p.dim() == 1
    assert codes(model, Adam(model.parameters(), lr=1e-3)) == []


def test_layer_wise_decay_up_to_the_heads_rate():
    model = pretrained()
    groups = [
        {"params": part.parameters(), "lr": 1e-3 * 0.7 ** (5 - i)}
        for i, part in enumerate(model.children())
    ]
    assert codes(model, AdamW(groups)) == []


@pytest.mark.frameworks
def test_layer_wise_decay_by_timm():
    timm = pytest.importorskip("timm")
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    model = look_trained(timm.create_model("vit_tiny_patch16_224", img_size=32))
    model.reset_classifier(5)
    options = {"opt": "adamw", "lr": 1e-3, "weight_decay": 0.05}
    optimizer = create_optimizer_v2(model, **options, layer_decay=0.75)
    assert codes(model, optimizer) == []  # its scheduler is yet to apply the scales
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=9, warmup_epochs=0)
    assert codes(model, optimizer, scheduler) == codes(model, optimizer) == []
    optimizer = create_optimizer_v2(model, **options, layer_decay=0.75)
    constant = schedules.StepLR(optimizer, 10)  # torch's own leaves the scales alone
    assert codes(model, optimizer, constant) == ["FC301"]
    assert codes(model, create_optimizer_v2(model, **options)) == ["FC301"]


def test_a_new_decoder_is_no_pretrained_backbone():
    class Segmenter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = look_trained(Net())
            for i in range(1, 4):
                setattr(self, f"up{i}", nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)))
            self.out = nn.Conv2d(8, 10, 1)

    model = Segmenter()
    model.encoder.requires_grad_(False)
    new = [p for p in model.parameters() if p.requires_grad]
    assert codes(model, Adam(new, lr=1e-3)) == []
    groups = [{"params": model.encoder.parameters(), "lr": 1e-5}, {"params": new, "lr": 1e-3}]
    model.encoder.requires_grad_(True)
    assert codes(model, Adam(groups)) == []


def test_an_optimizer_that_has_stepped_is_past_it():
    model = pretrained()
    optimizer = Adam(model.parameters(), lr=1e-3)
    step(model, optimizer)
    assert codes(model, optimizer) == []


def test_the_schedules_peak_counts():
    model = pretrained()
    optimizer = AdamW(model.parameters(), lr=1e-3)
    scheduler = schedules.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / 500))
    assert codes(model, optimizer) == []  # 2e-6 now
    (finding,) = findings(model, optimizer, scheduler)
    assert finding.code == "FC301"
    assert "0.001 at the schedule's peak" in finding.message


# -- FC302 --------------------------------------------------------------------


def layered(model: Any, rates: list[float]) -> list[dict[str, Any]]:
    return [{"params": part.parameters(), "lr": lr} for part, lr in zip(model.children(), rates)]


def test_rates_that_fall_towards_the_head():
    model = pretrained()
    groups = layered(model, [1e-4, 9e-5, 5e-5, 3e-5, 1e-5, 1e-3])
    (finding,) = findings(model, AdamW(groups))
    assert finding.code == "FC302"
    assert finding.message.startswith("layer1 learns at 9e-05, but layer4 after it at 1e-05")


def test_a_backbone_faster_than_the_new_head():
    model = pretrained()
    (finding,) = findings(model, AdamW(split(model, 1e-3, 1e-5)))
    assert finding.code == "FC302"
    assert "but fc after it at 1e-05" in finding.message


@pytest.mark.parametrize(
    "rates",
    [
        [1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 1e-3],
        [1e-6, 2e-6, 4e-6, 8e-6, 1e-5, 1e-3],
        [1e-5, 1.2e-5, 1.1e-5, 1e-5, 1e-5, 1e-4],  # by a hair
        [1e-5, 1e-5, 5e-5, 1e-5, 1e-5, 1e-4],  # one stage on purpose
        [1e-4, 1e-5, 1e-5, 1e-5, 1e-5, 1e-4],  # a new stem
    ],
)
def test_rates_in_order(rates: list[float]):
    model = pretrained()
    assert codes(model, AdamW(layered(model, rates))) == []


def test_rates_may_fall_in_training_from_scratch():
    model = Net()
    assert codes(model, AdamW(layered(model, [1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 1e-4]))) == []


def test_norms_and_biases_do_not_count_for_a_stages_rate():
    model = pretrained()
    groups = []
    for i, part in enumerate(model.children()):
        weights = [p for p in part.parameters() if p.dim() > 1]
        rest = [p for p in part.parameters() if p.dim() == 1]
        groups.append({"params": weights, "lr": 1e-5 * 2**i})
        groups.append({"params": rest, "lr": 1e-3 / 2**i})
    assert codes(model, AdamW(groups)) == []


def test_parts_registered_in_another_order_than_they_run():
    """As DETR does: the transformer first, the pretrained backbone last and slowest."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = nn.Sequential(
                *[nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(3)]
            )
            self.query = nn.Linear(8, 4)
            self.backbone = look_trained(Net())

    model = Detector()
    rest = [p for name, p in model.named_parameters() if not name.startswith("backbone")]
    groups = [{"params": rest, "lr": 1e-4}, {"params": model.backbone.parameters(), "lr": 1e-5}]
    assert codes(model, AdamW(groups)) == []


def test_two_towers_have_no_order():
    towers = nn.ModuleDict({"image": look_trained(Net()), "text": look_trained(Net())})
    groups = [
        {"params": towers["image"].parameters(), "lr": 1e-4},
        {"params": towers["text"].parameters(), "lr": 1e-5},
    ]
    assert codes(towers, AdamW(groups)) == []


# -- FC304 --------------------------------------------------------------------


def unfreezing(lr: float | None = None, epochs: int = 20) -> tuple[Any, Optimizer, Any]:
    """A head trained alone for some epochs under StepLR, then layer4 added."""
    model = pretrained()
    for p in backbone(model):
        p.requires_grad = False
    optimizer = SGD(model.fc.parameters(), lr=0.1, momentum=0.9)
    scheduler = schedules.StepLR(optimizer, 10)
    for _ in range(epochs):
        step(model, optimizer)
        scheduler.step()
    model.layer4.requires_grad_(True)
    given = {} if lr is None else {"lr": lr}
    optimizer.add_param_group({"params": list(model.layer4.parameters()), **given})
    return model, optimizer, scheduler


def test_added_at_the_first_rate():
    model, optimizer, scheduler = unfreezing()
    for given in (None, scheduler):
        (finding,) = findings(model, optimizer, given)
        assert finding.code == "FC304"
        assert "took the constructor's 0.1" in finding.message
        assert "come down to 0.001" in finding.message
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.001, 0.1])


def test_added_at_a_rate_of_its_own_or_before_any_decay():
    assert codes(*unfreezing(lr=0.0005)) == []
    assert codes(*unfreezing(epochs=3)) == []


def test_added_before_the_scheduler_exists():
    model = pretrained()
    optimizer = SGD([{"params": backbone(model), "lr": 1e-4}], lr=1e-2, momentum=0.9)
    optimizer.add_param_group({"params": list(model.fc.parameters())})
    assert codes(model, optimizer) == []
    scheduler = schedules.StepLR(optimizer, 1)
    for _ in range(3):
        step(model, optimizer)
        scheduler.step()
    assert codes(model, optimizer, scheduler) == []


def test_added_during_a_warm_up():
    model = pretrained()
    optimizer = SGD([{"params": backbone(model)}], lr=1e-2, momentum=0.9)
    scheduler = schedules.LinearLR(optimizer, 0.1, total_iters=50)
    optimizer.add_param_group({"params": list(model.fc.parameters())})
    assert "FC304" not in codes(model, optimizer, scheduler)


LOWERED = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
for group in optimizer.param_groups:
    group["lr"] *= FACTOR
optimizer.add_param_group({"params": model[0].parameters()GIVEN})
loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0]))
loss.backward()
optimizer.step()
"""


def test_rates_lowered_by_hand_are_seen_in_a_recorded_run():
    (finding,) = recorded(LOWERED.replace("FACTOR", "0.01").replace("GIVEN", ""))
    assert (finding.code, finding.site.line) == ("FC304", 9)
    assert recorded(LOWERED.replace("FACTOR", "0.01").replace("GIVEN", ', "lr": 0.1')) == []
    assert recorded(LOWERED.replace("FACTOR", "1.0").replace("GIVEN", "")) == []


# -- FC305 --------------------------------------------------------------------


def test_a_scheduler_of_the_optimizer_before():
    model = pretrained()
    old = SGD(model.fc.parameters(), lr=0.1)
    scheduler = schedules.StepLR(old, 1)
    new = SGD(model.parameters(), lr=0.01)
    (finding,) = findings(model, new, scheduler)
    assert (finding.code, finding.severity) == ("FC305", Severity.ERROR)
    assert "keeps its rate of 0.01 for ever" in finding.message
    for _ in range(5):
        step(model, new)
        scheduler.step()
    assert new.param_groups[0]["lr"] == 0.01
    assert scheduler.get_last_lr()[0] < 0.1


def test_a_scheduler_of_another_models_optimizer():
    model, other = pretrained(), pretrained()
    scheduler = schedules.StepLR(SGD(other.parameters(), lr=0.01), 1)
    assert codes(model, SGD(model.parameters(), lr=0.01), scheduler) == ["FC305"]


def test_schedulers_of_optimizers_that_were_not_given():
    """One part of a GAN inspected, with the schedulers of both."""
    first, second = Net(), Net()
    one, two = SGD(first.parameters(), lr=0.1), SGD(second.parameters(), lr=0.1)
    both = {"s1": schedules.StepLR(one, 1), "s2": schedules.StepLR(two, 1)}
    assert codes(first, one, both) == []
    assert codes({"a": first, "b": second}, {"o1": one, "o2": two}, both) == []


def test_a_scheduler_on_the_optimizer_within():
    class Lookahead(Optimizer):
        """Shares the groups of the optimizer that does the work, as its original does."""

        def __init__(self, inner: Optimizer) -> None:
            self.inner, self.defaults, self.state = inner, inner.defaults, inner.state
            self.param_groups = inner.param_groups

        def step(self, closure: Any = None) -> Any:
            return self.inner.step(closure)

    model = Net()
    inner = SGD(model.parameters(), lr=0.1)
    scheduler = schedules.StepLR(inner, 1)
    assert codes(model, Lookahead(inner), scheduler) == []


def test_something_with_a_step_and_no_optimizer():
    class Plain:
        def step(self) -> None:
            pass

    model = Net()
    assert codes(model, SGD(model.parameters(), lr=0.1), Plain()) == []


PHASES = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
whole = torch.optim.SGD(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.StepLR(whole, 5)
head = torch.optim.SGD(model[2].parameters(), lr=0.1)
for optimizer in (head, whole):
    for epoch in range(6):
        loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


def test_an_optimizer_that_waits_for_its_phase():
    assert recorded(PHASES) == []
    assert recorded(PHASES.replace("whole", "optimizer_all").replace("head", "o")) == []


# -- FC306 --------------------------------------------------------------------


def late(build: Any, **group: Any) -> tuple[Any, Optimizer, Any]:
    model = Net()
    optimizer = SGD(model.fc.parameters(), lr=0.1, momentum=0.9)
    scheduler = build(optimizer)
    optimizer.add_param_group({"params": backbone(model), "lr": 0.02, **group})
    return model, optimizer, scheduler


BREAKS = {
    "LambdaLR": lambda o: schedules.LambdaLR(o, lambda e: 0.9**e),
    "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, lambda e: 0.9),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 5),
    "CyclicLR": lambda o: schedules.CyclicLR(o, 0.01, 0.1, step_size_up=5),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, 0.1, total_steps=10),
    "in a sequence": lambda o: schedules.SequentialLR(
        o, [schedules.LambdaLR(o, lambda e: 0.9**e), schedules.ExponentialLR(o, 0.9)], [3]
    ),
}
HOLDS = {
    "StepLR": lambda o: schedules.StepLR(o, 1),
    "MultiStepLR": lambda o: schedules.MultiStepLR(o, [1, 2]),
    "ExponentialLR": lambda o: schedules.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 10),
    "PolynomialLR": lambda o: schedules.PolynomialLR(o, 10),
    "in a chain": lambda o: schedules.ChainedScheduler([schedules.ExponentialLR(o, 0.9)]),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_group_that_the_scheduler_does_not_know(name: str):
    model, optimizer, scheduler = late(BREAKS[name])
    (finding,) = findings(model, optimizer, scheduler)
    assert (finding.code, finding.severity) == ("FC306", Severity.ERROR)
    step(model, optimizer)
    outcome = "keeps its rate of 0.02 for ever"
    try:
        scheduler.step()
    except Exception as error:
        outcome = f"raises a {type(error).__name__}"
    assert outcome in finding.message
    assert optimizer.param_groups[1]["lr"] == 0.02


@pytest.mark.parametrize("name", HOLDS)
def test_schedulers_that_work_on_the_groups_as_they_are(name: str):
    model, optimizer, scheduler = late(HOLDS[name])
    assert codes(model, optimizer, scheduler) == []
    for _ in range(3):
        step(model, optimizer)
        scheduler.step()
    assert optimizer.param_groups[1]["lr"] < 0.02


@pytest.mark.parametrize("name", BREAKS)
def test_groups_added_before_the_scheduler(name: str):
    model = Net()
    optimizer = SGD(model.fc.parameters(), lr=0.1, momentum=0.9)
    optimizer.add_param_group({"params": backbone(model), "lr": 0.1})
    assert codes(model, optimizer, BREAKS[name](optimizer)) == []


@pytest.mark.parametrize(
    ("version", "words"),
    [("2.4.1", "in silence"), ("2.9.0+cu128", "in silence"), ("2.10.0", "ValueError")],
)
def test_what_happens_depends_on_torch(version: str, words: str):
    model, optimizer, scheduler = late(BREAKS["LambdaLR"])
    now = capture({"m": model}, {"o": optimizer}, {"s": scheduler})
    now.torch = version
    (finding,) = check(RULES, snapshots=[now])
    assert words in finding.message


# -- FC307 --------------------------------------------------------------------

FLATTENED = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(
    [
        {"params": model[0].parameters(), "lr": LOW},
        {"params": model[2].parameters(), "lr": 0.01, "weight_decay": 0.1},
    ],
    lr=0.01,
    momentum=0.9,
)
scheduler = torch.optim.lr_scheduler.SCHEDULER
loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0]))
loss.backward()
optimizer.step()
scheduler.step()
"""


@pytest.mark.parametrize("low", ["0.0001", "0.0"])
@pytest.mark.parametrize(
    "scheduler",
    [
        "OneCycleLR(optimizer, 0.01, total_steps=100)",
        "CyclicLR(optimizer, 0.001, 0.01)",
        "CyclicLR(optimizer, [0.001, 0.002], 0.01)",
    ],
)
def test_rates_overwritten_by_one_maximum(low: str, scheduler: str):
    code = FLATTENED.replace("LOW", low).replace("SCHEDULER", scheduler)
    (finding,) = recorded(code)
    assert (finding.code, finding.severity, finding.site.line) == ("FC307", Severity.ERROR, 14)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    tops = [g["lr"] for g in namespace["optimizer"].param_groups]
    for _ in range(90 if "One" in scheduler else 2100):
        namespace["optimizer"].step()
        namespace["scheduler"].step()
        rates = [g["lr"] for g in namespace["optimizer"].param_groups]
        tops = [max(pair) for pair in zip(tops, rates)]
    assert tops == pytest.approx([0.01, 0.01], rel=0.01)


@pytest.mark.parametrize(
    ("low", "scheduler"),
    [
        ("0.01", "OneCycleLR(optimizer, 0.02, total_steps=100)"),
        ("0.0001", "OneCycleLR(optimizer, [0.0001, 0.01], total_steps=100)"),
        ("0.0001", "CyclicLR(optimizer, 1e-5, [0.0001, 0.01])"),
        ("0.0001", "CosineAnnealingLR(optimizer, 100)"),
    ],
)
def test_rates_that_are_kept(low: str, scheduler: str):
    assert recorded(FLATTENED.replace("LOW", low).replace("SCHEDULER", scheduler)) == []


def test_without_a_record_only_a_head_parted_from_a_pretrained_backbone():
    model = pretrained()
    optimizer = AdamW(split(model, 1e-5, 1e-3))
    scheduler = schedules.OneCycleLR(optimizer, 1e-3, total_steps=100)
    (finding,) = findings(model, optimizer, scheduler)
    assert (finding.code, finding.severity) == ("FC307", Severity.WARNING)

    small = AdamW(split(model, 1e-5, 1e-5))
    assert codes(model, small, schedules.OneCycleLR(small, 5e-5, total_steps=100)) == []

    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    by_decay = AdamW([{"params": decay}, {"params": rest, "weight_decay": 0.0}], lr=1e-3)
    scheduler = schedules.OneCycleLR(by_decay, 1e-3, total_steps=100)
    assert codes(model, by_decay, scheduler) == ["FC301"]

    scratch = Net()
    optimizer = AdamW(split(scratch, 1e-3, 1e-3))
    assert codes(scratch, optimizer, schedules.OneCycleLR(optimizer, 1e-3, total_steps=9)) == []


# -- FC308 --------------------------------------------------------------------


def with_floor(o: Any) -> Any:
    parts = [
        schedules.LinearLR(o, 0.1, total_iters=5),
        schedules.CosineAnnealingLR(o, 20, eta_min=1e-5),
    ]
    return schedules.SequentialLR(o, parts, [5])


@pytest.mark.parametrize(
    "build",
    [
        lambda o: schedules.CosineAnnealingLR(o, 20, eta_min=1e-5),
        lambda o: schedules.CosineAnnealingWarmRestarts(o, 20, eta_min=1e-5),
        with_floor,
    ],
)
def test_a_floor_above_a_rate(build: Any):
    model = Net()
    optimizer = SGD(split(model, 1e-6, 1e-2, momentum=0.9))
    scheduler = build(optimizer)
    (finding,) = findings(model, optimizer, scheduler)
    assert finding.code == "FC308"
    assert "param_groups[0] from 1e-06 to 1e-05" in finding.message
    highest = 0.0
    for _ in range(19):
        scheduler.step()
        highest = max(highest, optimizer.param_groups[0]["lr"])
    assert highest > 5e-6


def test_a_floor_below_or_at_every_rate_or_above_a_frozen_group():
    model = Net()
    optimizer = SGD(split(model, 1e-5, 1e-2))
    for floor in (0.0, 1e-6, 1e-5):
        assert codes(model, optimizer, schedules.CosineAnnealingLR(optimizer, 20, floor)) == []
    model.requires_grad_(False)
    model.fc.requires_grad_(True)
    assert codes(model, optimizer, schedules.CosineAnnealingLR(optimizer, 20, 1e-4)) == []


# -- FC309 --------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        lambda o: schedules.CosineAnnealingLR(o, 10),
        lambda o: schedules.CosineAnnealingLR(o, 10, eta_min=1e-6),
        lambda o: schedules.PolynomialLR(o, 10),
        lambda o: schedules.LinearLR(o, 1.0, 0.0, total_iters=10),
    ],
)
def test_a_schedule_that_begins_where_the_last_one_ended(build: Any):
    model = pretrained()
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = build(optimizer)
    for _ in range(10):
        step(model, optimizer)
        scheduler.step()
    scheduler = build(optimizer)
    (finding,) = findings(model, optimizer, scheduler)
    assert (finding.code, finding.severity) == ("FC309", Severity.ERROR)
    highest = 0.0
    for _ in range(10):
        step(model, optimizer)
        scheduler.step()
        highest = max(highest, optimizer.param_groups[0]["lr"])
    assert highest < 1e-5


def test_a_schedule_on_its_way_or_on_a_new_optimizer():
    model = pretrained()
    for epochs in (0, 5, 9):
        optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
        scheduler = schedules.CosineAnnealingLR(optimizer, 10)
        for _ in range(epochs):
            step(model, optimizer)
            scheduler.step()
        assert codes(model, optimizer, scheduler) == []
    assert codes(model, optimizer, schedules.CosineAnnealingLR(optimizer, 10)) == []


def test_the_end_of_a_schedule_is_no_defect():
    model = pretrained()
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = schedules.CosineAnnealingLR(optimizer, 5)
    for _ in range(5):
        step(model, optimizer)
        scheduler.step()
    assert codes(model, optimizer, scheduler) == []


def test_warm_up_from_nearly_nothing_beside_a_cosine():
    """As torchvision's detection reference does it."""
    model = pretrained()
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    cosine = schedules.CosineAnnealingLR(optimizer, 10)
    warm = schedules.LinearLR(optimizer, 1e-3, total_iters=100)
    step(model, optimizer)
    assert codes(model, optimizer, cosine) == []
    assert codes(model, optimizer, {"cosine": cosine, "warm": warm}) == []


def test_a_group_held_at_zero_by_hand_under_a_cosine():
    model = pretrained()
    optimizer = SGD(split(model, 1e-3, 1e-2, momentum=0.9))
    scheduler = schedules.CosineAnnealingLR(optimizer, 10)
    step(model, optimizer)
    optimizer.param_groups[0]["lr"] = 0.0
    assert "FC309" not in codes(model, optimizer, scheduler)


BY_HAND = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
FIRST
SET
scheduler = torch.optim.lr_scheduler.SECOND
loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0]))
loss.backward()
optimizer.step()
"""
FIRST = "scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda e: 0.9**e)"
SET = "optimizer.param_groups[0]['lr'] = 1e-3"


def by_hand(first: str, hand: str, second: str) -> list[str]:
    code = BY_HAND.replace("FIRST", first).replace("SET", hand).replace("SECOND", second)
    return [finding.code for finding in recorded(code)]


@pytest.mark.parametrize(
    "second",
    ["LambdaLR(optimizer, lambda e: 0.9**e)", "CosineAnnealingWarmRestarts(optimizer, 10)"],
)
def test_a_rate_set_by_hand_and_overwritten(second: str):
    assert by_hand(FIRST, SET, second) == ["FC309"]
    namespace: dict[str, Any] = {}
    code = BY_HAND.replace("FIRST", FIRST).replace("SET", SET).replace("SECOND", second)
    exec(code, namespace)
    assert namespace["optimizer"].param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    ("first", "hand", "second"),
    [
        ("", SET, "LambdaLR(optimizer, lambda e: 0.9**e)"),
        (FIRST, "", "LambdaLR(optimizer, lambda e: 0.9**e)"),
        (FIRST, SET, "CosineAnnealingLR(optimizer, 10)"),
        (FIRST, SET, "StepLR(optimizer, 10)"),
        (FIRST, SET, "OneCycleLR(optimizer, 0.001, total_steps=10)"),
        (FIRST, "optimizer.param_groups[0]['lr'] = 0.1", "LambdaLR(optimizer, lambda e: 0.9)"),
        (
            FIRST,
            "optimizer.param_groups[0].update(lr=1e-3, initial_lr=1e-3)",
            "LambdaLR(optimizer, lambda e: 0.9**e)",
        ),
        (
            FIRST,
            "optimizer.load_state_dict(torch.optim.SGD(model.parameters(), lr=0.5).state_dict())",
            "LambdaLR(optimizer, lambda e: 0.9**e)",
        ),
        (
            "scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1)",
            "",
            "CosineAnnealingWarmRestarts(optimizer, 10)",
        ),
    ],
)
def test_schedulers_built_one_after_the_other(first: str, hand: str, second: str):
    assert by_hand(first, hand, second) == []


def test_averaging_beside_a_cosine():
    """The example in torch.optim's own documentation."""
    model = pretrained()
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = schedules.CosineAnnealingLR(optimizer, 300)
    swa = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.05)
    assert codes(model, optimizer, {"scheduler": scheduler, "swa": swa}) == []


# -- FC312 --------------------------------------------------------------------


def test_a_group_at_zero_beside_one_that_learns():
    model = pretrained()
    optimizer = AdamW(split(model, 0.0, 1e-3))
    for scheduler in (None, schedules.CosineAnnealingLR(optimizer, 10)):
        (finding,) = findings(model, optimizer, scheduler)
        assert (finding.code, finding.severity) == ("FC312", Severity.INFO)
    before = copy.deepcopy(model)
    step(model, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(backbone(before), backbone(model)))
    assert not torch.equal(before.stem[1].running_mean, model.stem[1].running_mean)
    assert optimizer.state[model.stem[0].weight]


def test_zero_for_a_while():
    model = pretrained()
    optimizer = AdamW(split(model, 1e-5, 1e-3))
    scheduler = schedules.LambdaLR(optimizer, [lambda e: min(1.0, e / 1000), lambda e: 1.0])
    assert codes(model, optimizer, scheduler) == []
    assert codes(model, optimizer) == []  # the scheduler was not given, its trace is seen
    everything = AdamW(model.parameters(), lr=0.0)
    assert codes(model, everything) == []


def test_frozen_tensors_at_zero():
    model = pretrained()
    optimizer = AdamW(split(model, 0.0, 1e-3))
    for p in backbone(model):
        p.requires_grad = False
    assert codes(model, optimizer) == []


# -- healthy setups -----------------------------------------------------------


def test_two_optimizers_with_their_schedulers():
    one, two = Net(), Net()
    opts = {"g": Adam(one.parameters(), 2e-4), "d": Adam(two.parameters(), 2e-4)}
    scheds = {k: schedules.LambdaLR(o, lambda e: 1 - e / 100) for k, o in opts.items()}
    assert codes({"G": one, "D": two}, opts, scheds) == []


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v3_small", "vit_b_16"])
def test_training_from_scratch(name: str):
    import torchvision

    with torch.device("meta"):
        model = getattr(torchvision.models, name)()
    assert codes(model, AdamW(model.parameters(), lr=1e-3)) == []
