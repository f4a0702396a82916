"""FC4 in a run that goes beyond its first step: modes that a validation leaves behind or
does not set, averages of weights, and look-alikes that stay silent."""

from __future__ import annotations

import pytest
import torch
from recording import Recording, record

SETUP = """
import copy
import torch
from torch import nn
from torch.nn import functional as F
from weights import look_trained

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.1))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))

model = look_trained(Net())
train_loader = [(torch.randn(6, 3, 8, 8), torch.arange(6) % 3) for _ in range(2)]
val_loader = [(torch.randn(6, 3, 8, 8), torch.arange(6) % 3)]
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

def train_epoch(model):
    for images, labels in train_loader:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

def validate(model):
    with torch.no_grad():
        for images, labels in val_loader:
            model(images)

def freeze_bn(model):
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()
"""
START = len(SETUP.splitlines())


def run(script: str) -> Recording:
    return record(SETUP + script, steps=None)


def found(recording: Recording, *codes: str) -> list[tuple[str, int, int | None]]:
    """Code, line in the script and step of what these rules (all of FC4, if none) find."""
    return [
        (f.code, f.site.line - START if f.site else 0, f.step)
        for f in recording.findings(codes or "FC4")
    ]


# -- FC403 ------------------------------------------------------------------------


STUCK = """
model.train()
for epoch in range(3):
    train_epoch(model)
    model.eval()
    validate(model)
"""


def test_eval_mode_that_a_validation_leaves_behind():
    recording = run(STUCK)
    assert found(recording) == [("FC403", 5, 3)]
    (finding,) = recording.findings("FC4")
    assert [n.message for n in finding.notes] == ["validated here", "its weights are changed here"]


def test_what_the_finding_says_is_so():
    """The weights go on moving, the statistics do not."""
    watch = "    seen.append((model.fc.weight.clone(), model.layer1[1].running_mean.clone()))\n"
    seen = run("seen = []\n" + STUCK + watch).namespace["seen"]
    (_, first), (w2, second), (w3, third) = seen
    assert torch.equal(first, second)
    assert torch.equal(second, third)
    assert not torch.equal(w2, w3)


def test_validation_in_a_function_that_switches_to_eval():
    script = """
def evaluate(model):
    model.eval()
    validate(model)

for epoch in range(2):
    train_epoch(model)
    evaluate(model)
    evaluate(model)
"""
    assert found(run(script)) == [("FC403", 3, 3)]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            """
for epoch in range(3):
    model.train()
    train_epoch(model)
    model.eval()
    validate(model)
""",
            id="train mode again in every epoch",
        ),
        pytest.param(
            """
model.eval()
for epoch in range(3):
    train_epoch(model)
    model.eval()
    validate(model)
""",
            id="eval mode from the start",
        ),
        pytest.param(
            """
def evaluate(model):
    before = model.training
    model.eval()
    validate(model)
    model.train(before)

for epoch in range(3):
    train_epoch(model)
    evaluate(model)
""",
            id="the mode is put back",
        ),
        pytest.param(
            """
train_epoch(model)
model.eval()
train_epoch(model)
""",
            id="a second phase in eval mode, without a validation",
        ),
        pytest.param(
            """
train_epoch(model)
model.eval()
validate(model)
model.train()
model.eval()
train_epoch(model)
""",
            id="eval mode chosen after the validation",
        ),
        pytest.param(
            """
teacher = copy.deepcopy(model)
for epoch in range(3):
    train_epoch(model)
    teacher.eval()
    validate(teacher)
""",
            id="a teacher",
        ),
        pytest.param(
            """
train_epoch(model)
model.layer1.eval()
validate(model.layer1)
train_epoch(model)
""",
            id="a part put in eval mode",
        ),
    ],
)
def test_modes_that_are_meant(script: str):
    assert found(run(script), "FC403", "FC404") == []


# -- FC405 ------------------------------------------------------------------------


def test_validation_in_train_mode():
    script = """
model.train()
for epoch in range(3):
    train_epoch(model)
    validate(model)
"""
    line = SETUP.splitlines().index("            model(images)") + 1 - START
    assert found(run(script)) == [("FC405", line, 2)]


