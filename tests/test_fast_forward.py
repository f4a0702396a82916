"""`inspect --fast-forward K`: a whole script with short epochs, its checkpoints kept from the user."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from freezecheck.live import runner
from freezecheck.live.plan import Plan
from freezecheck.live.runner import Run, python_command

SCRIPTS = Path(__file__).parent / "scripts"
LIMIT = 120  # seconds

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the runner is Linux's"
)


def fast_forward(script: Path, *args: str, batches: int = 2) -> Run:
    command = python_command(str(script), args)
    return runner.run(command, plan=Plan(steps=None, batches=batches), timeout=LIMIT)


def test_a_script_keeps_its_best_where_the_user_does_not_see_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save("an older run's", "best.pt")
    run = fast_forward(SCRIPTS / "keeps_best.py")
    assert (run.outcome, run.exit_status) == ("inspected", 0)
    # 12 epochs of 2 batches of 4, to train and to validate, and 24 steps of the schedule.
    assert run.stderr_tail == f"{12 * 2 * 2 * 4} 24"
    assert [p.name for p in tmp_path.iterdir()] == ["best.pt"]
    assert torch.load("best.pt") == "an older run's"
    phases = run.reports[0].phases
    assert [(p.first, p.last) for p in phases] == [(1, 20), (21, 24)]
    assert phases[-1].epoch == 11


def test_batches_that_come_from_no_loader_are_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "model = torch.nn.Linear(2, 1)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for _ in range(20):\n"
        "    model(torch.ones(1, 2)).sum().backward()\n"
        "    optimizer.step()\n"
    )
    run = fast_forward(script)
    assert run.remarks == ["the batches come from no DataLoader: nothing was cut"]
    assert run.reports[0].phases[-1].last == 20


def test_epochs_that_are_too_short_for_a_step_are_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "model = torch.nn.Linear(2, 1)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "loader = torch.utils.data.DataLoader(torch.ones(100, 2), batch_size=2)\n"
        "for _ in range(10):\n"
        "    for i, x in enumerate(loader, 1):\n"
        "        model(x).sum().backward()\n"
        "        if i % 8 == 0:\n"
        "            optimizer.step()\n"
    )
    run = fast_forward(script)
    assert run.outcome == "ended"
    assert run.hint == (
        "The command ended before its first optimizer step: epochs of 2 batches led to no"
        " optimizer step: if gradients are accumulated over more batches, give a larger number."
    )
    assert fast_forward(script, batches=8).reports[0].phases[-1].last == 10


def test_the_progress_tells_step_epoch_and_phase(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.save("an older run's", "best.pt")
    told: list[str] = []
    command = python_command(str(SCRIPTS / "keeps_best.py"))
    runner.run(command, plan=Plan(steps=None, batches=2), timeout=LIMIT, on_phase=told.append)
    assert told[0] == "starting"
    assert "step 24, epoch 12, phase 2" in told
