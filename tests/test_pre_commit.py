"""The pre-commit hook, with the real pre-commit: it passes, it stops, it needs no torch."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from freezecheck import catalogue

ROOT = Path(__file__).parent.parent
PACKAGED = ("freezecheck", "pyproject.toml", "README.md", "LICENSE", ".pre-commit-hooks.yaml")
UNREACHABLE = re.compile(
    r"NewConnectionError|ConnectTimeout|ProxyError|Temporary failure in name resolution"
    r"|No matching distribution found for (hatchling|rich)"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
    pytest.mark.skipif(
        importlib.util.find_spec("pre_commit") is None, reason="pre-commit is not installed"
    ),
]


def script(code: str, *, good: bool) -> str:
    """The first example of a rule's page."""
    return next(e.code for e in catalogue.find(code).examples() if e.good is good)


def notebook(source: str) -> str:
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": source.splitlines(keepends=True),
    }
    return json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


class Project:
    """A user's repository that has the hook."""

    def __init__(self, folder: Path, home: Path, hooks: Path) -> None:
        self.folder = folder
        self.home = home
        folder.mkdir()
        self.git("init", "-q")
        rev = run(["git", "rev-parse", "HEAD"], hooks, {}).stdout.strip()
        (folder / ".pre-commit-config.yaml").write_text(
            f"repos:\n- repo: {hooks.as_uri()}\n  rev: {rev}\n  hooks:\n  - id: freezecheck\n"
        )
        self.pre_commit("install")
        self.git("add", ".")

    def git(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run(["git", *IDENTITY, *words], self.folder, {"PRE_COMMIT_HOME": str(self.home)})

    def pre_commit(self, *words: str) -> subprocess.CompletedProcess[str]:
        words = (sys.executable, "-m", "pre_commit", *words)
        return run([*words], self.folder, {"PRE_COMMIT_HOME": str(self.home)})

    def commit(self, name: str, text: str) -> subprocess.CompletedProcess[str]:
        """Add a file and commit it."""
        (self.folder / name).write_text(text)
        self.git("add", name)
        return self.git("commit", "-q", "-m", name)

    def commits(self) -> int:
        return len(self.git("log", "--oneline").stdout.splitlines())


IDENTITY = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")


def run(
    words: list[str], folder: Path, variables: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command; the git that this may run under is none of its business."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "PRE_COMMIT"))}
    environment = {**kept, "GIT_CONFIG_GLOBAL": os.devnull, "NO_COLOR": "1", **variables}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A repository with the hook of this checkout, as it is now, installed."""
    base = tmp_path_factory.mktemp("pre-commit")
    hooks = base / "hooks"
    hooks.mkdir()
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, hooks / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, hooks / name)
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "as it is now")):
        done = run(["git", *IDENTITY, *words], hooks, {})
        assert done.returncode == 0, done.stderr
    project = Project(base / "project", base / "home", hooks)
    done = project.pre_commit("install-hooks")
    if done.returncode and UNREACHABLE.search(done.stdout + done.stderr):
        pytest.skip("the package index cannot be reached, and the hook's environment needs it")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def test_the_manifest_is_valid():
    words = [sys.executable, "-m", "pre_commit", "validate-manifest", ".pre-commit-hooks.yaml"]
    done = run(words, ROOT, {})
    assert done.returncode == 0, done.stdout


def test_a_healthy_commit_passes(project: Project):
    before = project.commits()
    done = project.commit("train.py", script("FC201", good=True))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"freezecheck\.+Passed", done.stdout + done.stderr)
    assert project.commits() == before + 1


@pytest.mark.parametrize("name", ["broken.py", "broken.ipynb"])
def test_a_broken_commit_is_stopped(project: Project, name: str):
    before = project.commits()
    text = script("FC201", good=False)
    done = project.commit(name, notebook(text) if name.endswith(".ipynb") else text)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert re.search(r"freezecheck\.+Failed", said)
    assert "error FC201 trainable-not-in-optimizer" in said
    assert name in said
    assert project.commits() == before
    project.git("rm", "-q", "--cached", "-f", name)


def test_other_files_are_passed_over(project: Project):
    done = project.commit("notes.md", "# model.requires_grad = True\n")
    assert re.search(r"freezecheck\.+\(no files to check\)Skipped", done.stdout + done.stderr)


def test_its_environment_has_no_torch(project: Project):
    (python,) = project.home.glob("repo*/py_env-*/bin/python")
    code = (
        "import importlib.util, sys\n"
        "found = [n for n in ('torch', 'numpy', 'rich') if importlib.util.find_spec(n)]\n"
        "print(*found)"
    )
    assert run([str(python), "-c", code], project.folder, {}).stdout.split() == ["rich"]
