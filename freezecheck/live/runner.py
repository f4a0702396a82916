"""A user's unmodified command in child processes, inspected at its first optimizer step.

The command runs as it would without us: same arguments, working directory,
`sys.path`, `__main__` and environment (but WANDB_MODE=disabled where it is not
set). A `sitecustomize` in every Python process of it waits for torch, records,
writes a report and holds still (`boot`, `child`); this side waits for the
reports, freezes the whole tree and kills it. No line of the user's runs after
the step: no checkpoint, no `finally`, no next line of a shell script.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from freezecheck.live import hints, sandbox
from freezecheck.live.board import PHASES, Board, Place, Report
from freezecheck.live.boot import freezecheck_environment as environment
from freezecheck.live.child import CWD
from freezecheck.live.interrupts import Interrupts
from freezecheck.live.plan import Plan
from freezecheck.live.processes import Tree, adopting_orphans
from freezecheck.live.still import ALIVE
from freezecheck.memory import Memory
from freezecheck.warmup import Progress

TIMEOUT = 600.0  # seconds to the first step
_GRACE = 3.0  # seconds without news, after the first report, for which others are waited for
_POLL = 0.005
_TAIL = 8192  # bytes
_CALL = os.path.join(os.path.dirname(environment.__file__), "freezecheck_call.py")


@dataclass(slots=True)
class Run:
    """What became of a command.

    `outcome` is "inspected" (it got as far as was planned), "ended" or "crashed" or
    "timeout" before that, "not started" (no such command or function), or "failed" (freezecheck
    itself did, inside the script). A run that was to go on beyond the first step and
    ended by itself, without an error, is inspected, too. `reports` has one entry per process that
    built an optimizer, by rank; those that never stepped say what was seen up
    to then. `hint` is one line on what to do, empty where there is nothing.
    """

    command: tuple[str, ...]
    outcome: str = "not started"
    reports: list[Report] = field(default_factory=list)
    exit_status: int | None = None  # of the command, negative: a signal; None: it was stopped
    stderr_tail: str = ""  # empty where the output was shown
    seconds: float = 0.0
    where: list[Place] = field(default_factory=list)  # where processes that never stepped stood
    hint: str = ""
    plan: Plan = Plan()  # noqa: RUF009 -- it is frozen
    weights_left_out: list[str] = field(default_factory=list)  # by --no-weights, as asked for
    # What it was run to: "step"; of a function "call", or "backward" where one was made.
    until: str = "step"
    remarks: list[str] = field(default_factory=list)  # what could not be looked at
    uncut: bool = False  # the batches came from where they cannot be cut
    memory: Memory | None = None  # that fake tensors would take
    probe: Any = None  # what a probe has written, as JSON: its report, or its cost


def python_command(script: str, args: Sequence[str] = (), function: str | None = None) -> list[str]:
    """`python SCRIPT ARGS...` with this Python; or the call of a (dotted) function in the script,
    with these ARGS in `sys.argv`. ValueError: there is no such script."""
    try:
        mode = os.stat(script).st_mode
    except OSError:
        raise ValueError(f"{script}: no such file") from None
    if stat.S_ISDIR(mode):
        raise ValueError(f"{script} is a directory: name the script in it, or use -m for a package")
    if not os.access(script, os.R_OK):
        raise ValueError(f"{script} cannot be read: permission denied")
    if function is not None:
        return [sys.executable, _CALL, "file", script, function, *args]
    return [sys.executable, script, *args]


def module_command(module: str, args: Sequence[str] = (), function: str | None = None) -> list[str]:
    """`python -m MODULE ARGS...` with this Python, or the call of a function in the module."""
    if function is not None:
        return [sys.executable, _CALL, "module", module, function, *args]
    return [sys.executable, "-m", module, *args]


def run(
    command: Sequence[str],
    *,
    plan: Plan | None = None,
    timeout: float = TIMEOUT,
    show_output: bool = False,
    on_phase: Callable[[str], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Run `command` as far as `plan` says, by default to the first step of its optimizers,
    and stop it there.

    `timeout` is in seconds. `show_output` lets the command write to our
    standard error; else its output is kept aside for `stderr_tail`. `on_phase`
    hears the phases in `board.PHASES` as they are reached, `on_progress` how far a probe is. Ctrl-C ends the
    whole process tree before KeyboardInterrupt is raised.
    """
    if not command:
        raise ValueError("no command given")
    result = Run(tuple(command), plan=plan or Plan())
    start = time.monotonic()
    with Interrupts() as interrupts, adopting_orphans(), folder_of_run() as folder:
        result.plan.write(folder)
        board, tree = Board(folder), Tree(folder)
        try:
            words = _sandboxed(command, folder) if result.plan.sandbox else command
            tree.root = _start(words, folder, show_output)
        except OSError as error:
            result.hint = hints.not_started(command, error)
            return result
        try:
            tell = _teller(board, on_phase, on_progress)
            result.outcome, waiting = _watch(tree, board, start + timeout, tell)
            if board.said("refused"):
                result.outcome = "not started"
            elif result.outcome == "ended" and board.stepped:
                result.outcome = "inspected"
            result.where = board.where(waiting)
            result.exit_status = tree.root.poll()
        finally:
            interrupts.hold()
            tree.stop()
        if result.plan.sandbox and (problem := sandbox.problem(folder)):
            result.outcome, result.hint = "not started", problem
            return result
        result.reports = board.reports()
        result.weights_left_out = board.weights_left_out()
        result.until, result.remarks = board.until, board.remarks()
        result.uncut = bool(board.said("uncut"))
        result.memory = board.memory()
        if result.plan.probe is not None:
            result.probe = board.probed("cost" if result.plan.probe.dry else "probe")
        if not show_output and not board.said("valueless"):  # that one line says it all
            result.stderr_tail = _tail(folder)
        result.seconds = time.monotonic() - start
        if result.outcome == "inspected":
            result.hint = hints.late([r for r in result.reports if not r.stepped], _GRACE)
        else:
            probe = result.plan.probe is not None
            status = result.exit_status
            result.hint = hints.hint(result.outcome, board, status, timeout, probe=probe)
    return result


