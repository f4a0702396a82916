"""Whenever and however a run that goes on past its first step is ended, nothing of it is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from test_runner import alive, heed, orphaned_shared_memory

SCRIPTS = Path(__file__).parent / "scripts"
REPOSITORY = Path(__file__).parent.parent
PATIENCE = 60  # seconds until a process that has not yet imported torch must have noticed

RUN = """
import sys
from freezecheck.live import runner
from freezecheck.live.plan import Plan
plan = Plan(steps=None, batches=2, sandbox=sys.argv[1] == "sandbox")
print("go", flush=True)
runner.run(sys.argv[2:], plan=plan, on_phase=lambda phase: print(phase, flush=True))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the runner is Linux's"),
]


@pytest.fixture
def mark(tmp_path, monkeypatch):
    mark = uuid.uuid4().hex
    monkeypatch.setenv("FREEZECHECK_TEST", mark)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="kill-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield mark


def gone(mark: str, seconds: float) -> bool:
    """No process carries the mark, for a while: one that is being started shows it late."""
    deadline, quiet = time.monotonic() + seconds, 0
    while quiet < 10:
        quiet = 0 if alive(mark) else quiet + 1
        if quiet == 0 and time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    ("how", "phase"),
    [("plain", "go"), ("plain", "stepping"), ("sandbox", "stepping")],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left(mark, tmp_path, monkeypatch, how, number, phase):
    monkeypatch.chdir(tmp_path)
    script = [sys.executable, str(SCRIPTS / "epochs.py"), "2", "1000000"]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, how, *script],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=heed,
    )
    for line in process.stdout:
        if line.strip() == phase:
            break
    delay = random.Random(f"{how} {number} {phase}").uniform(0, 0.5)
    time.sleep(delay)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert gone(mark, PATIENCE if number == signal.SIGKILL else 0)
    assert os.environ["TMPDIR"] not in Path("/proc/self/mountinfo").read_text()
    assert orphaned_shared_memory() == [] or number == signal.SIGKILL
    assert list(tmp_path.iterdir()) == []  # no checkpoint
    if number != signal.SIGKILL:
        assert not [p for p in os.listdir(os.environ["TMPDIR"]) if p.startswith("freezecheck")]
