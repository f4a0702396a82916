"""Commands run by the runner: what they see, where they stop, and that nothing is left."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest

from freezecheck.live import processes, runner
from freezecheck.live.board import PHASES, Board, innermost
from freezecheck.live.boot import freezecheck_environment as environment
from freezecheck.live.runner import Run, module_command, python_command

SCRIPTS = Path(__file__).parent / "scripts"
REPOSITORY = Path(__file__).parent.parent
LIMIT = 90  # seconds to the first step; a hang is a failed test, not a hung suite

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the runner is Linux's"
)


@pytest.fixture(autouse=True)
def traces(tmp_path, monkeypatch):
    """Nothing of a command may outlive it: no process, no file of ours, no shared memory."""
    mark = uuid.uuid4().hex
    # Not below tmp_path: worker processes put sockets there, whose paths are at most 107 bytes.
    places = Path(tempfile.mkdtemp(prefix="places-"))
    monkeypatch.setenv("FREEZECHECK_TEST", mark)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("WANDB_MODE", "disabled")  # the one difference that is wanted
    monkeypatch.setenv("TMPDIR", str(places))
    monkeypatch.setattr(tempfile, "tempdir", str(places))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    yield mark
    assert alive(mark) == []
    assert [p.name for p in places.iterdir() if p.name.startswith("freezecheck")] == []
    assert orphaned_shared_memory() == []
    shutil.rmtree(places)


def alive(mark: str) -> list[str]:
    """The command lines of processes that carry the mark, other than this one."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


def orphaned_shared_memory() -> list[str]:
    names = [name for name in os.listdir("/dev/shm") if name.startswith("torch_")]
    return [name for name in names if not os.path.exists(f"/proc/{name.split('_')[1]}")]


def run(*command: str | Path, **options) -> Run:
    return runner.run(
        [str(word) for word in command], timeout=options.pop("timeout", LIMIT), **options
    )


def python(script: str, *args: str | Path, **options) -> Run:
    return run(*python_command(str(SCRIPTS / script), [str(a) for a in args]), **options)


def shell(text: str, folder: Path) -> list[str]:
    script = folder / "run.sh"
    script.write_text(text.replace("PYTHON", shlex.quote(sys.executable)))
    return ["bash", str(script)]


# -- the same world -------------------------------------------------------------


def compare(command: list[str], out: Path) -> dict:
    """Run plainly and inspected; what the script saw must be the same."""
    subprocess.run(command, check=True, timeout=LIMIT, stdin=subprocess.DEVNULL, env=os.environ)
    plain = json.loads(out.read_text())
    out.unlink()
    assert run(*command).outcome == "ended"
    inspected = json.loads(out.read_text())
    assert list(differences(plain, inspected)) == []
    return plain


def differences(plain, inspected, place: str = ""):
    """Each value that differs, with its place."""
    if isinstance(plain, dict) and isinstance(inspected, dict):
        for key in sorted({*plain, *inspected}):
            yield from differences(plain.get(key), inspected.get(key), f"{place}.{key}")
    elif isinstance(plain, list) and isinstance(inspected, list) and len(plain) == len(inspected):
        for index, pair in enumerate(zip(plain, inspected)):
            yield from differences(*pair, f"{place}[{index}]")
    elif plain != inspected:
        yield f"{place}: {plain!r}, inspected: {inspected!r}"


