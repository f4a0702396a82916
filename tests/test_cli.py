"""The command line: whose words are whose, exit codes, streams, one line for bad input."""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from made_up import Heads, Missing
from torch import nn

from freezecheck import __version__, arguments, catalogue, cli, targets
from freezecheck.finding import Site
from freezecheck.live import runner
from freezecheck.live.board import Place
from freezecheck.live.board import Report as Seen
from freezecheck.live.capture import capture
from freezecheck.live.runner import Run
from freezecheck.timeline import Timeline

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _made_up_rules(monkeypatch):
    monkeypatch.setattr(catalogue, "load", lambda: (Missing(), Heads()))
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def script(tmp_path, monkeypatch):
    """`script(text)` is a file train.py in the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(text: str = "", name: str = "train.py") -> str:
        (tmp_path / name).write_text(text)
        return name

    return write


def seen(*, missing: bool, rank: int | None = None, stepped: bool = True) -> Seen:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    held = model[2] if missing else model
    optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
    model(torch.randn(2, 4)).sum().backward()
    now = capture({"model": model}, {"optimizer": optimizer})
    return Seen(1, rank, stepped, now, Timeline(complete=stepped))


@pytest.fixture
def ran(monkeypatch, script):
    """`ran(Run(...))` is what the runner will return; calls are kept in `ran.calls`."""
    script()

    def prepare(run: Run) -> None:
        def instead(command, **options):
            prepare.calls.append((command, options))
            return run

        monkeypatch.setattr(runner, "run", instead)

    prepare.calls = []
    return prepare


def inspected(**options) -> Run:
    return Run(("python",), "inspected", [seen(**options)], seconds=1.5)


# -- whose words are whose ----------------------------------------------------


@pytest.mark.parametrize(
    ("words", "ours", "kind", "theirs"),
    [
        ("train.py", "", "script", "train.py"),
        ("train.py --lr 3 --select x", "", "script", "train.py --lr 3 --select x"),
        ("train.py -- -m --help", "", "script", "train.py -- -m --help"),
        ("-q train.py -q", "-q", "script", "train.py -q"),
        ("--select FC2 train.py a", "--select FC2", "script", "train.py a"),
        ("--select=FC2 train.py a", "--select=FC2", "script", "train.py a"),
        ("--timeout 5 --no-color train.py", "--timeout 5 --no-color", "script", "train.py"),
        ("-m pkg.train -m x", "", "module", "pkg.train -m x"),
        ("-q -m pkg.train --help", "-q", "module", "pkg.train --help"),
        ("-- torchrun -q train.py", "", "command", "torchrun -q train.py"),
        ("--ignore FC2 -- bash -- x", "--ignore FC2", "command", "bash -- x"),
        ("-", "", "script", "-"),
        ("--select", "--select", None, ""),
        ("", "", None, ""),
    ],
)
def test_split(words, ours, kind, theirs):
    options, target = arguments.split(words.split())
    assert options == ours.split()
    if kind is None:
        assert target is None
    else:
        assert (target.kind, target.words) == (kind, theirs.split())


def test_split_knows_which_options_take_a_value():
    parsers = argparse.ArgumentParser().add_subparsers()
    arguments._inspect_parser(parsers)
    arguments._watch_parser(parsers)
    arguments._probe_parser(parsers)
    taking = {
        option
        for command in parsers.choices.values()
        for action in command._actions
        for option in action.option_strings
        if action.nargs is None
    }
    assert taking == set(arguments.WITH_VALUE)


def test_the_script_gets_its_words_as_python_gives_them(script, capfd):
    """The real thing: argv, options that look like ours, and the findings of a real run."""
    script(
        "import json, sys, torch\n"
        "json.dump(sys.argv, open('argv.json', 'w'))\n"
        "model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))\n"
        "optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)\n"
        "print('not shown')\n"
        "model(torch.ones(1, 2)).sum().backward()\n"
        "optimizer.step()\n"
        "open('after', 'w')\n"
    )
    words = ["--lr", "3", "--select", "x", "--", "-m", "a b"]
    assert cli.main(["inspect", "--ignore", "FC902", "train.py", *words]) == cli.FINDINGS
    out, err = capfd.readouterr()
    assert json.loads(Path("argv.json").read_text()) == ["train.py", *words]
    assert not Path("after").exists()
    assert err == ""
    assert "not shown" not in out
    assert out.count("error FC901 made-up-missing") == 2
    assert "ran `python train.py --lr 3 --select x -- -m 'a b'` to its first" in out
    assert "FC902" not in out


def test_a_real_crash_shows_the_end_of_the_output(script, capfd):
    script("import torch\nopt = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])\n1 / 0\n")
    assert cli.main(["inspect", "train.py"]) == cli.COULD_NOT
    out, err = capfd.readouterr()
    assert err.startswith("freezecheck: the command failed (exit status 1)")
    assert err.rstrip().endswith("ZeroDivisionError: division by zero")
    assert "no findings in what was seen" in out
    assert "which failed after" in out


# -- exit codes ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "fail_on", "code"),
    [
        (True, None, 1),
        (True, "error", 1),
        (True, "info", 1),
        (True, "never", 0),
        (False, None, 0),
        (False, "error", 0),
        (False, "warning", 0),
        (False, "info", 1),
    ],
)
def test_fail_on(ran, capsys, missing, fail_on, code):
    ran(inspected(missing=missing))
    options = ["--fail-on", fail_on] if fail_on else []
    assert cli.main(["inspect", *options, "train.py"]) == code
    assert "info FC902 made-up-head" in capsys.readouterr().out


@pytest.mark.parametrize("outcome", ["ended", "crashed", "timeout", "not started", "failed"])
@pytest.mark.parametrize("partial", [True, False])
def test_a_run_without_a_step(ran, capsys, outcome, partial):
    reports = [seen(missing=True, stepped=False)] if partial else []
    places = [Place(7, 1, Site("train.py", 1), "loop")]
    ran(Run(("python",), outcome, reports, 1, "last words", 2.0, places, "The command did that."))
    assert cli.main(["inspect", "--fail-on", "never", "train.py"]) == cli.COULD_NOT
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == "freezecheck: the command did that."
    assert "rank 1 was here, in loop" in err
    assert err.endswith("  last words\n")
    assert ("FC901" in out) == partial
    assert partial or out == ""


def test_a_run_without_a_step_as_json(ran, capsys):
    ran(Run(("python",), "crashed", [], 1, "last words", 2.0, [], "The command failed."))
    assert cli.main(["inspect", "--output-format", "json", "train.py"]) == cli.COULD_NOT
    out, err = capsys.readouterr()
    run = json.loads(out)["run"]
    assert (run["outcome"], run["problem"]) == ("crashed", "The command failed.")
    assert run["error_output"] == "last words"
    assert err.startswith("freezecheck: the command failed.\n")


def test_json_is_all_there_is_on_standard_output(ran, capsys):
    ran(inspected(missing=True))
    assert cli.main(["inspect", "--output-format", "json", "train.py", "--lr", "3"]) == cli.FINDINGS
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert (data["version"], data["command"]) == (1, "inspect")
    assert [f["code"] for f in data["findings"]] == ["FC901", "FC901", "FC902"]
    assert data["run"]["command"] == "python train.py --lr 3"
    assert err == ""


def test_interrupted(ran, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupt)
    assert cli.main(["inspect", "train.py"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "freezecheck: interrupted\n"


# -- several processes --------------------------------------------------------


def test_findings_of_several_processes_are_given_once(ran, capsys):
    reports = [seen(missing=True, rank=0), seen(missing=True, rank=1)]
    ran(Run(("torchrun",), "inspected", reports, seconds=2.0))
    assert cli.main(["inspect", "--", "torchrun", "train.py"]) == cli.FINDINGS
    out = capsys.readouterr().out
    assert out.count("FC901") == 2
    assert out.count("model (Sequential)") == 1
    assert "ran `torchrun train.py` in 2 processes (ranks 0, 1)" in out


def test_a_process_that_never_stepped_is_left_out(ran, capsys):
    reports = [seen(missing=False, rank=0), seen(missing=True, rank=1, stepped=False)]
    places = [Place(7, 1, Site("train.py", 26), "train")]
    ran(Run(("torchrun",), "inspected", reports, seconds=2.0, where=places))
    assert cli.main(["inspect", "train.py"]) == cli.CLEAN
    out = " ".join(capsys.readouterr().out.split())
    assert "rank 1 had taken no step when the others had, and is left out" in out
    assert "train.py:26, in train" in out


# -- options ------------------------------------------------------------------


def test_options_reach_the_runner(ran):
    ran(inspected(missing=False))
    cli.main(["inspect", "--timeout", "7.5", "--show-output", "train.py", "x"])
    cli.main(["inspect", "-m", "pkg.train", "x"])
    cli.main(["inspect", "--", "bash", "run.sh"])
    (first, options), (second, defaults), (third, _) = ran.calls
    assert first == [sys.executable, "train.py", "x"]
    assert (options["timeout"], options["show_output"]) == (7.5, True)
    assert second == [sys.executable, "-m", "pkg.train", "x"]
    assert (defaults["timeout"], defaults["show_output"]) == (runner.TIMEOUT, False)
    assert third == ["bash", "run.sh"]


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        ("--select FC901", {"FC901"}),
        ("--select FC9", {"FC901", "FC902"}),
        ("--select FC902,made-up-missing", {"FC901", "FC902"}),
        ("--select FC901 --select FC902", {"FC901", "FC902"}),
        ("--ignore fc901", {"FC902"}),
        ("--select FC9 --ignore made-up-head", {"FC901"}),
    ],
)
def test_select_and_ignore(ran, capsys, options, codes):
    ran(inspected(missing=True))
    cli.main(["inspect", *options.split(), "train.py"])
    assert set(re.findall(r"FC\d+", capsys.readouterr().out)) == codes


def test_quiet(ran, capsys):
    ran(inspected(missing=True))
    cli.main(["inspect", "-q", "--select", "FC901", "train.py"])
    out = capsys.readouterr().out
    assert out.startswith("error FC901")
    assert "ran `" not in out
    ran(inspected(missing=False))
    cli.main(["inspect", "-q", "--select", "FC901", "train.py"])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("inspect", "no script given, as in: freezecheck inspect train.py"),
        ("inspect -m", "no module given, as in: freezecheck inspect -m package.train"),
        ("inspect --", "no command given, as in: freezecheck inspect -- torchrun train.py"),
        ("inspect gone.py", "gone.py: no such file"),
        (
            "inspect . x",
            ". is a directory: name the script in it, or use -m for a package",
        ),
        (
            "inspect sh run.sh",
            "sh: no such file (to run a command: freezecheck inspect -- sh run.sh)",
        ),
        ("inspect run.sh x", "run.sh is no Python script: freezecheck inspect -- bash run.sh x"),
        (
            "inspect nb.ipynb",
            "nb.ipynb is a notebook: turn it into a script (jupyter nbconvert --to script nb.ipynb)",
        ),
        (
            "inspect --lr 3 train.py",
            "unknown option --lr; options of the script go after it"
            " (see freezecheck inspect --help)",
        ),
        (
            "inspect --timeout soon train.py",
            "argument --timeout: 'soon' is not a number of seconds"
            " (see freezecheck inspect --help)",
        ),
        (
            "inspect --timeout -1 train.py",
            "argument --timeout: '-1' is not a number of seconds (see freezecheck inspect --help)",
        ),
        (
            "inspect --select FC903 train.py",
            "unknown rule 'FC903'; did you mean FC901?",
        ),
        (
            "inspect --ignore , train.py",
            "no rule named after --select or --ignore (FC201, FC4, a name)",
        ),
        ("explain made-up-hea", "unknown rule 'made-up-hea'; did you mean made-up-head?"),
        ("explain", "the following arguments are required: RULE (see freezecheck explain --help)"),
        ("rules --all", "unknown option --all (see freezecheck rules --help)"),
        ("--all", "unknown option --all (see freezecheck --help)"),
    ],
)
def test_bad_input_gets_one_line(script, capsys, words, line):
    for name in ("run.sh", "nb.ipynb", "train.py"):
        script(name=name)
    assert cli.main(words.split()) == cli.COULD_NOT
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"freezecheck: {line}\n"


def test_unknown_command(capsys):
    assert cli.main(["inspekt", "train.py"]) == cli.COULD_NOT
    assert "'inspekt'" in capsys.readouterr().err


def test_without_a_command_the_help_is_shown(capsys):
    assert cli.main([]) == cli.COULD_NOT
    assert capsys.readouterr().err.startswith("usage: freezecheck")


@pytest.mark.parametrize(
    "words", ["--help", "inspect --help", "watch --help", "rules --help", "explain --help"]
)
def test_help_fits_a_narrow_terminal(capsys, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        cli.main(words.split())
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "usage: freezecheck" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"freezecheck {__version__}\n"


# -- rules and explain --------------------------------------------------------


def test_rules_are_a_line_each(capsys):
    assert cli.main(["rules"]) == cli.CLEAN
    first, second, _, legend = capsys.readouterr().out.splitlines()
    assert first.split(maxsplit=4) == [
        "FC901",
        "made-up-missing",
        "error",
        "setup",
        "A trainable tensor is in no optimizer.",
    ]
    assert second.startswith("FC902  made-up-head     info")
    assert legend.startswith("text: ")


def test_rules_as_json(capsys):
    assert cli.main(["rules", "--output-format", "json"]) == cli.CLEAN
    data = json.loads(capsys.readouterr().out)
    assert (data["version"], data["command"]) == (1, "rules")
    assert data["rules"][0] == {
        "code": "FC901",
        "name": "made-up-missing",
        "severity": "error",
        "halves": "L",
        "summary": "A trainable tensor is in no optimizer.",
    }


@pytest.mark.parametrize("word", ["FC901", "fc901", "made-up-missing"])
def test_explain_prints_markdown_to_a_pipe(capsys, word):
    assert cli.main(["explain", word, "FC902"]) == cli.CLEAN
    out = capsys.readouterr().out
    assert out.startswith("# FC901 made-up-missing (error)\n\nA trainable tensor is in no")
    assert "\n## What it does\n" in out
    assert out.endswith("# FC902 made-up-head (info)\n\nThere is a head.\n")


# -- streams ------------------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def _snapshot_file(tmp_path_factory) -> Iterator[None]:
    path = tmp_path_factory.mktemp("snapshot") / "snapshot.json"
    now = seen(missing=True).snapshot
    assert now is not None
    path.write_text(json.dumps(now.to_dict()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNAPSHOT", str(path))
        yield


def command(*words: str) -> list[str]:
    """freezecheck in a process of its own, with the made-up rules."""
    return [sys.executable, str(ROOT / "tests" / "made_up.py"), *words]


def environment(**extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, "TERM": "xterm-256color", **extra}


def on_a_terminal(words: list[str], cwd: Path, columns: int = 80, **extra: str) -> tuple[str, int]:
    """What a command writes to a terminal of that width, and its exit code."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        words, cwd=cwd, env=environment(**extra), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        written += part
    os.close(ours)
    return written.decode().replace("\r\n", "\n"), process.wait()


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_on_a_terminal_there_is_colour_and_a_spinner(script, tmp_path):
    script()
    written, code = on_a_terminal(command("inspect", "train.py"), tmp_path)
    assert code == cli.FINDINGS
    assert "\x1b[1;31merror FC901\x1b[0m" in written
    assert "building" in written
    assert "\x1b[?25h" in written  # the cursor is back
    lines = without_codes(written[written.index("\x1b[1mmodel") :]).splitlines()
    piped = subprocess.run(
        command("inspect", "train.py"),
        cwd=tmp_path, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert lines == piped.stdout.splitlines()
    assert piped.stderr == ""


@pytest.mark.parametrize("how", ["NO_COLOR", "--no-color", "TERM=dumb"])
def test_without_colour(script, tmp_path, how):
    script()
    extra = {"NO_COLOR": {"NO_COLOR": "1"}, "TERM=dumb": {"TERM": "dumb"}}.get(how, {})
    options = [how] if how.startswith("--") else []
    written, _ = on_a_terminal(command("inspect", *options, "train.py"), tmp_path, **extra)
    assert "error FC901" in without_codes(written)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", written)


def test_a_page_on_a_terminal_is_set_for_reading(tmp_path):
    written, code = on_a_terminal(command("explain", "FC901"), tmp_path, columns=60)
    assert code == cli.CLEAN
    assert "## What" not in written
    assert "What it does" in written
    assert all(len(line) <= 60 for line in without_codes(written).splitlines())


def test_rules_on_a_narrow_terminal(tmp_path):
    written, _ = on_a_terminal(command("rules"), tmp_path, columns=60)
    lines = without_codes(written).splitlines()
    assert lines[0].split() == ["FC901", "made-up-missing", "error", "setup"]
    assert lines[1].strip() == "A trainable tensor is in no optimizer."


def test_a_reader_that_goes_away_is_no_error(script, tmp_path):
    script()
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run(
            command("inspect", "train.py"),
            cwd=tmp_path, env=environment(), stdout=gone, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (cli.FINDINGS, "")


def test_what_a_stream_cannot_encode_is_escaped(script, tmp_path):
    script()
    done = subprocess.run(
        command("inspect", "train.py", "naïve"),
        cwd=tmp_path, env=environment(PYTHONIOENCODING="ascii"), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == cli.FINDINGS
    assert r"na\xefve" in done.stdout


@pytest.mark.parametrize(
    "words", [["rules"], ["explain", "FC902"], ["inspect", "train.py"], ["-h"]]
)
def test_the_command_line_is_light(words, script, tmp_path):
    """No torch in our own process, and rich only for a terminal."""
    script()
    code = (
        "import atexit, sys, made_up\n"
        "heavy = {'rich', 'torch', 'numpy', 'pygments'}\n"
        "atexit.register(lambda: print(sorted(heavy & sys.modules.keys())))\n"
        "made_up.main()"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path, env=environment(PYTHONPATH=paths), capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_run_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "freezecheck", "--version"],
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == f"freezecheck {__version__}\n"


# -- the text of the script ---------------------------------------------------


def test_what_the_text_shows_is_part_of_the_report(ran, script, capsys, monkeypatch):
    from freezecheck import lint

    found = Heads().finding("By the text.", site=Site("train.py", 1))
    monkeypatch.setattr(lint, "of_script", lambda path, settings: [found] if path else [])
    script("import torch.optim\n")
    ran(inspected(missing=True))
    assert cli.main(["inspect", "-q", "train.py"]) == cli.FINDINGS
    out = capsys.readouterr().out
    assert "By the text." in out
    assert "FC901" in out


def test_comments_and_the_configuration_hold_for_a_run(ran, script, capsys, monkeypatch):
    from freezecheck import config, lint

    found = Missing().finding("By the text.", site=Site("train.py", 1))
    monkeypatch.setattr(lint, "of_script", lambda path, settings: [found])
    run = Run(("python",), "inspected", [seen(missing=False)])
    ran(run)
    script("import torch.optim  # freezecheck: ignore[FC901]\n")
    config._of_folder.cache_clear()
    assert cli.main(["inspect", "train.py"]) == cli.CLEAN
    script("import torch.optim\n")
    assert cli.main(["inspect", "train.py"]) == cli.FINDINGS
    script("[tool.freezecheck]\nfail-on = 'never'\n", "pyproject.toml")
    config._of_folder.cache_clear()
    assert cli.main(["inspect", "train.py"]) == cli.CLEAN
    assert "By the text." in capsys.readouterr().out
    assert cli.main(["inspect", "--fail-on", "error", "train.py"]) == cli.FINDINGS
    config._of_folder.cache_clear()


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("train.py --lr 3", "train.py"),
        ("-m pkg.train", "pkg/train.py"),
        ("-m pkg", "pkg/__main__.py"),
        ("-m nowhere", None),
        ("-- torchrun --nproc-per-node 2 train.py -x other.py", "train.py"),
        ("-- bash train.sh", None),
    ],
)
def test_the_script_of_a_command(script, tmp_path, words, path):
    (tmp_path / "pkg").mkdir()
    for name in ("train.py", "other.py", "pkg/train.py", "pkg/__main__.py"):
        script("", name)
    assert targets.script(arguments.split(words.split())[1]) == path


def test_static_runs_nothing(script, capsys):
    script("import torch.optim\nraise SystemExit('it ran')\n")
    assert cli.main(["inspect", "--static", "--output-format", "json", "train.py"]) == cli.CLEAN
    captured = capsys.readouterr()
    assert json.loads(captured.out)["command"] == "lint"
    assert captured.err == ""
    assert cli.main(["inspect", "--static", "--", "bash", "x.sh"]) == cli.COULD_NOT
