"""`freezecheck lint`: from paths to findings, exit codes, notebooks, broken files, processes.

The analysis is made up: a call of `bad()` is a statement that the rule FC901 finds, one of
`maybe()` is found in one of two worlds, `unknown()` is not understood.
"""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_notebook import book

from freezecheck import catalogue, cli, config, lint, program
from freezecheck.finding import Edit, Fix, Severity, Site
from freezecheck.program import Event, World
from freezecheck.rule import Rule
from freezecheck.source.analysis import Analysis

ROOT = Path(__file__).parents[1]
TRAINS = "import torch.optim\n"  # a file that matters


class Bad(Rule):
    code = "FC901"
    name = "made-up-bad"
    severity = Severity.WARNING

    def in_source(self, world: World):
        for event in world.of(program.STATEMENT):
            site = event.site
            edit = Edit(
                Site(site.path, site.line, site.column, site.line, site.end_column), "good()"
            )
            yield self.finding(f"{event.value}.", site=site, fix=Fix("be good", (edit,), safe=True))


def analyze(tree, path, *, modules=None, like=None, name="", **options):
    """A world, or two where there is a `maybe()`."""
    called = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and modules is not None and modules.get(node.module):
            other, where = modules[node.module]
            called += [
                ast.copy_location(ast.Call(c.func, [ast.Constant(where)]), c)
                for c in ast.walk(other)
                if isinstance(c, ast.Call)
            ]
    if any(node.func.id == "fail" for node in called):
        raise KeyError("a mistake of ours")
    worlds = []
    for names in (("bad",), ("bad", "maybe")):
        world = World(path)
        start = Site(path, 1)
        world.events.append(Event(0, program.FORWARD, start))
        for node in called:
            where = node.args[0].value if node.args else path
            site = Site(
                where, node.lineno, node.col_offset + 1, node.end_lineno, node.end_col_offset + 1
            )
            kind = program.STATEMENT if node.func.id in names else program.FORWARD
            world.events.append(Event(len(world.events), kind, site, value=node.func.id))
        worlds.append(world)
    return Analysis(worlds, [(n.lineno, "unknown") for n in called if n.func.id == "unknown"])


