"""Which files are linted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from freezecheck.source.files import NotThere, find


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """`tree("a.py", "b/c.py")` are files below the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text("")

    return make


@pytest.fixture(params=["a folder", "a checkout", "a checkout without git"])
def kind(request, tree, monkeypatch):
    """The same must hold wherever the folder is."""
    if request.param != "a folder":
        git("init")
    if request.param == "a checkout without git":
        monkeypatch.setenv("PATH", "/nowhere")
    return request.param


def git(*words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True,
                   capture_output=True)  # fmt: skip


def test_python_and_notebooks_in_order(tree, kind):
    tree("b.py", "a/z.py", "a/n.ipynb", "c.txt", "d.pyi", "e.pyc", "py", "ä ö.py", "x\ny.py")
    assert find(["."]) == ["a/n.ipynb", "a/z.py", "b.py", "x\ny.py", "ä ö.py"]
    assert find(["a", "b.py", "a/z.py", "./b.py"]) == ["a/n.ipynb", "a/z.py", "b.py"]
    assert find([os.path.abspath("a")]) == [os.path.abspath(n) for n in ("a/n.ipynb", "a/z.py")]


def test_what_nobody_means_is_passed_over(tree, kind):
    tree("a.py", ".venv/x.py", "env/pyvenv.cfg", "env/lib/x.py", "node_modules/m/x.py")
    tree("sub/build/x.py", "dist/x.py", "__pycache__/x.py", ".ipynb_checkpoints/x.ipynb")
    tree("lib/site-packages/torch/x.py")
    assert find(["."]) == ["a.py"]
    # but what is named is meant
    assert find([".venv"]) == [".venv/x.py"]
    assert find(["env/lib"]) == ["env/lib/x.py"]
    assert find(["lib/site-packages"]) == ["lib/site-packages/torch/x.py"]
    assert find(["dist/x.py"]) == ["dist/x.py"]


def test_what_git_ignores_is_passed_over_unless_named(tree):
    git("init")
    tree("a.py", "runs/b.py", "c_gen.py", "sub/c_gen.py", "tracked_gen.py")
    git("add", "tracked_gen.py")
    Path(".gitignore").write_text("runs\n*_gen.py\n")
    assert find(["."]) == ["a.py", "tracked_gen.py"]
    assert find(["runs", "sub/c_gen.py"]) == ["runs/b.py", "sub/c_gen.py"]
    assert find(["sub"]) == []


def test_of_a_checkout_what_is_there(tree):
    git("init")
    tree("a.py", "gone.py", "inner/b.py", "inner/skipped.py")
    git("add", "a.py", "gone.py")
    os.unlink("gone.py")
    git("-C", "inner", "init")
    Path("inner/.gitignore").write_text("skipped.py\n")
    assert find(["."]) == ["a.py", "inner/b.py"]


def test_a_hook_of_git_points_nowhere_else(tree, monkeypatch):
    git("init")
    tree("a.py", "sub/b.py")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
    assert find(["sub"]) == ["sub/b.py"]


def test_links_are_not_followed_round_in_circles(tree, kind):
    tree("a/b.py")
    os.symlink("..", "a/up")
    os.symlink("nowhere.py", "a/broken.py")
    assert find(["."]) == ["a/b.py"]


def test_excluded(tree, kind):
    tree("a.py", "b.py", "c/b.py")

    def excluded(path: str) -> bool:
        return os.path.basename(path) == "b.py"

    assert find(["."], excluded=excluded) == ["a.py"]
    assert find(["b.py"], excluded=excluded) == ["b.py"]
    assert find(["b.py", "a.py"], excluded=excluded, force=True) == ["a.py"]


def test_a_file_that_is_named_is_taken_whatever_its_name(tree):
    tree("train", "model.txt")
    assert find(["train", "model.txt"]) == ["train", "model.txt"]


def test_a_path_that_is_not_there(tree):
    with pytest.raises(NotThere, match=r"^nowhere/x\.py: no such file or folder$"):
        find(["nowhere/x.py"])
