"""The peaks that a snapshot foretells, against schedules that are really run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedules

from freezecheck.live.capture import capture
from freezecheck.snapshot import Scheduler, Snapshot


def setup(rates: tuple[float, ...] = (0.1, 0.01)) -> tuple[torch.nn.Module, torch.optim.SGD]:
    model = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in rates])
    groups = [{"params": layer.parameters(), "lr": lr} for layer, lr in zip(model, rates)]
    return model, torch.optim.SGD(groups, lr=1.0, momentum=0.9)


def record(model: Any, optimizer: Any, scheduler: Any) -> Scheduler:
    now = capture({"model": model}, {"optimizer": optimizer}, {"scheduler": scheduler})
    (found,) = Snapshot.from_dict(now.to_dict()).schedulers
    return found


def ran(optimizer: Any, scheduler: Any, steps: int) -> list[float]:
    tops = [float(g["lr"]) for g in optimizer.param_groups]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            scheduler.step()
            tops = [max(t, float(g["lr"])) for t, g in zip(tops, optimizer.param_groups)]
    return tops


def warm_cosine(o: Any) -> Any:
    warm = schedules.LinearLR(o, 0.01, total_iters=500)
    return schedules.SequentialLR(o, [warm, schedules.CosineAnnealingLR(o, 2000)], [500])


def chained(o: Any) -> Any:
    parts = [schedules.ConstantLR(o, 0.1, total_iters=20), schedules.ExponentialLR(o, 0.99)]
    return schedules.ChainedScheduler(parts, optimizer=o)


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "step": lambda o: schedules.StepLR(o, 30),
    "growing": lambda o: schedules.ExponentialLR(o, 1.01),
    "cosine": lambda o: schedules.CosineAnnealingLR(o, 100),
    "cosine with a high floor": lambda o: schedules.CosineAnnealingLR(o, 100, eta_min=0.05),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 50),
    "polynomial": lambda o: schedules.PolynomialLR(o, 100),
    "linear": lambda o: schedules.LinearLR(o, 1e-3, total_iters=100),
    "long linear": lambda o: schedules.LinearLR(o, 1e-3, total_iters=1500),
    "one cycle": lambda o: schedules.OneCycleLR(o, [1.0, 0.3], total_steps=1000),
    "three phases": lambda o: schedules.OneCycleLR(o, 1.0, total_steps=1000, three_phase=True),
    "cyclic": lambda o: schedules.CyclicLR(o, 0.01, [0.5, 0.2], step_size_up=400),
    "warm-up, then cosine": warm_cosine,
    "chained": chained,
    "multiplicative": lambda o: schedules.MultiplicativeLR(o, lambda e: 1.02 if e < 100 else 0.9),
    "transformers": lambda o: schedules.LambdaLR(
        o, lambda s: s / 700 if s < 700 else max(0.0, (7000 - s) / 6300)
    ),
    "noam": lambda o: schedules.LambdaLR(
        o, lambda s: 512**-0.5 * min((s + 1) ** -0.5, (s + 1) * 4000**-1.5)
    ),
    "list of factors": lambda o: schedules.LambdaLR(o, [0.1, 0.5, 2.0, 1.0].__getitem__),
}


@pytest.mark.parametrize("before", [0, 3, 60, 450])
@pytest.mark.parametrize("name", SCHEDULES)
def test_peak_is_what_the_schedule_reaches(name: str, before: int):
    model, optimizer = setup()
    scheduler = SCHEDULES[name](optimizer)
    if name == "list of factors" and before >= 3:
        pytest.skip("the list has ended")
    ran(optimizer, scheduler, before)
    kept = {k: str(v) for k, v in scheduler.__dict__.items() if k != "_schedulers"}
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    found = record(model, optimizer, scheduler)
    assert kept == {k: str(v) for k, v in scheduler.__dict__.items() if k != "_schedulers"}
    assert groups == [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    if name == "growing":
        assert found.peaks == ()  # without end
        return
    steps = {"list of factors": 3, "one cycle": 1000, "three phases": 1000}.get(name, 8000)
    if name == "multiplicative" and before == 0:
        steps = 300  # it shrinks to nothing
    if name.startswith("cosine") and before < 100:
        steps = 100  # after T_max it climbs back, which is not meant
    real = ran(optimizer, scheduler, max(0, steps - before))
    assert found.peaks == pytest.approx(real, rel=0.02), (name, before)


KNOWN_TO_FALL = (
    "cosine",
    "polynomial",
    "one cycle",
    "three phases",
    "warm-up, then cosine",
    "transformers",
)


@pytest.mark.parametrize("name", [*KNOWN_TO_FALL, "growing", "cosine with a high floor", "linear"])
def test_whether_rates_come_down_is_what_the_schedule_does(name: str):
    model, optimizer = setup()
    scheduler = SCHEDULES[name](optimizer)
    found = record(model, optimizer, scheduler)
    assert found.falls == (name in KNOWN_TO_FALL)
    length = {
        "cosine": 100,
        "cosine with a high floor": 100,
        "polynomial": 100,
        "transformers": 7000,
    }
    rates = []
    for _ in range(length.get(name, 999)):
        ran(optimizer, scheduler, 1)
        rates.append(optimizer.param_groups[0]["lr"])
    if "warm-up" in name:
        ran(optimizer, scheduler, 1500)
        rates.append(optimizer.param_groups[0]["lr"])
    assert (rates[-1] <= 0.1 * max(rates)) == found.falls


def test_plateau_never_rises():
    model, optimizer = setup()
    found = record(model, optimizer, schedules.ReduceLROnPlateau(optimizer))
    assert found.peaks == (0.1, 0.01)


def test_a_rate_in_a_tensor_is_left_alone():
    model = torch.nn.Linear(2, 2)
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    scheduler = schedules.LinearLR(optimizer, 0.5, total_iters=10)
    found = record(model, optimizer, scheduler)
    assert found.peaks == pytest.approx((0.1,))
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.05)


def test_a_callable_that_counts_is_copied():
    class Counter:
        calls = 0

        def __call__(self, epoch: int) -> float:
            self.calls += 1
            return 1 / self.calls

    model, optimizer = setup((0.1,))
    counter = Counter()
    scheduler = schedules.LambdaLR(optimizer, counter)
    record(model, optimizer, scheduler)
    assert counter.calls == 1


def test_a_scheduler_of_ones_own_is_not_run():
    class Loud(schedules.LRScheduler):
        def get_lr(self) -> list[float]:
            calls.append(self.last_epoch)
            return list(self.base_lrs)

    calls: list[int] = []
    model, optimizer = setup()
    assert record(model, optimizer, Loud(optimizer)).peaks == ()
    assert calls == [0]


def test_parts_of_a_sequence():
    model, optimizer = setup()
    found = record(model, optimizer, warm_cosine(optimizer))
    assert [part.type for part in found.simple] == ["LinearLR", "CosineAnnealingLR"]
    assert found.simple[1].options["T_max"] == 2000
    assert found.base_lrs == (0.1, 0.01)
    assert not math.isnan(sum(found.peaks))


def test_a_cosine_on_its_way_down_stays_there():
    model, optimizer = setup()
    scheduler = warm_cosine(optimizer)
    ran(optimizer, scheduler, 2400)
    assert record(model, optimizer, scheduler).peaks == tuple(
        g["lr"] for g in optimizer.param_groups
    )
