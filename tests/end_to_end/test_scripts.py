"""Unmodified scripts of every common kind, through the command line."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from freezecheck.finding import Severity
from freezecheck.lint import Settings, lint

SCRIPTS = Path(__file__).parent / "scripts"
WARNINGS = ("warning", "error")


def inspect(*command: str, cwd: Path = SCRIPTS, timeout: float = 240) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of `freezecheck inspect`."""
    done = subprocess.run(
        [sys.executable, "-m", "freezecheck", "inspect", "--output-format", "json", *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def needs(package: str) -> Any:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


HEALTHY = [
    pytest.param("plain_loop.py", 1, 1),
    pytest.param("torchvision_workers.py", 1, 1),
    pytest.param("gan.py", 2, 2),
    pytest.param("lbfgs.py", 1, 1),
    pytest.param("amp.py", 1, 1),
    pytest.param("compiled.py", 1, 1, marks=pytest.mark.slow),
    pytest.param("accelerate_loop.py", 1, 1, marks=needs("accelerate")),
    pytest.param("lightning_auto.py", 1, 1, marks=needs("lightning")),
    pytest.param("lightning_manual_gan.py", 1, 2, marks=needs("lightning")),
    pytest.param("hf_trainer.py", 1, 1, marks=needs("transformers")),
]


@pytest.mark.parametrize(("script", "models", "optimizers"), HEALTHY)
def test_healthy(script: str, models: int, optimizers: int):
    code, report = inspect(script)
    found = {(f["code"], f["line"]) for f in report["findings"] if f["severity"] in WARNINGS}
    # A script with a broken variant shows it in its text; the healthy run has nothing to add.
    linted = lint([str(SCRIPTS / script)], Settings()).at_least(Severity.WARNING)
    assert found == {(f.code, f.site.line) for f in linted if f.site}
    assert bool(found) == ("--late-head" in (SCRIPTS / script).read_text())
    assert code == bool(found)
    assert len(report["models"]) == models
    assert len(report["optimizers"]) == optimizers


@pytest.mark.parametrize(
    ("script", "flag", "symbol"),
    [
        pytest.param("plain_loop.py", "--late-unfreeze", "layer3.0.weight"),
        pytest.param("lightning_auto.py", "--late-head", "head.weight", marks=needs("lightning")),
        pytest.param(
            "hf_trainer.py", "--late-head", "classifier.weight", marks=needs("transformers")
        ),
    ],
)
def test_broken(script: str, flag: str, symbol: str):
    code, report = inspect(script, flag)
    assert code == 1
    (finding,) = (f for f in report["findings"] if f["severity"] in WARNINGS)
    assert (finding["code"], finding["symbol"]) == ("FC201", symbol)
    assert finding["path"] == script
    assert (
        "optimizer" in Path(SCRIPTS, script).read_text().splitlines()[finding["line"] - 1].lower()
    )


@pytest.mark.slow
def test_torchrun_with_two_processes():
    code, report = inspect(
        "--", sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
        "--master-port=29533", "ddp.py",
    )  # fmt: skip
    assert code == 0, report
    assert all(m["wrappers"] == ["DistributedDataParallel"] for m in report["models"])
    assert report["run"]["ranks"] == [0, 1]


@pytest.mark.slow
@needs("accelerate")
def test_accelerate_launch():
    launch = Path(sys.executable).with_name("accelerate")
    code, report = inspect(
        "--", str(launch), "launch", "--cpu", "--num_processes=1", "accelerate_loop.py"
    )
    assert code == 0, report
    assert report["optimizers"][0]["type"] == "torch.optim.adamw.AdamW"


def test_the_healthy_scripts_run_without_us():
    """They are what they claim: plain scripts that finish."""
    done = subprocess.run(
        [sys.executable, "plain_loop.py"], cwd=SCRIPTS, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "finished\n"