@pytest.fixture(autouse=True)
def _made_up(monkeypatch):
    own = tuple(r for r in catalogue.load() if r.code in ("FC001", "FC002", "FC003"))
    monkeypatch.setattr(catalogue, "load", lambda: (*own, Bad()))
    monkeypatch.setattr(lint, "analyze", analyze)
    config._of_folder.cache_clear()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """`files({"a.py": text})` are in the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(texts: dict[str, str | bytes]) -> list[str]:
        for name, text in texts.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        config._of_folder.cache_clear()
        return list(texts)

    return write


@pytest.fixture
def run(capsys):
    """`run("a.py", "--fix")` is (exit code, what is on standard output)."""

    def call(*words: str) -> tuple[int, str]:
        code = cli.main(["lint", *words])
        run.err = capsys.readouterr
        captured = capsys.readouterr()
        call.err = captured.err
        return code, captured.out

    return call


def found(linted) -> list[str]:
    return [f"{f.code} {f.site}" for f in linted.findings]


# -- findings -----------------------------------------------------------------


def test_what_is_found_and_counted(files, run):
    files({"a.py": TRAINS + "bad()\n", "b/c.py": TRAINS + "unknown()", "d.py": "bad()"})
    code, out = run("--output-format", "json")
    data = json.loads(out)
    assert code == cli.FINDINGS
    assert data["command"] == "lint"
    assert [(f["code"], f["path"], f["line"]) for f in data["findings"]] == [("FC901", "a.py", 2)]
    linted = lint.lint(["a.py", "b/c.py", "d.py"], lint.Settings())
    assert (linted.files, linted.skipped, linted.calls) == (3, 1, 1)


def test_exit_codes(files, run):
    files({"a.py": TRAINS + "bad()\n", "good.py": TRAINS})
    assert run("good.py")[0] == cli.CLEAN
    assert run("a.py")[0] == cli.FINDINGS
    assert run("a.py", "--fail-on", "error")[0] == cli.CLEAN
    assert run("a.py", "--fail-on", "never")[0] == cli.CLEAN
    assert run("a.py", "--exit-zero")[0] == cli.CLEAN
    assert "FC901" in run("a.py", "--exit-zero")[1]
    assert run()[0] == cli.FINDINGS, "without a path, this folder"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere.py"], "nowhere.py: no such file or folder"),
        (["-", "good.py"], "- (standard input) goes with no other path"),
        (["--stdin-filename", "x.py", "good.py"], "--stdin-filename goes with -"),
        (["--select", "FC20l"], "unknown rule 'FC20l'"),
        (["--select", ","], "no rule named after --select"),
        (["--ignore", "x"], "unknown rule 'x'"),
        (["--jobs", "0"], "'0' is not a number above 0"),
        (["--output-format", "xml"], "invalid choice: 'xml'"),
        (["--unheard-of"], "unknown option --unheard-of"),
    ],
)
def test_what_cannot_be_done_is_one_line(files, run, words, says):
    files({"good.py": TRAINS})
    code, out = run(*words)
    assert (code, out) == (cli.COULD_NOT, "")
    assert says in run.err
    assert run.err.startswith("freezecheck: ")
    assert run.err.count("\n") == 1


def test_what_needs_a_branch_is_for_the_strict(files, run):
    files({"a.py": TRAINS + "maybe()\n"})
    assert run("a.py")[0] == cli.CLEAN
    code, out = run("a.py", "--strict")
    assert (code, "FC901" in out) == (cli.FINDINGS, True)


def test_select_and_ignore(files, run):
    files({"a.py": TRAINS + "bad()\n", "broken.py": TRAINS + "x = ("})
    assert run("a.py", "--ignore", "FC9")[0] == cli.CLEAN
    assert run("a.py", "--select", "FC001")[0] == cli.CLEAN
    assert run("broken.py", "--select", "FC901")[0] == cli.FINDINGS, "not read is not clean"
    assert run("broken.py", "--ignore", "FC003")[0] == cli.CLEAN


def test_a_file_that_is_imported_is_followed_and_reported_once(files):
    names = files(
        {
            "train.py": TRAINS + "from helpers import build\n",
            "helpers.py": TRAINS + "def build():\n    bad()\n",
            "alone/train.py": TRAINS + "from other import x\n",
        }
    )
    assert found(lint.lint(["train.py"], lint.Settings())) == ["FC901 helpers.py:3"]
    assert found(lint.lint(names, lint.Settings())) == ["FC901 helpers.py:3"]
    Path("helpers.py").write_text(TRAINS + "def build():\n    bad()  # noqa: FC901\n")
    assert found(lint.lint(["train.py"], lint.Settings())) == []
    assert found(lint.lint(names, lint.Settings())) == []


def test_comments_suppress_and_are_judged(files):
    names = files(
        {
            "a.py": TRAINS + "bad()  # freezecheck: ignore[FC901]\n",
            "b.py": TRAINS + "good()  # freezecheck: ignore[FC901, FC999]\n",
            "c.py": "x = 1  # noqa: FC901\n",
        }
    )
    assert found(lint.lint(names, lint.Settings())) == [
        "FC001 b.py:2",
        "FC002 b.py:2",
        "FC001 c.py:1",
    ]
    assert found(lint.lint(names, lint.Settings(["FC901"]))) == []


# -- configuration ------------------------------------------------------------


def test_the_configuration_of_a_project(files, run):
    files(
        {
            "pyproject.toml": "[tool.freezecheck]\nexclude = ['old']\nfail-on = 'error'\n"
            "per-file-ignores = {'tests/*' = ['FC901']}",
            "a.py": TRAINS + "bad()\n",
            "old/b.py": TRAINS + "bad()\n",
            "tests/c.py": TRAINS + "bad()\n",
            "inner/pyproject.toml": "[tool.freezecheck]\nignore = ['FC901']",
            "inner/d.py": TRAINS + "bad()\n",
        }
    )
    code, out = run("--output-format", "concise")
    assert code == cli.CLEAN
    assert [line.partition(":")[0] for line in out.splitlines()[:-1]] == ["a.py"]
    assert run("--fail-on", "warning")[0] == cli.FINDINGS
    assert "old/b.py" in run("old/b.py")[1], "named, so meant"
    assert "old/b.py" not in run("old/b.py", "--force-exclude")[1]
    assert "inner/d.py" in run("inner", "--select", "FC901")[1]


def test_a_wrong_configuration_is_one_line(files, run):
    files({"pyproject.toml": "[tool.freezecheck]\nselct = []", "a.py": TRAINS})
    code, out = run("a.py")
    assert (code, out) == (cli.COULD_NOT, "")
    assert run.err == (
        "freezecheck: pyproject.toml: unknown key 'selct' in [tool.freezecheck]; did you mean"
        " 'select'?\n"
    )


# -- notebooks ----------------------------------------------------------------


def test_a_notebook_is_one_program_with_places_by_cell(files, run):
    files({"nb.ipynb": book("%pip install x", "# Text", TRAINS + "\nbad()", kinds=" m ")})
    code, out = run("nb.ipynb")
    assert code == cli.FINDINGS
    assert "nb.ipynb[cell 3]:3" in out
    assert "3 | bad()" in out


def test_a_notebook_is_fixed_in_place(files, run):
    old = book("%pip install x", TRAINS + "bad()\nbad()", "é = 1")
    files({"nb.ipynb": old})
    assert run("nb.ipynb", "--fix")[0] == cli.CLEAN
    assert Path("nb.ipynb").read_bytes() == old.replace(b"bad()", b"good()")


# -- what cannot be read ------------------------------------------------------

BROKEN = {
    "syntax": (TRAINS + "x = (\n", 2),
    "python 2": (TRAINS + "print 'x'\n", 2),
    "tabs": (TRAINS + "if 1:\n\tx\n        y\n", 4),
    "null bytes": (TRAINS + "x = 1\n\0\n", 3),
    "not utf-8": (TRAINS.encode() + b"# \xff\xfe\n", 2),
    "unknown encoding": ("# coding: martian\n" + TRAINS, 1),
    "utf-16": (TRAINS.encode("utf-16"), 1),
    "deep": (TRAINS + "(" * 5000 + ")" * 5000, 2),
    "deep expression": (TRAINS + "x = " + "-" * 100_000 + "1", None),
    "long chain": (TRAINS + "x = " + "1+" * 50_000 + "1", None),
    "unfinished string": (TRAINS + "'''", 2),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_one_finding(files, run, kind):
    text, line = BROKEN[kind]
    files({"a.py": text})
    linted = lint.lint(["a.py"], lint.Settings())
    assert [f.code for f in linted.findings] in (["FC003"], []) if line is None else ["FC003"]
    if line:
        assert found(linted) == [f"FC003 a.py:{line}"]
    code, out = run("a.py")
    assert "Traceback" not in out + run.err
    assert code == (cli.FINDINGS if linted.findings else cli.CLEAN)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8-sig", "cp1252"])
def test_files_in_their_own_encodings(files, run, encoding):
    head = "" if encoding == "utf-8-sig" else f"# coding: {encoding}\n"
    data = (head + TRAINS + "s = 'é'\r\nbad()").encode(encoding)
    files({"a.py": data})
    assert run("a.py")[0] == cli.FINDINGS
    assert run("a.py", "--fix")[0] == cli.CLEAN
    assert Path("a.py").read_bytes() == data.replace(b"bad()", b"good()")


def test_broken_notebooks(files):
    names = files(
        {
            "a.ipynb": b'{"cells": [{"torch.optim',
            "b.ipynb": book(TRAINS + "x = (", TRAINS + "bad()"),
        }
    )
    linted = lint.lint(names, lint.Settings())
    assert found(linted) == [
        "FC003 a.ipynb:1",
        "FC003 b.ipynb[cell 1]:2",
        "FC901 b.ipynb[cell 2]:2",
    ]


def test_a_file_without_leave_to_read(files, run):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    files({"a.py": TRAINS})
    os.chmod("a.py", 0)
    assert found(lint.lint(["a.py"], lint.Settings())) == ["FC003 a.py:1"]


def test_a_mistake_of_our_own_costs_one_file(files):
    names = files({"a.py": TRAINS + "fail()", "b.py": TRAINS + "bad()"})
    linted = lint.lint(names, lint.Settings())
    assert found(linted) == ["FC003 a.py:1", "FC901 b.py:2"]
    assert (
        "freezecheck itself failed on it (KeyError at test_lint.py:" in linted.findings[0].message
    )


def test_one_long_line(files):
    names = files({"a.py": TRAINS + "x = [" + "'abc', " * 150_000 + "]  # noqa: FC901"})
    assert found(lint.lint(names, lint.Settings())) == ["FC001 a.py:2"]


# -- fixes --------------------------------------------------------------------


def test_fix_writes_and_diff_does_not(files, run):
    files({"a.py": TRAINS + "bad()\r\n", "b.py": TRAINS + "x = 1\n"})
    os.chmod("a.py", 0o750)
    os.symlink("a.py", "link.py")
    code, out = run("a.py", "b.py", "--diff")
    assert code == cli.FINDINGS
    assert out.startswith("--- a.py\n+++ a.py\n")
    assert "-bad()" in out
    assert b"bad()" in Path("a.py").read_bytes()
    code, out = run("link.py", "b.py", "--fix")
    assert code == cli.CLEAN
    assert run.err == "freezecheck: 1 fix applied\n"
    assert Path("a.py").read_bytes() == TRAINS.encode() + b"good()\r\n"
    assert Path("a.py").stat().st_mode & 0o777 == 0o750
    assert os.path.islink("link.py")
    assert run("a.py", "--diff") == (cli.CLEAN, "")
    assert sorted(os.listdir()) == ["a.py", "b.py", "link.py"]


def test_a_file_that_is_imported_but_not_named_is_not_fixed(files, run):
    files({"train.py": TRAINS + "from helpers import b\n", "helpers.py": TRAINS + "bad()\n"})
    assert run("train.py", "--fix")[0] == cli.FINDINGS
    assert Path("helpers.py").read_text() == TRAINS + "bad()\n"


def test_a_folder_that_may_not_be_written_is_one_line(files, run, monkeypatch):
    files({"a.py": TRAINS + "bad()\n"})

    def refuse(*words, **options):
        raise PermissionError(13, "Permission denied", "a.py")

    monkeypatch.setattr("freezecheck.mend.tempfile.mkstemp", refuse)
    assert run("a.py", "--fix")[0] == cli.COULD_NOT
    assert run.err == "freezecheck: a.py: Permission denied\n"


# -- standard input -----------------------------------------------------------


@pytest.fixture
def stdin(monkeypatch):
    def give(text: str | bytes) -> None:
        data = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return give


def test_standard_input(files, run, stdin):
    files({"a.py": "on the disk\n" * 9})
    stdin(TRAINS + "bad()\n")
    code, out = run("-")
    assert code == cli.FINDINGS
    assert "--> <stdin>:2" in out
    stdin(TRAINS + "bad()\n")
    code, out = run("-", "--stdin-filename", "a.py")
    assert "--> a.py:2" in out
    assert "2 | bad()" in out, "its own text, not that of the file"


def test_standard_input_is_fixed_to_standard_output(files, capfdbinary, stdin):
    files({})
    stdin(TRAINS + "bad()\r\n")
    with open(os.dup(1), "w") as out:
        saved, sys.stdout = sys.stdout, out
        try:
            code = cli.main(["lint", "-", "--fix", "-q"])
        finally:
            sys.stdout = saved
    assert code == cli.CLEAN
    assert capfdbinary.readouterr().out == TRAINS.encode() + b"good()\r\n"


# -- processes and start-up ---------------------------------------------------


def test_several_processes_say_the_same(files):
    names = files(
        {f"{n:02}.py": TRAINS + "bad()\n" * (n % 3) + "x = (" * (n % 7 == 0) for n in range(40)}
    )
    one = lint.lint(names, lint.Settings(), jobs=1)
    assert len(one.findings) > 20
    assert lint.lint(names, lint.Settings(), jobs=3) == one


def test_a_killed_process_is_one_line(files, run, monkeypatch):
    names = files({f"{n}.py": TRAINS for n in range(9)})
    monkeypatch.setattr(lint.Linter, "check", lambda self, path: os.kill(os.getpid(), 9))
    assert run(*names, "--jobs", "2")[0] == cli.COULD_NOT
    assert run.err.startswith("freezecheck: a process was killed from outside")


def command(*words: str, cwd: Path, **options) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, **options,
    )  # fmt: skip


def test_nothing_heavy_is_imported(tmp_path):
    """For one file, to a pipe."""
    (tmp_path / "a.py").write_text(TRAINS + "x = (\n")
    code = (
        "import sys; from freezecheck.cli import main; main(['lint', 'a.py'])\n"
        "heavy = 'torch numpy rich importlib.metadata asyncio multiprocessing tomllib difflib'\n"
        "heavy += ' concurrent.futures subprocess shutil inspect dataclasses statistics freezecheck.live'\n"
        "print([each for each in heavy.split() if each in sys.modules])"
    )
    assert command("-c", code, cwd=tmp_path).stdout.splitlines()[-1] == "[]"
