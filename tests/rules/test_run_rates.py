"""FC3 and FC504 in a run that goes beyond its first step: rates at an unfreezing, groups that
come late, schedules past their end."""

from __future__ import annotations

import pytest
import torch
from recording import Recording, record

from freezecheck.check import check
from freezecheck.phases import Phase
from freezecheck.rules import fc504_compiled_graph_ignores_unfreeze

SETUP = """
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler as schedules
from weights import look_trained

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))

model = look_trained(Net()).eval()
model.fc = nn.Linear(8, 10)
model.requires_grad_(False)
model.fc.requires_grad_(True)

def train(optimizer, steps, scheduler=None):
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(6, 3, 8, 8)), torch.arange(6) % 3).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
"""
START = len(SETUP.splitlines())


def run(script: str) -> Recording:
    return record(SETUP + script, steps=None)


def found(recording: Recording, *codes: str) -> list[tuple[str, int, int | None]]:
    """Code, line in the script and step of what these rules (all of FC3, if none) find."""
    return [
        (f.code, f.site.line - START if f.site else 0, f.step)
        for f in recording.findings(codes or "FC3")
    ]


# -- FC303 ------------------------------------------------------------------------


def test_an_added_group_at_the_heads_rate():
    script = """
optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)
train(optimizer, 2)
model.layer2.requires_grad_(True)
optimizer.add_param_group({"params": model.layer2.parameters(), "lr": 1e-3})
train(optimizer, 2)
"""
    recording = run(script)
    assert found(recording) == [("FC303", 5, 3)]
    (finding,) = recording.findings("FC303")
    assert "frozen while the new fc was trained at 0.001, now learn at 0.001" in finding.message
    assert [n.site.line - START for n in finding.notes if n.site] == [4]


def test_unfrozen_within_the_only_group():
    script = """
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
train(optimizer, 2)
model.requires_grad_(True)
train(optimizer, 2)
"""
    assert found(run(script)) == [("FC303", 4, 3)]


def test_a_new_optimizer_whose_schedule_rises_to_the_heads_rate():
    script = """
train(torch.optim.AdamW(model.fc.parameters(), lr=1e-3), 2)
model.requires_grad_(True)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
train(optimizer, 2, schedules.LinearLR(optimizer, 0.01, total_iters=10))
"""
    assert found(run(script)) == [("FC303", 4, 3)]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            """
optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)
train(optimizer, 2)
model.layer2.requires_grad_(True)
optimizer.add_param_group({"params": model.layer2.parameters(), "lr": 1e-5})
train(optimizer, 2)
""",
            id="a rate of its own",
        ),
        pytest.param(
            """
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
train(optimizer, 2)
model.requires_grad_(True)
for group in optimizer.param_groups:
    group["lr"] = 1e-5
train(optimizer, 2)
""",
            id="lowered by hand",
        ),
        pytest.param(
            """
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scheduler = schedules.StepLR(optimizer, 2, gamma=0.01)
train(optimizer, 2, scheduler)
model.requires_grad_(True)
train(optimizer, 2, scheduler)
""",
            id="lowered by the schedule",
        ),
        pytest.param(
            """
optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-4)
train(optimizer, 2)
model.requires_grad_(True)
train(torch.optim.AdamW(model.parameters(), lr=1e-4), 2)
""",
            id="a small rate for both",
        ),
        pytest.param(
            """
train(torch.optim.AdamW(model.fc.parameters(), lr=1e-3), 2)
model.requires_grad_(True)
optimizer = torch.optim.AdamW(
    [{"params": model.fc.parameters(), "lr": 1e-3},
     {"params": [*model.layer1.parameters(), *model.layer2.parameters()], "lr": 1e-5}]
)
train(optimizer, 2)
""",
            id="groups of their own",
        ),
        pytest.param(
            """
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
train(optimizer, 2)
model.layer1[1].requires_grad_(True)
for m in model.layer2:
    m.bias.requires_grad_(True)
train(optimizer, 2)
""",
            id="norms and biases alone",
        ),
        pytest.param(
            """
model = Net().eval()
model.layer2.requires_grad_(False)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
train(optimizer, 2)
model.requires_grad_(True)
train(optimizer, 2)
""",
            id="from scratch",
        ),
    ],
)
def test_rates_that_are_lowered(script: str):
    assert found(run(script), "FC303") == []


