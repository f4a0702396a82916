"""`freezecheck probe SCRIPT`: the verdict on unmodified scripts, what stops it, and what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from freezecheck import cli

ROOT = Path(__file__).parent.parent
TWINS = ROOT / "fixtures" / "twins"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the runner is Linux's"),
]


def run(*words: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "freezecheck", "probe", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def probed(*words: str | Path, cwd: Path = ROOT) -> tuple[int, dict[str, Any]]:
    """The exit code and the report."""
    ran = run("--output-format", "json", *words, cwd=cwd)
    assert ran.stdout, ran.stderr
    return ran.returncode, json.loads(ran.stdout)


def codes(report: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in report["findings"]]


EXPECTED = json.loads((TWINS / "expected.json").read_text())


@pytest.mark.parametrize("twin", ["loss_explosion", "one_class_collapse"])
def test_the_twins_that_only_training_tells_apart(twin: str):
    code, report = probed(TWINS / twin / "broken.py")
    assert (code, report["zone"]) == (1, "unsafe")
    assert codes(report) == EXPECTED[twin]["probe"]
    assert "lower" in report["findings"][0]["fix"]["message"]
    code, report = probed(TWINS / twin / "mended.py")
    assert (code, report["zone"], codes(report)) == (0, "safe", []), report


SCRIPT = """
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
labels = torch.arange(24) % 3
inputs = torch.randn(24, 8) + 3 * F.one_hot(labels, 8)
"""

LOOP = """
for step in range({steps}):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(inputs), labels)
    loss.backward()
    optimizer.step()
    print(step, flush=True)
"""


@pytest.fixture
def script(tmp_path: Path) -> Any:
    """Writes a script below `tmp_path` and gives its name."""

    def write(text: str) -> Path:
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(text))
        return path

    return write


def test_nothing_after_the_recorded_steps_runs(script, tmp_path: Path):
    end = "\nopen('done', 'w')\n"
    watched = LOOP.replace("print(step, flush=True)", "open(f'step{{step}}', 'w')")
    code, report = probed(
        "--steps", "10", script(SCRIPT + watched.format(steps=1000) + end), cwd=tmp_path
    )
    assert code == 0, report
    written = {path.name for path in tmp_path.iterdir()} - {"script.py"}
    assert written == {f"step{number}" for number in range(19)}  # 20 steps, stopped in the last


def test_a_script_that_fails_early_is_probed_with_what_it_gave(script):
    code, report = probed(script(SCRIPT + LOOP.format(steps=12) + "\nraise SystemError\n"))
    assert (code, report["zone"]) == (0, "safe")
    assert len(report["warmup"]["losses"]) == 30
    assert any(remark.startswith("12 steps could be recorded") for remark in report["left_out"])


def test_of_two_trainings_the_first_is_probed(script):
    """First the head, then everything with another optimizer."""
    head = SCRIPT.replace("model.parameters()", "model[2].parameters()")
    after = "optimizer = torch.optim.SGD(model.parameters(), lr=1e9)"
    text = head + LOOP.format(steps=8) + after + LOOP.format(steps=100)
    code, report = probed(script(text))
    assert (code, report["zone"]) == (0, "safe")
    assert any("another optimizer (SGD) goes on" in remark for remark in report["left_out"])
    code, report = probed("--after", "8", script(text))
    assert (code, report["zone"]) == (1, "unsafe")
    assert report["warmup"]["rates"] == [1e9]


def test_steps_before_one_that_cannot_be_replayed_are_probed(script):
    loop = LOOP.replace("loss.backward()", "loss.backward(create_graph=step > 20)")
    code, report = probed(script(SCRIPT + loop.format(steps=1000)))
    assert (code, report["zone"]) == (0, "safe")
    told = "step 22 cannot be replayed: gradients of gradients are taken; probed are those before"
    assert told in report["left_out"]


def test_hand_made_rates_count(script):
    """The rate climbs by hand, and never so far within the recorded steps that it fails by itself."""
    loop = LOOP.replace(
        "optimizer.zero_grad()",
        "optimizer.zero_grad()\n    optimizer.param_groups[0]['lr'] = 1e-3 * (step + 1)",
    )
    _, report = probed(script(SCRIPT + loop.format(steps=1000)))
    assert report["warmup"]["rates"] == [pytest.approx(0.06)]


def test_the_schedules_peak_is_probed_though_the_script_is_still_warming_up(script):
    scheduler = """
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=30.0, total_steps=4000)
"""
    loop = LOOP.replace("optimizer.step()", "optimizer.step()\n    scheduler.step()")
    code, report = probed(script(SCRIPT + scheduler + loop.format(steps=4000)))
    assert (code, report["zone"]) == (1, "unsafe")
    assert report["warmup"]["rates"] == [30.0]
    assert set(codes(report)) & {"FC601", "FC602", "FC603"}
    assert report["findings"][0]["path"].endswith("script.py")


def test_a_dry_run_says_what_it_would_take(script):
    path = script(SCRIPT + LOOP.format(steps=1000))
    ran = run("--dry-run", path)
    assert ran.returncode == 0, ran.stderr
    assert "30 to 60 of 24 samples on cpu" in ran.stdout
    assert "time" in ran.stdout
    assert "memory" in ran.stdout
    code, cost = probed("--dry-run", "--groups", path)
    assert code == 0
    assert cost["groups"] == 1
    assert 0 < cost["seconds"][0] < cost["seconds"][1]
    assert (cost["version"], cost["command"], cost["dry_run"]) == (1, "probe", True)
    assert cost["paired"] > 0
    assert cost["memory"] > 10 * cost["copies"] > 0


def test_critical_rates_of_groups(script, tmp_path: Path):
    groups = SCRIPT.replace(
        "SGD(model.parameters(), lr=1e-2",
        "SGD([{'params': model[0].parameters()}, {'params': model[2].parameters()}], lr=1e-2",
    )
    page = tmp_path / "report.html"
    path = script(groups + LOOP.format(steps=1000))
    _, report = probed("--groups", "--html", page, path)
    critical = report["warmup"]["critical"]
    assert [each["group"] for each in critical] == [0, 1]
    assert all(each["rate"] == 1e-2 < each["diverges"] for each in critical)
    assert "<svg" in page.read_text()


def test_without_a_report_nothing_is_written(script, tmp_path: Path):
    path = tmp_path / "report.html"
    ran = run("--html", path, script("import torch\nraise SystemExit(3)"))
    assert ran.returncode == 2
    assert not path.exists()
    assert not ran.stdout
    assert "before it built a torch optimizer" in ran.stderr


TWO = """
first, second = (torch.optim.SGD(part.parameters(), lr=1e-3) for part in (model[0], model[2]))
for step in range(1000):
    for one in (first, second):
        one.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        one.step()