@contextlib.contextmanager
def folder_of_run() -> Iterator[str]:
    """The folder of the run, with what its processes look for in it."""
    with tempfile.TemporaryDirectory(prefix="freezecheck-", ignore_cleanup_errors=True) as folder:
        with open(os.path.join(folder, CWD), "w", encoding="utf-8") as file:
            file.write(os.getcwd())
        if os.name != "posix":
            yield folder
            return
        pipe = os.path.join(folder, ALIVE)
        os.mkfifo(pipe, 0o600)
        # Held open for as long as we live; to read and write, so that opening does not wait.
        held = os.open(pipe, os.O_RDWR)
        try:
            yield folder
        finally:
            os.close(held)


def _sandboxed(command: Sequence[str], folder: str) -> list[str]:
    """The command in its sandbox. OSError: there is no such command."""
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(command[0])
    return sandbox.wrapped(command, folder)


def carrying(folder: str) -> dict[str, str]:
    """The environment in which every Python process belongs to the run of `folder`."""
    env = dict(os.environ)
    path = os.fsencode(env["PYTHONPATH"]) if "PYTHONPATH" in env else None
    env["PYTHONPATH"] = os.fsdecode(environment.prefixed(path))
    env[os.fsdecode(environment.RUN)] = folder
    return env


def _start(command: Sequence[str], folder: str, show_output: bool) -> subprocess.Popen[bytes]:
    env = carrying(folder)
    env.setdefault("WANDB_MODE", "disabled")
    with contextlib.ExitStack() as files:
        if show_output:
            out = err = 2
        else:
            out, err = (
                files.enter_context(open(os.path.join(folder, name), "wb")).fileno()
                for name in ("stdout", "stderr")
            )
        # A hidden script that asks the terminal would wait for ever for an answer
        # to a question that nobody sees; it is told at once that there is none.
        stdin = subprocess.DEVNULL if not show_output and _is_terminal(0) else None
        return subprocess.Popen(
            command, stdin=stdin, stdout=out, stderr=err, env=env, start_new_session=True
        )


def _is_terminal(descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        return os.isatty(descriptor)
    return False


def _teller(
    board: Board,
    on_phase: Callable[[str], None] | None,
    on_progress: Callable[[Progress], None] | None,
) -> Callable[[], None]:
    """Passes on how far a run is, where that is new."""
    words, progress = "", None

    def tell() -> None:
        nonlocal words, progress
        if on_phase is not None and (said := board.news() or PHASES[board.phase]) != words:
            words = said
            on_phase(said)
        if on_progress is not None and (now := board.progress()) not in (None, progress):
            progress = now
            on_progress(now)

    return tell


def _watch(
    tree: Tree, board: Board, deadline: float, tell: Callable[[], None]
) -> tuple[str, list[int]]:
    """Wait for the reports; the outcome, and the processes that were waited for in vain."""
    assert tree.root is not None
    news = time.monotonic()
    tell()
    while True:
        status = tree.root.poll()  # first, so that the last words of the dead are read
        if board.read():
            news = time.monotonic()
            tell()
        now = time.monotonic()
        recent = now - news < _GRACE
        if board.settled:
            pending = board.pending(tree.members())
            waiting = pending and now <= deadline
            if not waiting or not (recent or board.importing(pending)):
                return ("inspected" if board.stepped else "failed"), pending
        elif status is not None:
            # The command may leave processes behind that train all the same, or soon will.
            members = tree.members()
            left = any(not process.ended for process in members.values())
            if not left or not (recent or board.training(board.live(members))):
                return ("crashed" if status else "ended"), []
        if now > deadline:
            return "timeout", board.live(tree.members())
        time.sleep(_POLL)


def _tail(folder: str) -> str:
    """The end of what the command said on stderr; on stdout, if it said nothing there."""
    for name in ("stderr", "stdout"):
        with open(os.path.join(folder, name), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            text = file.read().decode("utf-8", "replace")
        # Of a progress bar that draws over itself, what one would see.
        lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
        if any(lines):
            return "\n".join(lines[-25:]).strip("\n")
    return ""
