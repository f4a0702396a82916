"""The plugin, with the real flake8: the findings of `lint`, and flake8's own say over them."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from freezecheck import catalogue
from freezecheck.flake8 import Plugin

pytest.importorskip("flake8")

BAD = next(e.code for e in catalogue.find("FC201").examples() if not e.good)
LINE = next(n for n, text in enumerate(BAD.splitlines(), 1) if "# <- FC201" in text)
PLAIN = BAD.replace("  # <- FC201", "")


def said(comment: str) -> str:
    """The script with a comment on the line of its finding."""
    return BAD.replace("# <- FC201", comment)


def run(folder: Path, *words: str, text: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, input=text, capture_output=True, text=True
    )
    assert not done.stderr, done.stderr
    return done.stdout


def flake8(folder: Path, *options: str, text: str | None = None) -> list[str]:
    """`line code` of each of our findings in train.py (or in `text`)."""
    file = "train.py" if text is None else "-"
    form = "--format=%(row)d %(code)s"
    return run(
        folder, "flake8", "--isolated", "--select=FC", "-j1", form, *options, file, text=text
    ).splitlines()


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(PLAIN)
    return path


def test_it_is_registered():
    points = importlib.metadata.entry_points(group="flake8.extension", name="FC")
    assert [point.load() for point in points] == [Plugin]


def test_it_says_what_lint_says(train: Path):
    folder = train.parent
    printed = run(folder, "freezecheck", "lint", "--output-format=json", "--exit-zero", "train.py")
    expected = sorted(
        f"{f['line']}:{f['column']}: {f['code']} {f['message']}"
        for f in json.loads(printed)["findings"]
    )
    form = "--format=%(row)d:%(col)d: %(code)s %(text)s"
    assert sorted(flake8(folder, form)) == expected
    assert [line.split(":")[0] for line in expected] == [str(LINE)]


def test_standard_input(tmp_path: Path):
    assert flake8(tmp_path, "--stdin-display-name=model.py", text=PLAIN) == [f"{LINE} FC201"]


def test_noqa_is_the_business_of_flake8(train: Path):
    folder = train.parent
    train.write_text(said("# noqa: FC201"))
    assert flake8(folder) == []
    assert flake8(folder, "--disable-noqa") == [f"{LINE} FC201"]
    train.write_text(said("# noqa: E501, FC2"))
    assert flake8(folder) == []
    train.write_text(said("# noqa: E501"))
    assert flake8(folder) == [f"{LINE} FC201"]
    train.write_text(PLAIN.replace("import torch, ", "import torch  # noqa: FC301\nimport "))
    assert flake8(folder) == [f"{LINE + 1} FC201"], "an unused noqa is not ours to report"


def test_our_own_comments_hold_too(train: Path):
    train.write_text(said("# freezecheck: ignore[FC201]"))
    assert flake8(train.parent) == []
    train.write_text(said("# freezecheck: ignore[FC102]"))
    assert flake8(train.parent) == [f"{LINE} FC201", f"{LINE} FC001"]


def test_what_pyproject_says_holds_and_its_mistakes_are_told(train: Path):
    config = train.with_name("pyproject.toml")
    config.write_text('[tool.freezecheck]\nignore = ["FC2"]\n')
    assert flake8(train.parent) == []
    config.write_text('[tool.freezecheck]\nignored = ["FC2"]\n')
    (line,) = flake8(train.parent, "--format=%(row)d %(code)s %(text)s")
    assert line.startswith("1 FC003 its configuration cannot be read: ")
    assert "'ignored'" in line


def test_a_file_that_is_no_python_is_left_to_flake8(train: Path):
    train.write_text("import torch\ndef f(:\n")
    assert flake8(train.parent) == []
    assert flake8(train.parent, "--select=E9,FC") == ["2 E999"]


@pytest.mark.parametrize("cookie", ["", "# -*- coding: latin-1 -*-\n", "# coding: no-such\n"])
def test_columns_count_characters_whatever_the_encoding(cookie: str):
    text = cookie + PLAIN.replace("optimizer = ", "'é∀'; optimizer = ")
    lines = text.splitlines(keepends=True)
    found = list(Plugin(ast.parse(PLAIN), "train.py", lines).run())
    if "no-such" in cookie:
        assert [text[:5] for _, _, text, _ in found] == ["FC003"]
        return
    ((line, column, text, kind),) = found
    assert (text[:5], kind) == ("FC201", Plugin)
    assert lines[line - 1][column:].startswith("torch.optim.SGD(")


def test_it_needs_no_torch(train: Path):
    code = (
        "import sys; from flake8.main.cli import main\n"
        "main(['--isolated', '--select=FC', '-j1', '--exit-zero', 'train.py'])\n"
        "bad = {'rich', 'torch', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {bad}' if bad else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=train.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