# -- FC304, FC305, FC306, FC307, FC309 at an unfreezing -----------------------------


DECAYED = """
optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)
scheduler = schedules.StepLR(optimizer, 2)
train(optimizer, 5, scheduler)
model.layer2.requires_grad_(True)
optimizer.add_param_group({"params": model.layer2.parameters()})
train(optimizer, 2, scheduler)
"""


def test_a_group_added_after_the_decay():
    assert found(run(DECAYED)) == [("FC304", 6, 6)]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            DECAYED.replace(
                "optimizer.add", "before = optimizer.param_groups[0]['lr']\noptimizer.add"
            ).replace("parameters()})", "parameters(), 'lr': before})"),
            id="at the rate of the others",
        ),
        pytest.param(
            DECAYED.replace(
                "parameters()})", "parameters()})\noptimizer.param_groups[1]['lr'] = 1e-5"
            ),
            id="set by hand after that",
        ),
        pytest.param(
            DECAYED.replace("train(optimizer, 5", "train(optimizer, 1"), id="before any decay"
        ),
    ],
)
def test_a_group_added_at_a_rate_that_fits(script: str):
    assert found(run(script), "FC304") == []


def test_the_scheduler_stays_with_the_optimizer_of_the_first_phase():
    script = """
optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)
scheduler = schedules.StepLR(optimizer, 2)
train(optimizer, 3, scheduler)
model.layer2.requires_grad_(True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
train(optimizer, 6, scheduler)
"""
    assert found(run(script), "FC305") == [("FC305", 6, 4)]
    mended = script.replace("0.001)\n", "0.001)\nscheduler = schedules.StepLR(optimizer, 2)\n")
    assert found(run(mended), "FC305") == []


def test_a_group_that_the_scheduler_does_not_know():
    script = """
optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)
scheduler = schedules.LambdaLR(optimizer, lambda step: 0.9**step)
train(optimizer, 3, scheduler)
model.layer2.requires_grad_(True)
optimizer.add_param_group({"params": model.layer2.parameters(), "lr": 1e-4})
train(optimizer, 2)
"""
    assert found(run(script)) == [("FC306", 6, 4)]
    assert (
        found(
            run(script.replace("LambdaLR(optimizer, lambda step: 0.9**step", "StepLR(optimizer, 9"))
        )
        == []
    )


FLATTENED = """
optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)
train(optimizer, 2)
model.layer2.requires_grad_(True)
optimizer.add_param_group({"params": model.layer2.parameters(), "lr": 1e-4})
scheduler = schedules.OneCycleLR(optimizer, max_lr=0.01, total_steps=9)
train(optimizer, 2, scheduler)
"""


def test_one_maximum_for_the_second_phase():
    assert found(run(FLATTENED)) == [("FC307", 6, 3)]
    assert found(run(FLATTENED.replace("=0.01,", "=[0.01, 1e-4],"))) == []


def test_rates_at_which_a_cycle_ended_were_given_by_nobody():
    script = """
model.layer2.requires_grad_(True)
optimizer = torch.optim.SGD(
    [{"params": model.fc.parameters()}, {"params": model.layer2.parameters()}], lr=0.01
)
scheduler = schedules.OneCycleLR(optimizer, max_lr=[0.01, 1e-4], total_steps=3)
train(optimizer, 2, scheduler)
model.layer1.requires_grad_(True)
scheduler = schedules.OneCycleLR(optimizer, max_lr=1e-4, total_steps=9)
train(optimizer, 2, scheduler)
"""
    assert found(run(script), "FC307") == []


