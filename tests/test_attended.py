"""`freezecheck watch`: a run for real, whose findings are told as they come up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parent / "scripts"
LIMIT = 240


def watch(*words: str | Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "freezecheck", "watch", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=SCRIPTS,
        timeout=LIMIT,
        **options,
    )


def test_a_run_ends_as_it_would_alone_and_is_told_about(tmp_path):
    alone, watched, report = (tmp_path / name for name in ("alone", "watched", "report.json"))
    subprocess.run([sys.executable, SCRIPTS / "unfreezes.py", alone], check=True, timeout=LIMIT)
    done = watch("--ignore", "FC119", "--report", report, "unfreezes.py", watched)
    assert done.returncode == 1, done.stderr
    assert done.stdout == "finished\n"
    first, *_ = done.stderr.splitlines()
    assert first.startswith("freezecheck: unfreezes.py:11: FC201 error: ")
    assert first.endswith("(from step 11 on)")
    weights, same = torch.load(alone), torch.load(watched)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    data = json.loads(report.read_text())
    assert [(p["first_step"], p["last_step"]) for p in data["phases"]] == [(1, 10), (11, 20)]
    assert (data["run"]["ended"], data["run"]["steps"]) == (True, 20)
    assert [f["code"] for f in data["findings"] if f["severity"] == "error"] == ["FC201"]


def test_stop_on_kills_the_run(tmp_path):
    text = (SCRIPTS / "unfreezes.py").read_text()
    slow = tmp_path / "slow.py"
    slow.write_text(
        f"import time\n{text}".replace("range(5)", "range(50)").replace(
            "optimizer.step()", "optimizer.step(); time.sleep(0.05)"
        )
    )
    done = watch("--ignore", "FC119", "--stop-on", "error", slow, tmp_path / "weights")
    assert done.returncode == 1
    assert "FC201" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "weights").exists()


def test_a_script_that_fails_is_told_with_its_status(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit(3)\n")
    done = watch(script)
    assert done.returncode == 2
    assert "The command failed (exit status 3)" in done.stderr.replace("freezecheck: the", "The")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nowhere.py"], "nowhere.py: no such file"),
        ([], "no script given"),
        (["unfreezes.py::build"], "watch runs a script"),
        (["--", "no-such-command"], "no-such-command: command not found"),
    ],
)
def test_what_cannot_be_run_is_one_line(words, text):
    done = watch(*words)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_is_the_scripts(tmp_path):
    """Its own handler saves what it has; we report what was seen."""
    saved = tmp_path / "saved"
    script = tmp_path / "script.py"
    script.write_text(
        "import time, torch\n"
        "m = torch.nn.Linear(2, 1)\n"
        "o = torch.optim.SGD(m.parameters(), lr=0.1)\n"
        "try:\n"
        "    while True:\n"
        "        m(torch.ones(1, 2)).sum().backward()\n"
        "        o.step()\n"
        f"        open({str(tmp_path / 'begun')!r}, 'w')\n"
        "        time.sleep(0.01)\n"
        "except KeyboardInterrupt:\n"
        f"    open({str(saved)!r}, 'w')\n"
    )
    # A suite in the background ignores the signal, and so would all that it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "freezecheck", "watch", str(script)],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + LIMIT
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=LIMIT)
    assert saved.exists()
    assert "Traceback" not in said
    assert "to its end" in " ".join(said.split())


def test_watch_needs_no_environment_of_its_own(tmp_path):
    """Nothing of the environment is changed, and no weights-and-biases mode is set."""
    script = tmp_path / "script.py"
    script.write_text("import os\nprint(os.environ.get('WANDB_MODE'))\n")
    env = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    assert watch(script, env=env).stdout == "None\n"
