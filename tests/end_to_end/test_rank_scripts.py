"""Several processes on one machine, through the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_scripts import SCRIPTS, inspect, needs

HOME = Path(__file__).parent.parent / "scripts"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="several processes over gloo"),
]


def torchrun(how: str, *options: str) -> tuple[int, dict[str, Any]]:
    return inspect(*options, "--", sys.executable, *TORCHRUN, "sharded.py", how, cwd=HOME)


def line_of(script: Path, text: str) -> int:
    (found,) = (i for i, row in enumerate(script.read_text().splitlines(), 1) if text in row)
    return found


@needs("lightning")
def test_lightning_unfreezes_the_backbone_behind_ddp():
    """Lightning-AI/pytorch-lightning#20340: epoch 10 of a script that knows nothing of us."""
    script = SCRIPTS / "lightning_ddp.py"
    code, report = inspect("--fast-forward", "1", script.name)
    (found,) = (f for f in report["findings"] if f["severity"] == "error")
    assert (code, found["code"], found["step"]) == (1, "FC501", 11)
    assert "backbone.0.weight, backbone.0.bias and 2 more" in found["message"]
    assert found["line"] == line_of(script, "trainer.fit(")
    assert "in another fit()" in found["fix"]["message"]
    assert report["run"]["ranks"] == [0, 1]


def test_a_rank_that_waits_for_a_backward_that_never_comes_is_shown_where_it_stands():
    _, report = torchrun("skip")
    (remark,) = report["left_out"]
    line = line_of(HOME / "sharded.py", "loss.backward()")
    assert remark.startswith("rank 0 had taken no step when the others had")
    assert remark.endswith(f"it was at sharded.py:{line}, in main")
    assert report["run"]["ranks"] == [1]


def test_sharded_models_that_wait_for_each_other():
    """One process has frozen a layer that the other reduces a gradient of."""
    code, report = torchrun("mismatch", "--select", "FC5")
    (found,) = report["findings"]
    assert (code, found["code"]) == (1, "FC505")
    assert "1.weight, 1.bias train on rank 0 and are frozen on rank 1" in found["message"]
    assert "rank 0 had taken no step" in report["left_out"][0]


def test_an_optimizer_from_before_the_shards():
    code, report = torchrun("early")
    (found,) = report["findings"]
    assert (code, found["code"]) == (1, "FC202")
    assert found["line"] == line_of(HOME / "sharded.py", "torch.optim.SGD(params")


def test_sharded_models_that_are_unfrozen_later_are_fine():
    code, report = torchrun("unfreeze", "--steps", "4", "--ignore", "FC212")
    assert (code, report["findings"]) == (0, [])
    assert [phase["first_step"] for phase in report["phases"]] == [1, 3]


def test_inside_a_rank(tmp_path):
    subprocess.run([sys.executable, HOME / "in_ranks.py", tmp_path], check=True, timeout=240)
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1))
    assert "inspected in rank 0 of 2\n[0]\n" in first
    assert "in this setup" not in first
    assert "inspected in rank 1 of 2\n[1]\n" in second
    assert "freezecheck: 1 problem in this setup, in rank 1 of 2\n  FC201" in second
