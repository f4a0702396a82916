"""The lessons: patterns that courses teach, and what each half finds in them."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from recording import record
from weights import offline_weights

from freezecheck import catalogue
from freezecheck.check import check_source
from freezecheck.finding import Finding, Severity
from freezecheck.source.analysis import analyze

LESSONS = Path(__file__).parents[1] / "fixtures" / "lessons"
EXPECTED = json.loads((LESSONS / "expected.json").read_text(encoding="utf-8"))
RUNNABLE = [name for name in EXPECTED if EXPECTED[name]["live"] is not None]


@pytest.fixture(autouse=True)
def _beside(monkeypatch):
    """The scripts import `images.py`, which is beside them."""
    monkeypatch.syspath_prepend(str(LESSONS))


def places(findings: list[Finding], name: str) -> list[list[str]]:
    """Code and text of the line of each finding."""
    lines = (LESSONS / name).read_text(encoding="utf-8").splitlines()
    return sorted([f.code, lines[f.site.line - 1].strip() if f.site else ""] for f in findings)


def linted(name: str) -> list[Finding]:
    paths = {path.stem: path for path in LESSONS.glob("*.py")}
    trees = {
        stem: (ast.parse(path.read_text(encoding="utf-8")), path.name)
        for stem, path in paths.items()
    }
    tree, path = trees[Path(name).stem]
    return check_source(catalogue.load(), analyze(tree, path, modules=trees).worlds)


@pytest.mark.parametrize("name", list(EXPECTED))
def test_source(name):
    assert places(linted(name), name) == sorted(EXPECTED[name]["source"])


@pytest.mark.parametrize("name", RUNNABLE)
def test_live(name):
    pytest.importorskip("torchvision")
    text = (LESSONS / name).read_text(encoding="utf-8")
    recording = record(text, str(LESSONS / name))
    assert recording.reached_step
    assert places(recording.findings(), name) == sorted(EXPECTED[name]["live"])


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNABLE)
def test_runs_to_its_end(name):
    pytest.importorskip("torchvision")
    text = (LESSONS / name).read_text(encoding="utf-8")
    with offline_weights():
        exec(compile(text, name, "exec"), {"__name__": "__main__"})


def test_every_lesson_is_expected_and_in_the_table():
    assert {path.name for path in LESSONS.glob("[a-z]_*.py")} == set(EXPECTED)
    readme = (LESSONS / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+\.py)` \|[^|]+\| (FC\d+|healthy) \|", readme, re.MULTILINE))
    severe = {rule.code for rule in catalogue.load() if rule.severity > Severity.INFO}
    for name, halves in EXPECTED.items():
        found = [code for half in halves.values() for code, _ in half or ()]
        if rows.pop(name) == "healthy":
            assert not severe.intersection(found)
        else:
            assert found
    assert not rows
