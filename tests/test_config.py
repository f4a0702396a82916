"""[tool.freezecheck] in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from freezecheck import config
from freezecheck.arguments import BadInput
from freezecheck.config import closest


@pytest.fixture
def project(tmp_path, monkeypatch):
    """`project(toml, "sub")` is a pyproject.toml in that folder of the working directory."""
    monkeypatch.chdir(tmp_path)
    config._of_folder.cache_clear()

    def write(text: str, folder: str = ".") -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "pyproject.toml").write_text(text)
        config._of_folder.cache_clear()

    return write


def test_every_key(project):
    project("""
        [tool.freezecheck]
        select = ["FC2", "fc401"]
        ignore = ["FC212", "zero-rate-as-freeze"]
        exclude = ["legacy"]
        fail-on = "error"
        [tool.freezecheck.per-file-ignores]
        "tests/*" = ["FC2"]
        [tool.freezecheck.like]
        "my_lib.build_model" = "torchvision.models.resnet50"
        other.make = "timm.create_model"
    """)
    found = closest("a.py")
    assert found.select == ["FC2", "fc401"]
    assert found.ignore == ["FC212", "zero-rate-as-freeze"]
    assert found.exclude == ["legacy"]
    assert found.fail_on == "error"
    assert found.ignored_in("tests/deep/a.py") == ["FC2"]
    assert found.ignored_in("src/tests_a.py") == []
    assert found.like == {
        "my_lib.build_model": "torchvision.models.resnet50",
        "other.make": "timm.create_model",
    }


def test_without_a_file_nothing_is_wanted(project):
    project("[tool.ruff]\nselect = ['E']")
    found = closest("a.py")
    assert (found.select, found.ignore, found.fail_on) == (None, [], "warning")
    assert not found.excludes("a.py")


def test_the_closest_one_that_speaks_of_us(project):
    project("[tool.freezecheck]\nignore = ['FC1']")
    project("[tool.ruff]", "a")
    project("[tool.freezecheck]\nignore = ['FC2']", "a/b")
    assert closest("a/x.py").ignore == ["FC1"]
    assert closest("a/b/c/x.py").ignore == ["FC2"]
    assert closest("a/b").ignore == ["FC2"]
    assert closest("<stdin>").ignore == ["FC1"]


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("legacy", "legacy/a.py", True),
        ("legacy", "src/legacy/deep/a.py", True),
        ("legacy", "src/legacy.py", False),
        ("legacy/", "src/legacy/a.py", True),
        ("*_gen.py", "src/x_gen.py", True),
        ("src/old", "src/old/a.py", True),
        ("src/old", "src/older/a.py", False),
        ("./src/old/", "src/old/a.py", True),
        ("old/a.py", "src/old/a.py", False),
        ("src/*.py", "src/a.py", True),
        ("**/a.py", "src/old/a.py", True),
    ],
)
def test_patterns_count_from_the_folder_of_the_file(project, monkeypatch, pattern, path, matches):
    project(f"[tool.freezecheck]\nexclude = [{pattern!r}]", "sub")
    assert closest(f"sub/{path}").excludes(f"sub/{path}") is matches
    monkeypatch.chdir("sub")
    assert closest(path).excludes(path) is matches


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("selct = []", "unknown key 'selct' in [tool.freezecheck]; did you mean 'select'?"),
        ("fail_on = 'error'", "unknown key 'fail_on' in [tool.freezecheck]; did you mean 'fail-on'?"),
        ("lr = 3", "unknown key 'lr' in [tool.freezecheck] (it takes select, ignore,"),
        ("select = 'FC2'", "tool.freezecheck.select must be a list of strings"),
        ("exclude = [3]", "tool.freezecheck.exclude must be a list of strings"),
        ("ignore = ['FC20l']", "tool.freezecheck.ignore: unknown rule 'FC20l'; did you mean FC201?"),
        ("fail-on = 'errors'", "tool.freezecheck.fail-on must be one of 'error', 'warning',"),
        ("fail-on = ['error']", "tool.freezecheck.fail-on must be one of 'error', 'warning',"),
        ("per-file-ignores = []", "tool.freezecheck.per-file-ignores must be a table"),
        ("per-file-ignores.'a.py' = ['x']", "tool.freezecheck.per-file-ignores.'a.py': unknown rule"),
        ("like = 'x'", "tool.freezecheck.like must be a table"),
        ("like.a.b = 3", "tool.freezecheck.like.a.b must be a dotted name"),
        ("select = [", "Invalid value"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(project, toml, says):
    project(f"[tool.freezecheck]\n{toml}")
    with pytest.raises(BadInput) as raised:
        closest("a.py")
    text = str(raised.value)
    assert "\n" not in text
    assert says in text
    assert text.startswith("pyproject.toml: ")


def test_a_table_of_another_type(project):
    project("[tool]\nfreezecheck = 3 # tool.freezecheck")
    with pytest.raises(BadInput, match=r"tool\.freezecheck must be a table"):
        closest("a.py")
    project("tool = 3 # tool.freezecheck")
    assert closest("a.py").path == ""


def test_bytes_that_are_no_text(project):
    Path("pyproject.toml").write_bytes(b"# tool.freezecheck \xff")
    with pytest.raises(BadInput, match=r"^pyproject\.toml: "):
        closest("a.py")


def test_the_parser_is_imported_only_for_a_file_that_speaks_of_us(project):
    project("[tool.ruff]")
    code = "import sys; from freezecheck.config import closest; closest('a'); print('tomllib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n"