def test_validation_data_moves_the_statistics():
    script = """
train_epoch(model)
before = model.layer1[1].running_mean.clone()
for images, labels in val_loader:
    with torch.no_grad():
        model(images)
moved = not torch.equal(before, model.layer1[1].running_mean)
"""
    recording = run(script)
    assert found(recording) == [("FC405", 6, 2)]
    assert recording.namespace["moved"]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("model.eval()\nvalidate(model)", id="eval mode"),
        pytest.param(
            "model.train()\nvalidate(model)", id="train mode on purpose, as detectors want"
        ),
        pytest.param("freeze_bn(model)\nvalidate(model)", id="dropout alone"),
        pytest.param(
            "for images, _ in train_loader:\n    with torch.no_grad():\n        model(images)",
            id="statistics computed anew on the training data",
        ),
        pytest.param(
            "averaged = torch.optim.swa_utils.AveragedModel(model)\n"
            "torch.optim.swa_utils.update_bn(val_loader, averaged)",
            id="update_bn",
        ),
        pytest.param(
            "teacher = copy.deepcopy(model)\nvalidate(teacher)", id="a mean teacher in train mode"
        ),
        pytest.param(
            "def adapt_bn(model):\n    validate(model)\nadapt_bn(model)",
            id="adaptation to new data",
        ),
        pytest.param(
            "def mc_dropout(model):\n    validate(model)\nmc_dropout(model)",
            id="samples of dropout",
        ),
        pytest.param(
            "def test_model():\n    with torch.no_grad():\n        model(torch.randn(6, 3, 8, 8))\n",
            id="never called",
        ),
    ],
)
def test_train_mode_that_is_meant(script: str):
    assert found(run(f"train_epoch(model)\n{script}\ntrain_epoch(model)\n"), "FC405") == []


@pytest.mark.parametrize("meant", [False, True])
def test_a_model_that_is_gone_when_the_run_ends(meant: bool):
    """What was heard of it is kept, and so are the modes that were set before."""
    script = f"""
def main():
    model = look_trained(Net())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    F.cross_entropy(model(torch.randn(6, 3, 8, 8)), torch.arange(6) % 3).backward()
    optimizer.step()
    if {meant}:
        model.train()
    for images, _ in val_loader:
        with torch.no_grad():
            model(images)

main()
"""
    assert found(run(script), "FC405") == ([] if meant else [("FC405", 11, 1)])


def test_before_the_first_step_nothing_has_been_trained():
    assert found(run("validate(model)\nmodel.eval()\ntrain_epoch(model)\n"), "FC405") == []


# -- FC411 ------------------------------------------------------------------------


AVERAGE = """
class Average:
    def __init__(self, model):
        self.copy = copy.deepcopy(model).eval()

    def update(self, model):
        with torch.no_grad():
            for mean, p in zip(self.copy.parameters(), model.parameters()):
                mean.data.mul_(0.9).add_(p.data, alpha=0.1)

average = Average(model)
before = copy.deepcopy(average.copy)
for epoch in range(3):
    model.train()
    train_epoch(model)
    average.update(model)
    validate(average.copy)
"""


def test_an_average_without_its_statistics():
    recording = run(AVERAGE)
    line = SETUP.splitlines().index("            model(images)") + 1 - START
    assert found(recording) == [("FC411", line, 4)]
    before, after = recording.namespace["before"], recording.namespace["average"].copy
    moved = [not torch.equal(p, q) for p, q in zip(before.parameters(), after.parameters())]
    assert all(moved)
    assert all(torch.equal(b, c) for b, c in zip(before.buffers(), after.buffers()))


def test_what_the_average_is_called():
    script = AVERAGE.replace("average = Average(model)", "ema = Average(model).copy")
    script = script.replace("average.copy", "ema").replace("average.", "Average.")
    script = script.replace(
        "Average.update(model)", "Average.update(SimpleNamespace(copy=ema), model)"
    )
    (finding,) = run("from types import SimpleNamespace\n" + script).findings("FC411")
    assert finding.symbol == "ema"
    assert finding.message.startswith("ema follows the parameters of model, and not its buffers")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            AVERAGE.replace(
                "    average.update(model)\n",
                "    average.update(model)\n"
                "    for mean, b in zip(average.copy.buffers(), model.buffers()):\n"
                "        mean.copy_(b)\n",
            ),
            id="buffers copied",
        ),
        pytest.param(
            AVERAGE.replace(
                "average.update(model)", "average.copy.load_state_dict(model.state_dict())"
            ),
            id="the whole state copied",
        ),
        pytest.param(
            AVERAGE.replace(
                "    validate(average.copy)",
                "    average.copy.train()\n    validate(average.copy)\n    average.copy.eval()\n"
                "    validate(average.copy)",
            ),
            id="statistics measured before each evaluation",
        ),
        pytest.param(AVERAGE.replace("    average.update(model)\n", ""), id="a frozen teacher"),
        pytest.param(AVERAGE.replace("model.train()", "model.eval()"), id="statistics that rest"),
        pytest.param(
            """
average = torch.optim.swa_utils.AveragedModel(model)
for epoch in range(3):
    model.train()
    train_epoch(model)
    average.update_parameters(model)
    average.eval()
    validate(average)
""",
            id="AveragedModel, which copies buffers",
        ),
        pytest.param(
            """
other = look_trained(Net())
second = torch.optim.SGD(other.parameters(), lr=1e-3)
for epoch in range(3):
    train_epoch(model)
    other.eval()
    validate(other)
    F.cross_entropy(other(torch.randn(6, 3, 8, 8)), torch.arange(6) % 3).backward()
    second.step()
""",
            id="a second model with an optimizer of its own",
        ),
    ],
)
def test_copies_that_are_complete(script: str):
    assert found(run(script), "FC411") == []


