"""The fixtures: real scripts, unmodified, whose defects and health are known.

A broken script must be found with its cause, a healthy one must be silent under every
rule, information included. The slow tests run the scripts in full and measure the harm.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures"
DIGITS, TORCHVISION, TWINS = (FIXTURES / name for name in ("digits", "torchvision", "twins"))
EXPECTED = json.loads((TWINS / "expected.json").read_text(encoding="utf-8"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Any working directory must do: the scripts find their files by themselves."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


def inspect(script: Path, *args: str, cwd: Path) -> dict[str, Any]:
    """The report of `freezecheck inspect`, held to the exit code that belongs to it."""
    done = run("-m", "freezecheck", "inspect", "--output-format", "json", script, *args, cwd=cwd)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    serious = [f for f in report["findings"] if f["severity"] != "info"]
    assert done.returncode == bool(serious)
    return report


def silent(script: Path, *args: str, cwd: Path) -> dict[str, Any]:
    """The report of a script in which nothing is found, though it was looked at."""
    report = inspect(script, *args, cwd=cwd)
    assert report["findings"] == []
    assert report["models"]
    assert report["optimizers"]
    return report


def told(finding: dict[str, Any], script: Path, cwd: Path) -> list[str]:
    """The lines of the script that a finding names, its notes' included."""
    source = script.read_text(encoding="utf-8").splitlines()
    places = [finding, *finding["notes"]]
    return [
        source[p["line"] - 1] for p in places if p["path"] and (cwd / p["path"]).samefile(script)
    ]