@pytest.mark.parametrize(
    "path", [None, "", "/usr/share", "/usr/share:/nowhere/../x", ":/usr/share", "/usr/share:", ":"]
)
def test_a_script_sees_the_world_it_always_sees(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", path)
    out = tmp_path / "out"
    command = python_command(os.path.relpath(SCRIPTS / "world.py"), [str(out), "--lr", "1e-3", ""])
    seen = compare(command, out)
    assert seen["before"]["argv"] == ["--lr", "1e-3", ""]
    assert seen["before"]["cwd"] == str(tmp_path)


def test_the_world_is_the_same_after_torch_is_imported(tmp_path):
    out = tmp_path / "out"
    compare(python_command(str(SCRIPTS / "world.py"), [str(out), "torch"]), out)


def test_a_module_sees_the_world_it_always_sees(tmp_path, monkeypatch):
    package = tmp_path / "package" / "inner"
    package.mkdir(parents=True)
    (package / "module.py").write_text((SCRIPTS / "world.py").read_text())
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    seen = compare(module_command("package.inner.module", [str(out), "x"]), out)
    assert seen["before"]["spec"][0] == "package.inner.module"
    assert seen["before"]["package"] == "package.inner"


@pytest.mark.parametrize(
    "line",
    [
        "export PYTHONPATH=$PYTHONPATH:/usr/share",
        "export PYTHONPATH=/usr/share:$PYTHONPATH",
        "export PYTHONPATH=$PYTHONPATH:$(pwd)",
        'export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"',
    ],
)
@pytest.mark.parametrize("before", [None, "/usr/lib"])
def test_a_shell_script_may_add_to_the_path(tmp_path, monkeypatch, line, before):
    if before is not None:
        monkeypatch.setenv("PYTHONPATH", before)
    if before is None and ":+" in line:
        pytest.skip("the shell itself can tell that PYTHONPATH is set")
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    script = f"{line}\nexec PYTHON {SCRIPTS / 'world.py'} {out}\n"
    compare(shell(script, tmp_path), out)


@pytest.mark.parametrize("path", [None, b"", b"/a", b"/a:/b", b":/a", b"/a:", b":"])
def test_pythonpath_comes_back_exactly(path):
    assert environment.original(environment.prefixed(path)) == path


def test_a_shadowed_sitecustomize_still_runs(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.customised = __file__\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, sitecustomize\n"
        "assert sys.customised == sitecustomize.__file__ == sys.argv[1]\n"
        "assert not [p for p in sys.path if 'boot' in p]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = run(*python_command(str(script), [str(tmp_path / "sitecustomize.py")]))
    assert (result.outcome, result.stderr_tail) == ("ended", "")


def test_a_sitecustomize_that_fails_fails_as_before(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("1 / 0\n")
    script = tmp_path / "script.py"
    script.write_text("import sys\nassert 'sitecustomize' not in sys.modules\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = python_command(str(script))
    plain = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    result = run(*command)
    assert result.outcome == "ended"
    assert "ZeroDivisionError" in plain.stderr
    assert result.stderr_tail == plain.stderr.strip()


def test_weights_and_biases_are_off_unless_asked_for(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text("import os, sys\nprint(os.environ['WANDB_MODE'], file=sys.stderr)\n")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert run(*python_command(str(script))).stderr_tail == "disabled"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert run(*python_command(str(script))).stderr_tail == "offline"


def test_a_pipe_on_stdin_reaches_the_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint(input(), file=sys.stderr)\n")
    code = (
        "from freezecheck.live import runner\n"
        f"print(runner.run({python_command(str(script))!r}).stderr_tail)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="an answer\n",
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=LIMIT,
    )
    assert done.stdout == "an answer\n", done.stderr


# -- the first step ---------------------------------------------------------------


def test_a_plain_script_is_inspected_at_its_first_step(monkeypatch):
    monkeypatch.chdir(SCRIPTS)
    phases: list[str] = []
    result = run(*python_command("plain.py"), on_phase=phases.append)
    assert result.outcome == "inspected"
    assert result.hint == ""
    assert result.exit_status is None
    assert tuple(phases) == PHASES
    (report,) = result.reports
    assert report.stepped
    assert report.timeline.complete
    assert [p.name for p in report.snapshot.params] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert all(p.grad == "nonzero" and p.held for p in report.snapshot.params)
    site = report.snapshot.optimizers[0].site
    assert (site.path, site.line) == ("plain.py", 7)
    assert [e.kind for e in report.timeline.events][-2:] == ["backward", "step"]


def test_paths_are_told_from_where_the_command_started(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    text = (SCRIPTS / "plain.py").read_text()
    script = tmp_path / "project" / "train.py"
    script.parent.mkdir()
    script.write_text(f"import os\nos.chdir({str(elsewhere)!r})\n{text}")
    monkeypatch.chdir(tmp_path)
    (report,) = run(*python_command("project/train.py")).reports
    assert str(report.snapshot.optimizers[0].site) == "project/train.py:9"


def test_a_module_of_a_package_is_inspected(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "train.py").write_text((SCRIPTS / "plain.py").read_text())
    monkeypatch.chdir(tmp_path)
    result = run(*module_command("package.train"))
    assert result.outcome == "inspected"
    assert str(result.reports[0].snapshot.optimizers[0].site) == "package/train.py:7"


def test_the_script_gets_no_more_of_us_than_it_needs(tmp_path):
    """No rich, no reports, no rules in the process, and nothing on its path."""
    out = tmp_path / "out"
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "before = sys.path.copy()\n"
        "import torch\n"
        "m = torch.nn.Linear(2, 1)\n"
        "o = torch.optim.SGD(m.parameters(), lr=0.1)\n"
        "m(torch.ones(1, 2)).sum().backward()\n"
        "assert sys.path == before\n"
        f"open({str(out)!r}, 'w').write('\\n'.join(sys.modules))\n"
        "o.step()\n"
    )
    assert run(*python_command(str(script))).outcome == "inspected"
    seen = out.read_text().split("\n")
    assert "freezecheck.live.record" in seen
    assert "rich" not in seen
    assert not [
        name for name in seen if name.startswith(("freezecheck.rules", "freezecheck.report"))
    ]


def test_compiled_models_run_as_written(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\n"
        "calls = []\n"
        "def backend(graph, inputs):\n"
        "    calls.append(1)\n"
        "    return graph.forward\n"
        "m = torch.compile(torch.nn.Linear(2, 1), backend=backend)\n"
        "o = torch.optim.SGD(m.parameters(), lr=0.1)\n"
        "m(torch.ones(1, 2)).sum().backward()\n"
        "assert not calls\n"
        "o.step()\n"
    )
    result = run(*python_command(str(script)))
    assert result.outcome == "inspected", result.stderr_tail
    assert result.reports[0].snapshot.models[0].wrappers == ("OptimizedModule",)


# -- nothing runs after it ----------------------------------------------------------


def test_no_line_runs_after_the_step(tmp_path):
    out = tmp_path / "out"
    result = python("messy.py", out)
    now = time.time()
    assert result.outcome == "inspected"
    assert [p.name for p in out.iterdir()] == ["thread"]
    time.sleep(0.3)
    written = (out / "thread").read_text()
    assert not written or float(written) < now
    assert [p.name for p in out.iterdir()] == ["thread"]


def test_no_line_of_a_shell_script_runs_after_the_step(tmp_path):
    out = tmp_path / "out"
    command = shell(
        f"trap 'touch {tmp_path}/trap' EXIT TERM CHLD\n"
        f"PYTHON {SCRIPTS / 'messy.py'} {out} || touch {tmp_path}/failed\n"
        f"touch {tmp_path}/after\n",
        tmp_path,
    )
    assert run(*command).outcome == "inspected"
    time.sleep(0.3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "run.sh"]
    assert [p.name for p in out.iterdir()] == ["thread"]


def test_a_training_that_outlives_its_shell_is_found(tmp_path):
    """In the background, in a session of its own, its parent gone."""
    command = shell(f"setsid PYTHON {SCRIPTS / 'plain.py'} &\nexit 0\n", tmp_path)
    assert run(*command).outcome == "inspected"


def test_an_environment_that_is_made_anew_does_not_hide_a_process(tmp_path):
    script = tmp_path / "launch.py"
    script.write_text(
        "import os, subprocess, sys\n"
        f"command = [sys.executable, {str(SCRIPTS / 'plain.py')!r}]\n"
        "env = {'PATH': os.environ['PATH'], 'FREEZECHECK_TEST': os.environ['FREEZECHECK_TEST']}\n"
        "sys.exit(subprocess.call(command, env=env))\n"
    )
    assert run(*python_command(str(script))).outcome == "inspected"


@pytest.mark.parametrize("psutil", [True, False])
def test_elsewhere_a_tree_is_stopped_by_psutil_or_by_its_group(tmp_path, monkeypatch, psutil):
    monkeypatch.setattr(processes, "LINUX", False)
    if psutil:
        pytest.importorskip("psutil")
    else:
        monkeypatch.setitem(sys.modules, "psutil", None)
    out = tmp_path / "out"
    command = shell(
        f"sleep 1000 &\nPYTHON {SCRIPTS / 'messy.py'} {out}\ntouch {tmp_path}/after\n", tmp_path
    )
    assert run(*command).outcome == "inspected"
    assert [p.name for p in out.iterdir()] == ["thread"]
    assert not (tmp_path / "after").exists()


# -- several processes --------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_worker_processes_of_a_loader_end_too(tmp_path, method):
    result = python("loader.py", method, tmp_path / "far")
    assert result.outcome == "inspected"
    assert len(result.reports) == 1
    assert result.where == []
    assert not (tmp_path / "far").exists()


def test_who_is_waited_for(tmp_path):
    """A launcher (10) has started 11, which has reported, its loader's worker (12), and others."""
    parents = {10: 1, 11: 10, 12: 11, 13: 10, 14: 10, 15: 10}
    members = {pid: processes.Process(pid, up, 1, "S") for pid, up in parents.items()}
    told = {
        10: "start importing recording",
        11: "start importing recording optimizer backward report",
        12: "start importing recording",
        13: "start importing",
        14: "start importing recording optimizer",
        15: "start importing broken",
    }
    for pid, words in told.items():
        (tmp_path / f"{pid}.log").write_text("".join(f"{w}\tx\n" for w in words.split()) + "half")
    board = Board(str(tmp_path))
    assert board.read()
    assert not board.read()
    assert (board.settled, board.stepped) == (True, True)
    assert board.pending(members) == [13, 14, 15]
    assert board.importing([13, 14, 15])
    assert not board.importing([10, 12, 14, 15])
    members[14] = processes.Process(14, 10, 1, "Z")
    del members[15]
    assert board.pending(members) == [13]
    (tmp_path / "13.log").write_text("start\nimporting\nrecording\noptimizer\nreport\n")
    assert board.read()
    assert board.pending(members) == []


def torchrun(how: str) -> Run:
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    options = ["--standalone", "--nproc-per-node=2"]
    return run(*launcher, *options, SCRIPTS / "ranks.py", how)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["plain", "late"])
def test_every_rank_of_torchrun_reports(how):
    result = torchrun(how)
    assert result.outcome == "inspected", result
    assert [(r.rank, r.stepped) for r in result.reports] == [(0, True), (1, True)]
    assert result.reports[1].snapshot.models[0].wrappers == ("DistributedDataParallel",)


@pytest.mark.slow
def test_a_rank_that_never_steps_is_named_with_its_place():
    result = torchrun("hang")
    assert result.outcome == "inspected", result
    assert [(r.rank, r.stepped) for r in result.reports] == [(0, True), (1, False)]
    assert [p.name for p in result.reports[1].snapshot.params] == ["weight", "bias"]
    assert "within 3 s of the first one: rank 1." in result.hint
    (place,) = result.where
    text = (SCRIPTS / "ranks.py").read_text().splitlines()
    assert (place.rank, place.function) == (1, "train")
    assert "time.sleep(1000)" in text[place.site.line - 1]


@pytest.mark.slow
def test_every_spawned_process_reports(tmp_path, monkeypatch):
    monkeypatch.setenv("RENDEZVOUS", str(tmp_path))
    result = python("ranks.py", "spawn")
    assert result.outcome == "inspected", result
    assert [(r.rank, r.stepped) for r in result.reports] == [(0, True), (1, True)]


# -- runs that never get there --------------------------------------------------------


def test_a_crash_is_told_with_its_last_words_and_what_was_seen():
    result = python("stops.py", "before backward", "raise")
    assert (result.outcome, result.exit_status) == ("crashed", 1)
    assert result.stderr_tail.endswith("RuntimeError: the end came before backward")
    assert result.hint == "The command failed (exit status 1) before its first backward()."
    (report,) = result.reports
    assert not report.stepped
    assert not report.timeline.complete
    assert [p.name for p in report.snapshot.params] == ["weight", "bias"]


@pytest.mark.parametrize(
    ("place", "how", "outcome", "hint", "reports"),
    [
        ("before torch", "exit", "ended", "The command ended before it imported torch.", 0),
        (
            "before the optimizer",
            "exit",
            "ended",
            "The command ended before it built a torch optimizer.",
            0,
        ),
        (
            "before the step",
            "_exit",
            "ended",
            "The command ended before its first optimizer step.",
            1,
        ),
        (
            "before the step",
            "kill",
            "crashed",
            "The command was killed (SIGKILL) before its first optimizer step.",
            1,
        ),
    ],
)
def test_a_run_that_stops_early_says_how_far_it_got(place, how, outcome, hint, reports):
    result = python("stops.py", place, how)
    assert (result.outcome, result.hint) == (outcome, hint)
    assert [r.stepped for r in result.reports] == [False] * reports


def test_a_syntax_error_is_the_scripts_own(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import torch\nif True print()\n")
    result = run(*python_command(str(script)))
    assert result.outcome == "crashed"
    assert "SyntaxError" in result.stderr_tail


def test_progress_bars_are_told_as_they_looked(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "for i in range(101): print(f'\\r{i}%', end='', file=sys.stderr)\n"
        "print('\\nover', file=sys.stderr)\n"
    )
    assert run(*python_command(str(script))).stderr_tail == "100%\nover"


@pytest.mark.parametrize("options", [["-I"], ["-E"], ["-S"]])
def test_a_python_that_ignores_us_is_told(tmp_path, options):
    script = tmp_path / "script.py"
    script.write_text("pass\n")
    result = run(sys.executable, *options, script)
    assert result.outcome == "ended"
    assert "no Python process of it could be seen" in result.hint
    assert "-I, -E or -S" in result.hint


def test_a_path_that_replaces_ours_is_told(tmp_path):
    command = shell(f"PYTHONPATH=. PYTHON {SCRIPTS / 'stops.py'} 'before torch' x\n", tmp_path)
    assert "PYTHONPATH=src:$PYTHONPATH" in run(*command).hint


def test_a_python_without_torch_is_told(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    bare = tmp_path / "venv" / "bin" / "python"
    result = run(bare, SCRIPTS / "plain.py")
    assert result.outcome == "crashed"
    assert "No module named 'torch'" in result.stderr_tail
    assert f"{bare} has no torch" in result.hint
    assert "freezecheck[torch]" in result.hint


def test_a_torch_that_is_too_old_is_told(tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("__version__ = '1.13.1+cu117'\n")
    script = tmp_path / "script.py"
    script.write_text("import time, torch\ntime.sleep(1000)\n")
    result = run(*python_command(str(script)))
    assert result.outcome == "failed"
    assert "torch 1.13.1+cu117 is too old: freezecheck needs 2.4 or newer" in result.hint


@pytest.mark.slow
def test_a_hang_is_told_with_its_place():
    result = python("stops.py", "before backward", "hang", timeout=20)
    assert result.outcome == "timeout"
    assert result.hint == "The command was stopped after 20 s before its first backward()."
    (place,) = result.where
    text = (SCRIPTS / "stops.py").read_text().splitlines()
    assert place.function == "stop"
    assert "time.sleep(1000)" in text[place.site.line - 1]
    assert [r.stepped for r in result.reports] == [False]


def test_our_own_mistake_is_not_the_scripts(tmp_path):
    """What goes wrong in a hook of ours ends the run; the script's handlers never see it."""
    out = tmp_path / "out"
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "class Odd(torch.optim.SGD):\n"
        "    param_groups = property(lambda self: [{'params': None}] if self.step_soon else [])\n"
        "    step_soon = False\n"
        "m = torch.nn.Linear(2, 1)\n"
        "o = torch.optim.SGD(m.parameters(), lr=0.1)\n"
        "o.__class__ = Odd\n"
        "o.step_soon = True\n"
        "try:\n"
        "    o.step()\n"
        "finally:\n"
        f"    open({str(out)!r}, 'w')\n"
    )
    result = run(*python_command(str(script)))
    assert result.outcome == "failed"
    assert result.hint.startswith("freezecheck failed inside the script: TypeError: 'NoneType'")
    assert "rounds.py:" in result.hint
    assert not out.exists()


def test_a_hang_that_holds_the_interpreter_is_told_with_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text(
        "import ctypes\n\ndef stuck():\n    ctypes.PyDLL(None).sleep(1000)\n\nstuck()\n"
    )
    result = run(*python_command("script.py"), timeout=1)
    assert [(str(p.site), p.function) for p in result.where] == [("script.py:4", "stuck")]


def test_where_a_process_stands_is_the_users_innermost_line():
    dump = (
        "Thread 0x00007f01 (most recent call first):\n"
        '  File "/home/me/background.py", line 3 in work\n'
        "\n"
        "Thread 0x00007f00 [python] (most recent call first):\n"
        '  File "/usr/lib/python3.12/selectors.py", line 468 in select\n'
        '  File "/home/me/env/lib/python3.12/site-packages/torch/x.py", line 9 in get\n'
        '  File "/home/me/train.py", line 41 in one epoch\n'
        '  File "/home/me/train.py", line 80 in <module>\n'
    )
    site, function = innermost(dump)
    assert (str(site), function) == ("/home/me/train.py:41", "one epoch")
    alone = dump.split("\n\n")[0]
    assert str(innermost(alone)[0]) == "/home/me/background.py:3"
    assert innermost("") is None


# -- bad input ------------------------------------------------------------------------


def test_a_script_that_cannot_run_is_refused_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^nowhere\.py: no such file$"):
        python_command("nowhere.py")
    with pytest.raises(ValueError, match="is a directory: name the script in it"):
        python_command(str(tmp_path))
    with pytest.raises(ValueError, match="no command"):
        run()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match="cannot be read: permission denied"):
        python_command(str(SCRIPTS / "plain.py"))


def test_a_command_that_cannot_start_is_told(tmp_path):
    script = tmp_path / "run.sh"
    script.write_text("echo\n")
    for command, hint in (
        ("no-such-command", "no-such-command: command not found"),
        (str(script), f"{script}: permission denied (to run a script, name its interpreter"),
    ):
        result = run(command)
        assert result.outcome == "not started"
        assert result.hint.startswith(hint)
        assert result.reports == []


# -- output and interruption ------------------------------------------------------------


@pytest.mark.slow
def test_output_is_hidden_or_shown(capfd, tmp_path):
    script = tmp_path / "script.py"
    text = (SCRIPTS / "plain.py").read_text()
    script.write_text(f"import sys\nprint('said')\nprint('cried', file=sys.stderr)\n{text}")
    assert run(*python_command(str(script))).outcome == "inspected"
    assert capfd.readouterr() == ("", "")
    assert run(*python_command(str(script)), show_output=True).outcome == "inspected"
    out, err = capfd.readouterr()
    assert out == ""
    assert sorted(err.split()) == ["cried", "said"]


PARENT = """
import sys
from freezecheck.live import runner
try:
    runner.run(sys.argv[2:], on_phase=lambda phase: print(phase, flush=True))
except KeyboardInterrupt:
    print("interrupted")
    sys.exit(130)
"""


def parent(command: list[str]) -> subprocess.Popen[str]:
    code = [sys.executable, "-c", PARENT, "-"]
    return subprocess.Popen(
        [*code, *command], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, preexec_fn=heed
    )


def heed() -> None:
    """Take signals as from a terminal: `nohup` and a shell's `&` make children ignore some."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def wait_for(process: subprocess.Popen[str], phase: str) -> None:
    for line in process.stdout:
        if line.strip() == phase:
            return
    raise AssertionError(f"never reached {phase}")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupt_ends_the_whole_tree(tmp_path, traces, number, status):
    hangs = f"PYTHON {SCRIPTS / 'stops.py'} 'before the step' hang"
    command = shell(f"setsid sleep 1000 &\n{hangs}\ntouch {tmp_path}/after\n", tmp_path)
    process = parent(command)
    wait_for(process, "stepping")
    assert len(alive(traces)) > 3
    process.send_signal(number)
    process.send_signal(number)  # the impatient press twice
    process.communicate(timeout=20)
    assert process.returncode == status
    assert alive(traces) == []
    assert not (tmp_path / "after").exists()


def test_an_early_interrupt_ends_the_whole_tree(traces):
    process = parent(python_command(str(SCRIPTS / "plain.py")))
    wait_for(process, "starting")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out.split()[-1]) == (130, "interrupted")
    assert alive(traces) == []


def test_when_we_are_killed_the_script_does_not_train_on(tmp_path, traces):
    """Nobody is left to clean up; the script must stop at its step all the same."""
    flag = tmp_path / "flag"
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time, torch\n"
        "m = torch.nn.Linear(2, 1)\n"
        "o = torch.optim.SGD(m.parameters(), lr=0.1)\n"
        "m(torch.ones(1, 2)).sum().backward()\n"
        f"while not os.path.exists({str(flag)!r}): time.sleep(0.01)\n"
        "o.step()\n"
        f"open({str(tmp_path / 'after')!r}, 'w')\n"
    )
    command = shell(f"PYTHON {script}\ntouch {tmp_path}/after\n", tmp_path)
    process = parent(command)
    wait_for(process, "stepping")
    process.kill()
    process.communicate(timeout=20)
    flag.touch()
    deadline = time.monotonic() + 20
    while alive(traces) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not (tmp_path / "after").exists()
    for left in Path(os.environ["TMPDIR"]).glob("freezecheck-*"):  # a killed process leaves it
        subprocess.run(["rm", "-r", left], check=True)