"""

REFUSED = [
    (SCRIPT + TWO, "two optimizers take steps in turn"),
    (
        SCRIPT + LOOP.replace("loss.backward()", "loss.backward(create_graph=True)"),
        "gradients of gradients",
    ),
    ("print(1)", "before it imported torch"),
    (
        "import torch\ntorch.hub.load_state_dict_from_url('http://0.0.0.0:1/weights.pth')",
        "a probe needs them",
    ),
]


@pytest.mark.parametrize(("text", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_what_cannot_be_probed_is_said_in_one_line(script, text: str, why: str):
    ran = run(script(text.format(steps=1000)))
    assert ran.returncode == 2
    assert not ran.stdout
    assert why in ran.stderr
    assert "Traceback" not in ran.stderr


BAD = [
    ("--steps 5 train.py", "'5' is too few"),
    ("--after -1 train.py", "'-1' is not a number above 0"),
    ("--steps x train.py", "'x' is not a number above 0"),
    ("train.py::build", "call freezecheck.probe(...) itself"),
    ("nowhere.py", "nowhere.py: no such file"),
    ("--html nowhere/report.html script.py", "no such folder"),
    ("--select FC999 script.py", "FC999"),
    ("", "no script given"),
]


@pytest.mark.parametrize(("words", "line"), BAD)
def test_bad_input_gets_one_line(
    script, tmp_path: Path, monkeypatch, capsys, words: str, line: str
):
    script("")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["probe", *words.split()]) == cli.COULD_NOT
    told = capsys.readouterr()
    assert not told.out
    assert line in told.err
    assert told.err.count("\n") == 1