def test_a_second_schedule_that_overwrites_the_rate_set_by_hand():
    script = """
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
scheduler = schedules.LambdaLR(optimizer, lambda step: 1.0)
train(optimizer, 2, scheduler)
model.layer2.requires_grad_(True)
for group in optimizer.param_groups:
    group["lr"] = 1e-4
scheduler = schedules.LambdaLR(optimizer, lambda step: 1.0)
train(optimizer, 2, scheduler)
rate = optimizer.param_groups[0]["lr"]
"""
    recording = run(script)
    assert found(recording) == [("FC309", 8, 3)]
    assert recording.namespace["rate"] == 0.01
    mended = script.replace('group["lr"] =', 'group["lr"] = group["initial_lr"] =')
    assert found(run(mended)) == []


def test_a_second_cosine_that_stays_at_the_end_of_the_first():
    script = """
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
train(optimizer, 3, schedules.CosineAnnealingLR(optimizer, 3))
model.layer2.requires_grad_(True)
scheduler = schedules.CosineAnnealingLR(optimizer, 9)
train(optimizer, 3, scheduler)
rate = optimizer.param_groups[0]["lr"]
"""
    recording = run(script)
    assert found(recording) == [("FC309", 5, 4)]
    assert recording.namespace["rate"] < 1e-9


# -- FC310 ------------------------------------------------------------------------


def test_a_cosine_stepped_past_its_end():
    script = """
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
scheduler = schedules.CosineAnnealingLR(optimizer, T_max=4)
train(optimizer, 8, scheduler)
rate = optimizer.param_groups[0]["lr"]
"""
    recording = run(script)
    assert found(recording) == [("FC310", 3, 5)]
    assert recording.namespace["rate"] == pytest.approx(0.01)


def test_what_is_gone_when_the_run_ends():
    script = """
def main():
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(optimizer, 8, schedules.CosineAnnealingLR(optimizer, T_max=4))

main()
"""
    assert found(run(script)) == [("FC310", 4, 5)]


def test_a_cosine_that_is_a_part_of_a_schedule():
    script = """
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
warm_up = schedules.LinearLR(optimizer, 0.1, total_iters=2)
cosine = schedules.CosineAnnealingLR(optimizer, T_max=4)
scheduler = schedules.SequentialLR(optimizer, [warm_up, cosine], [2])
train(optimizer, 9, scheduler)
"""
    assert found(run(script)) == [("FC310", 5, 7)]


@pytest.mark.parametrize(
    "scheduler",
    [
        "schedules.CosineAnnealingLR(optimizer, T_max=12)",
        "schedules.CosineAnnealingLR(optimizer, T_max=11)",
        "schedules.CosineAnnealingWarmRestarts(optimizer, T_0=4)",
        "schedules.OneCycleLR(optimizer, max_lr=0.01, total_steps=13)",
        "schedules.StepLR(optimizer, 4)",
        "Held(optimizer, T_max=4)",
    ],
)
def test_schedules_that_end_where_they_should(scheduler: str):
    script = f"""
class Held(schedules.CosineAnnealingLR):
    def get_lr(self):
        return [0.0 for _ in self.base_lrs] if self.last_epoch >= self.T_max else super().get_lr()

optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
train(optimizer, 12, {scheduler})
"""
    assert found(run(script)) == []


@pytest.mark.parametrize(
    ("cut", "accumulates", "expected"),
    [(False, True, ["FC310"]), (True, False, ["FC310"]), (True, True, [])],
)
def test_epochs_that_are_cut_short_round_the_steps_of_accumulation(
    cut: bool, accumulates: bool, expected: list[str]
):
    script = """
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
train(optimizer, 8, schedules.CosineAnnealingLR(optimizer, T_max=4))
"""
    recording = run(script)
    for event in recording.timeline.of("overrun"):
        event.data.update(cut=cut, accumulates=accumulates)
    assert [f.code for f in recording.findings("FC3")] == expected


# -- FC311 ------------------------------------------------------------------------


WARM_UP = """
optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)
scheduler = schedules.LinearLR(optimizer, start_factor=0.1, total_iters=10)
train(optimizer, 3, scheduler)
model.layer2.requires_grad_(True)
optimizer.add_param_group({"params": model.layer2.parameters(), "lr": 0.001})
train(optimizer, 12, scheduler)
rate = optimizer.param_groups[1]["lr"]
"""


