"""The recorder hears what a script does, and leaves nothing behind."""

from __future__ import annotations

import gc
import textwrap
import weakref

import pytest
import torch
from recording import Recording, record
from torch import nn
from untouched import fingerprint

from freezecheck.live.record import Recorder
from freezecheck.timeline import BACKWARD, FLAG, GROUP, LOAD, LOSS, MODE, OPTIMIZER, SCHEDULER, STEP

START = """\
import torch
from torch import nn
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
"""
STEP_IT = """
x, y = torch.randn(4, 4), torch.tensor([0, 1, 0, 1])
loss = nn.functional.cross_entropy(model(x), y)
loss.backward()
optimizer.step()
raise SystemExit("a line after the step ran")
"""


def script(body: str) -> Recording:
    return record(START + textwrap.dedent(body) + STEP_IT, "script.py")


def test_the_story_in_order_with_the_users_lines():
    seen = script(
        """\
        for p in model[0].parameters():
            p.requires_grad = False
        model[1].requires_grad_(False)
        optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
        optimizer.add_param_group({"params": model[0].parameters()})
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        model.train()
        model[1].eval()
        """
    )
    events = [(e.kind, e.site.line, e.subject, e.names, e.value) for e in seen.timeline.events]
    assert events == [
        (FLAG, 5, "", ("0.weight", "0.bias"), False),
        (FLAG, 6, "", ("1.weight", "1.bias"), False),
        (OPTIMIZER, 7, "optimizer", ("2.weight", "2.bias"), "SGD"),
        (GROUP, 8, "optimizer", ("0.weight", "0.bias"), None),
        (SCHEDULER, 9, "scheduler", (), "StepLR"),
        (MODE, 10, "", (), True),
        (MODE, 11, "1", (), False),
        (LOSS, 14, "", (), "cross_entropy"),
        (BACKWARD, 15, "", (), None),
        (STEP, 16, "optimizer", (), 1),
    ]
    group = seen.timeline.last(GROUP)
    assert group.data == {"index": 1, "lr": 0.1, "given": ("params",), "others": (0.1,)}
    assert seen.snapshot.optimizers[0].site.line == 7
    assert seen.snapshot.optimizers[0].groups[1].site.line == 8
    assert seen.snapshot.schedulers[0].site.line == 9
    assert seen.snapshot.norms[0].site.line == 11
    assert seen.snapshot.norms[0].samples == 4


def test_the_snapshot_is_of_the_moment_before_the_step():
    seen = script("optimizer = torch.optim.Adam(model.parameters())")
    assert [p.grad for p in seen.snapshot.params] == ["nonzero"] * 2 + seen_grads(seen)[2:]
    assert not seen.snapshot.optimizers[0].stepped
    assert all(held.step is None for p in seen.snapshot.params for held in p.held)


def seen_grads(seen: Recording) -> list[str | None]:
    return [p.grad for p in seen.snapshot.params]


def test_modes_are_those_of_the_training_forward():
    seen = record(
        START
        + "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        + "out = model(torch.randn(4, 4))\nmodel.eval()\nout.sum().backward()\noptimizer.step()\n"
    )
    assert seen.snapshot.norms[0].training
    assert seen.snapshot.models[0].training


def test_ema_and_teacher_are_no_part_of_the_run():
    seen = script(
        """\
        import copy
        ema, teacher = copy.deepcopy(model), nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        """
    )
    assert [m.label for m in seen.snapshot.models] == ["model"]


def test_every_optimizer_is_waited_for_but_not_for_ever():
    code = START + (
        "a = torch.optim.SGD(model[0].parameters(), lr=0.1)\n"
        "b = torch.optim.SGD(model[2].parameters(), lr=0.1)\n"
        "for i in range(10):\n"
        "    model(torch.randn(4, 4)).sum().backward()\n"
        "    a.step()\n"
        "    if i == WHEN:\n"
        "        b.step()\n"
    )
    both = record(code.replace("WHEN", "2"))
    assert [o.idle for o in both.snapshot.optimizers] == [False, False]
    assert both.timeline.last(STEP).subject == "b"
    one = record(code.replace("WHEN", "99"))
    assert [o.idle for o in one.snapshot.optimizers] == [False, True]
    assert one.timeline.last(STEP).value == 4