# -- FC402 ------------------------------------------------------------------------


UNDONE = """
model.train()
freeze_bn(model)
for epoch in range(3):
    train_epoch(model)
    model.eval()
    validate(model)
    model.train()
"""


@pytest.mark.parametrize("frozen", ["", "model.layer1.requires_grad_(False)\n"])
def test_undone_by_the_validation_of_the_first_epoch(frozen: str):
    recording = run(frozen + UNDONE)
    line = 8 if not frozen else 9
    assert found(recording, "FC402") == [("FC402", line, 3)]


def test_the_statistics_rest_for_one_epoch_only():
    watch = "    seen.append(model.layer1[1].running_mean.clone())\n"
    script = "seen = [model.layer1[1].running_mean.clone()]\n" + UNDONE + watch
    start, first, second, _ = run(script).namespace["seen"]
    assert torch.equal(start, first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            """
for epoch in range(3):
    model.train()
    freeze_bn(model)
    train_epoch(model)
    model.eval()
    validate(model)
""",
            id="put in eval mode again in every epoch",
        ),
        pytest.param(
            """
for epoch in range(4):
    model.train()
    if epoch < 2:
        freeze_bn(model)
    train_epoch(model)
""",
            id="for the first epochs",
        ),
        pytest.param(
            """
model.layer1.requires_grad_(False)
model.train()
freeze_bn(model)
train_epoch(model)
model.layer1.requires_grad_(True)
model.train()
train_epoch(model)
""",
            id="until the layers are unfrozen",
        ),
        pytest.param(
            """
model.train()
freeze_bn(model)
train_epoch(model)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
model.train()
train_epoch(model)
""",
            id="until the second stage",
        ),
    ],
)
def test_eval_that_was_meant_to_end(script: str):
    assert found(run(script), "FC402") == []


# -- FC410 ------------------------------------------------------------------------


CHECKPOINTED = """
from torch.utils.checkpoint import checkpoint

class Twice(Net):
    def forward(self, x):
        x = checkpoint(self.layer1, x, use_reentrant={reentrant})
        return self.fc(self.layer2(x).mean((2, 3)))

model = look_trained(Twice())
before = [m.num_batches_tracked.item() for m in (model.layer1[1], model.layer2[1])]
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
x = torch.randn(6, 3, 8, 8, requires_grad=True)
F.cross_entropy(model(x), torch.arange(6) % 3).backward()
optimizer.step()
after = [m.num_batches_tracked.item() for m in (model.layer1[1], model.layer2[1])]
"""


@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_that_a_checkpoint_runs_twice(reentrant: bool):
    recording = run(CHECKPOINTED.format(reentrant=reentrant))
    before, after = recording.namespace["before"], recording.namespace["after"]
    assert [new - old for new, old in zip(after, before)] == [2, 1]
    (finding,) = recording.findings("FC410")
    assert finding.symbol == "layer1.1"
    assert "1 BatchNorm layer of model (layer1.1)" in finding.message


@pytest.mark.parametrize(
    "change", ["model.layer1.eval()", "model.layer1[1].momentum = 1 - 0.9**0.5"]
)
def test_layers_that_may_be_run_twice(change: str):
    script = CHECKPOINTED.format(reentrant=False).replace("x = torch", f"{change}\nx = torch", 1)
    assert change in script
    assert found(run(script), "FC410") == []


def test_a_slice_of_a_model_is_no_model_of_its_own():
    """Its layers are told of once, where they are."""
    script = """
model.requires_grad_(False)
blocks = nn.Sequential(model.layer2, model.fc)
blocks.requires_grad_(True)
optimizer = torch.optim.SGD(blocks.parameters(), lr=1e-3)
model.layer1.eval()
train_epoch(model)
"""
    recording = run(script)
    assert [m.label for m in recording.phases[0].snapshot.models] == ["model"]
    assert found(recording) == []