@pytest.mark.parametrize(
    "scheduler",
    [
        "schedules.LinearLR(optimizer, start_factor=0.1, total_iters=10)",
        "schedules.ConstantLR(optimizer, factor=0.3, total_iters=10)",
        "schedules.ChainedScheduler([schedules.LinearLR(optimizer, 0.1, total_iters=10)])",
    ],
)
def test_a_group_that_the_rest_of_the_warm_up_multiplies(scheduler: str):
    first = "schedules.LinearLR(optimizer, start_factor=0.1, total_iters=10)"
    recording = run(WARM_UP.replace(first, scheduler))
    assert found(recording) == [("FC311", 6, 4)]
    (finding,) = recording.findings("FC311")
    assert f"from 0.001 to {recording.namespace['rate']:g}," in finding.message


def test_a_warm_up_that_is_a_part_of_a_schedule():
    """torch itself ends at the milestone: the second part knows one group only."""
    script = WARM_UP.replace("12, scheduler", "5, scheduler").replace(
        "schedules.LinearLR(optimizer, start_factor=0.1, total_iters=10)",
        "schedules.SequentialLR(optimizer, [schedules.LinearLR(optimizer, 0.1, total_iters=10),"
        " schedules.ExponentialLR(optimizer, 0.9)], [10])",
    )
    assert found(run(script)) == [("FC311", 6, 4)]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(WARM_UP.replace("train(optimizer, 3,", "train(optimizer, 10,"), id="after it"),
        pytest.param(
            WARM_UP.replace('"lr": 0.001', '"lr": scheduler.get_last_lr()[0] / 10'),
            id="at a tenth of the rate of the moment",
        ),
        pytest.param(
            WARM_UP.replace(
                "LinearLR(optimizer, start_factor=0.1, total_iters=10)", "StepLR(optimizer, 9)"
            ),
            id="no warm-up",
        ),
        pytest.param(
            WARM_UP.replace(
                "schedules.LinearLR(optimizer, start_factor=0.1, total_iters=10)",
                "schedules.SequentialLR(optimizer, [schedules.LinearLR(optimizer, 0.1,"
                " total_iters=10), schedules.ExponentialLR(optimizer, 0.9)], [2])",
            ),
            id="a warm-up that was cut off",
        ),
    ],
)
def test_groups_that_come_at_the_right_time(script: str):
    assert found(run(script), "FC311") == []


# -- FC504 ------------------------------------------------------------------------


COMPILED = """
compiled = torch.compile(model)
optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)
train(optimizer, 2)
model.layer2.requires_grad_(True)
optimizer.add_param_group({"params": model.layer2.parameters(), "lr": 1e-4})
train(optimizer, 2)
"""


def unfrozen(torch_version: str, script: str = COMPILED) -> list[tuple[str, int, int | None]]:
    """What FC504 says of an unfreezing with some version of torch."""
    recording = run(script)
    for phase in recording.phases:
        phase.snapshot.torch = torch_version
    rule = fc504_compiled_graph_ignores_unfreeze.CompiledGraphIgnoresUnfreeze()
    phases: list[Phase] = recording.phases
    return [
        (f.code, f.site.line - START if f.site else 0, f.step)
        for f in check([rule], timeline=recording.timeline, phases=phases)
    ]


def test_an_unfreezing_that_a_compiled_graph_does_not_notice():
    assert unfrozen("2.9.1") == [("FC504", 5, 3)]
    assert unfrozen("2.10.0") == []
    assert unfrozen(torch.__version__) == []


@pytest.mark.parametrize(
    "script",
    [
        COMPILED.replace("compiled = torch.compile(model)\n", ""),
        COMPILED.replace("optimizer.add", "torch.compiler.reset()\noptimizer.add"),
        COMPILED.replace("layer2.requires_grad_(True)", "fc.requires_grad_(True)"),
    ],
    ids=["not compiled", "compiled anew", "nothing unfrozen"],
)
def test_graphs_that_are_right(script: str):
    assert unfrozen("2.9.1", script) == []