def test_gradients_of_a_closure_are_seen():
    seen = record(
        START
        + "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        + "def closure():\n    loss = model(torch.randn(4, 4)).square().sum()\n"
        + "    loss.backward()\n    return loss\noptimizer.step(closure)\n"
    )
    assert seen.snapshot.optimizers[0].closure
    assert seen_grads(seen)[0] == "nonzero"


def test_a_subclass_that_calls_super_steps_once():
    seen = script(
        """\
        class Mine(torch.optim.SGD):
            def step(self, closure=None):
                return super().step(closure)
        optimizer = Mine(model.parameters(), lr=0.1)
        """
    )
    assert [e.value for e in seen.timeline.of(STEP)] == [1]
    assert not seen.snapshot.optimizers[0].builtin


def test_a_script_that_never_steps_is_still_told():
    seen = record(START + "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n")
    assert not seen.reached_step
    assert seen.snapshot.optimizers[0].class_name == "SGD"
    assert record("import torch").snapshot is None


def test_loads_and_what_the_loss_was_given():
    seen = script(
        """\
        result = model.load_state_dict({"0.weight": torch.randn(8, 4), "x": torch.zeros(1)}, strict=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        state = optimizer.state_dict()
        state["param_groups"][0]["lr"] = 0.5
        optimizer.load_state_dict(state)
        """
    )
    model_load, optimizer_load = seen.timeline.of(LOAD)
    assert {"given": 2, "missing": 7, "unexpected": 1}.items() <= model_load.data.items()
    assert optimizer_load.data["before"][0]["lr"] == 0.1
    assert optimizer_load.data["after"][0]["lr"] == 0.5
    loss = seen.timeline.last(LOSS).data
    assert (loss["shape"], loss["looks"], loss["made"]) == ((4, 2), "scores", None)


@pytest.mark.parametrize(
    ("scores", "looks", "made"),
    [
        ("model(x).softmax(1)", "probabilities", "softmax"),
        ("model(x).log_softmax(1)", "log-probabilities", "log_softmax"),
        ("model(x).half().log_softmax(1)", "log-probabilities", "log_softmax"),
        ("model(x).sigmoid()", "unit", "sigmoid"),
        ("model(x).sigmoid()[:, :].reshape(4, 2)", "unit", "sigmoid"),
        ("2 * model(x).sigmoid() - 1", "scores", None),
        ("model(x)", "scores", None),
    ],
)
def test_scores_are_told_from_probabilities(scores: str, looks: str, made: str | None):
    code = START + "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)" + STEP_IT
    seen = record(code.replace("model(x)", scores))
    assert seen.timeline.last(LOSS).data["looks"] == looks
    assert seen.timeline.last(LOSS).data["made"] == made


def test_nothing_is_left_behind():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = [fingerprint([model]), vars(torch.nn.functional).copy(), vars(torch.autograd).copy()]
    recorder = Recorder(lambda _: None)
    recorder.install()
    assert fingerprint([model]) != before[0]
    recorder.uninstall()
    after = [fingerprint([model]), vars(torch.nn.functional).copy(), vars(torch.autograd).copy()]
    assert after == before
    from torch.optim import optimizer as home

    assert not home._global_optimizer_pre_hooks
    assert not home._global_optimizer_post_hooks


def test_training_is_the_same_bit_for_bit():
    def train() -> list[torch.Tensor]:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2))
        model[0].requires_grad_(False)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        for _ in range(3):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.arange(8) % 2)
            loss.backward()
            optimizer.step()
        return [t.clone() for t in model.state_dict().values()]

    plain = train()
    recorder = Recorder(lambda _: None)
    recorder.install()
    try:
        watched = train()
    finally:
        recorder.uninstall()
    assert all(torch.equal(a, b) for a, b in zip(plain, watched))


def test_what_the_script_drops_is_gone_at_once():
    """A report in between keeps no replaced head alive: it would pass for a model of the run."""
    recorder = Recorder(lambda _: None)
    recorder.install()
    gc.collect()
    gc.disable()
    try:
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
        recorder.snapshot()
        recorder.timeline()
        old = weakref.ref(model[2])
        model[2] = nn.Linear(8, 3)
        assert old() is None
        assert optimizer is not None
    finally:
        gc.enable()
        recorder.uninstall()