def accuracy(script: Path, *args: str, cwd: Path) -> float:
    """The last accuracy that a script prints."""
    done = run(script, *args, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return float(re.findall(r"accuracy ([\d.]+)", done.stdout)[-1])


# -- digits --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["finetune", "pretrain"])
def test_healthy_digits_are_silent(name, tmp_path):
    silent(DIGITS / f"{name}.py", cwd=tmp_path)


def test_broken_digits_are_found_with_their_lines(tmp_path):
    script = DIGITS / "finetune_broken.py"
    findings = inspect(script, cwd=tmp_path)["findings"]
    lines = {finding["code"]: told(finding, script, tmp_path)[0].strip() for finding in findings}
    assert lines == {
        "FC101": "model.stem.requires_grad = False",
        "FC201": "optimizer = torch.optim.AdamW(",
        "FC401": "model.train()",
    }
    assert len(findings) == 3


def test_the_checkpoint_stays_small():
    assert (DIGITS / "pretrained.pt").stat().st_size < 400_000


@pytest.mark.slow
def test_pretraining_makes_the_checkpoint(tmp_path):
    assert accuracy(DIGITS / "pretrain.py", "--output", "made.pt", cwd=tmp_path) > 0.98
    torch = pytest.importorskip("torch")
    made, kept = (
        torch.load(path, weights_only=True)
        for path in (tmp_path / "made.pt", DIGITS / "pretrained.pt")
    )
    assert {k: v.shape for k, v in made.items()} == {k: v.shape for k, v in kept.items()}


@pytest.mark.slow
def test_the_broken_fine_tune_is_worse(tmp_path):
    right = accuracy(DIGITS / "finetune.py", cwd=tmp_path)
    wrong = accuracy(DIGITS / "finetune_broken.py", cwd=tmp_path)
    assert right > 0.96
    assert wrong < right - 0.03


# -- twins ---------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED)
def test_a_broken_twin_is_found_with_its_cause(name, tmp_path):
    script = TWINS / name / "broken.py"
    findings = inspect(script, cwd=tmp_path)["findings"]
    assert [finding["code"] for finding in findings] == EXPECTED[name]["codes"]
    for finding in findings:
        assert any(EXPECTED[name]["cause"] in line for line in told(finding, script, tmp_path))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_mended_twin_is_silent(name, tmp_path):
    silent(TWINS / name / "mended.py", cwd=tmp_path)


def test_every_twin_is_expected_and_in_the_table():
    assert {path.name for path in TWINS.iterdir() if (path / "broken.py").exists()} == set(EXPECTED)
    readme = (TWINS / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]+\| (FC\d+|a first step)", readme, re.MULTILINE))
    assert rows == {n: (e["codes"] or ["a first step"])[0] for n, e in EXPECTED.items()}


@pytest.mark.parametrize("name", EXPECTED)
def test_twins_differ_by_the_mend_alone(name):
    broken, mended = (
        [line for line in text.splitlines() if line and not line.startswith("# ")]
        for kind in ("broken", "mended")
        for text in [(TWINS / name / f"{kind}.py").read_text(encoding="utf-8")]
    )
    changed = [line for line in difflib.ndiff(broken, mended) if line[0] in "+-"]
    assert 1 <= len(changed) <= 8


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_a_broken_twin_does_harm(name, tmp_path):
    broken, mended = (
        accuracy(TWINS / name / f"{k}.py", cwd=tmp_path) for k in ("broken", "mended")
    )
    assert mended > 0.83
    if name != "scheduler_on_old_optimizer":
        assert broken < mended - 0.05
        return
    # Its harm is a rate that never falls; the errors that this makes depend on the seed.
    for kind, rate in (("broken", "0.700"), ("mended", "0.000")):
        done = run(TWINS / name / f"{kind}.py", cwd=tmp_path)
        assert re.findall(r"rate ([\d.]+)", done.stdout)[-1] == rate


# -- torchvision ---------------------------------------------------------------

ARCHITECTURES = sorted(
    path.name for path in TORCHVISION.glob("*.py") if path.name not in ("common.py",)
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_healthy_torchvision_scripts_are_silent(name, tmp_path):
    pytest.importorskip("torchvision")
    silent(TORCHVISION / name, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["squeezenet1_1", "mnasnet0_5", "densenet121", "resnet18"])
@pytest.mark.parametrize("finetune", [(), ("--finetune",)], ids=["head", "whole"])
def test_every_head_attribute_is_silent(model, finetune, tmp_path):
    pytest.importorskip("torchvision")
    silent(TORCHVISION / "by_architecture.py", "--model", model, *finetune, cwd=tmp_path)


# One line of a healthy script changed, and what must then be found: silence means something.
SLIPS = [
    ("resnet18_last_stage", "        hold_frozen_batchnorm(model)\n", "", "FC401"),
    ("resnet34_layerwise", 'max_lr=[group["lr"] for group in groups]', "max_lr=1e-2", "FC307"),
    ("vit_b_16_warmup", "parameter_groups(model, 1e-5,", "parameter_groups(model, 1e-3,", "FC301"),
    ("vgg11_classifier", "model.classifier[6] = nn", "model.fc = nn", "FC121"),
    ("vgg11_classifier", "param.requires_grad =", "param.require_grad =", "FC102"),
    ("densenet121_one_small_rate", "lr=0.001", "lr=0.1", "FC301"),
    ("convnext_tiny_added_group", "optimizer.add_param_group(", "print(", "FC201"),
    ("regnet_own_train_method", "            module.eval()\n", "            pass\n", "FC401"),
    ("mobilenet_v3_linear_probe", "model.eval()", "model.train()", "FC401"),
    ("distillation", "AdamW(student.parameters()", "AdamW(average.parameters()", "FC202"),
    ("by_architecture", "model.train(args.finetune)", "model.train()", "FC401"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "right", "wrong", "code"), SLIPS)
def test_a_slip_in_a_healthy_script_is_found(name, right, wrong, code, tmp_path):
    pytest.importorskip("torchvision")
    text = (TORCHVISION / f"{name}.py").read_text(encoding="utf-8")
    assert text.count(right) == 1
    (tmp_path / "common.py").write_text((TORCHVISION / "common.py").read_text(encoding="utf-8"))
    (tmp_path / "train.py").write_text(text.replace(right, wrong))
    findings = inspect(tmp_path / "train.py", cwd=tmp_path)["findings"]
    assert [finding["code"] for finding in findings] == [code]
