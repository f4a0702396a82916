"""A user's command, run for real and watched: nothing is stopped, cut or kept from it.

Its output, input and terminal are its own. The processes write a report whenever the setup
has changed (`child`); this side reads them and says what is new.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from freezecheck.live import hints
from freezecheck.live.board import Board, Report
from freezecheck.live.plan import Plan
from freezecheck.live.processes import Tree, adopting_orphans
from freezecheck.live.runner import Run, carrying, folder_of_run

_POLL = 0.1  # seconds

Judge = Callable[[list[Report], str], bool]


def attend(command: Sequence[str], judge: Judge) -> Run:
    """Run `command` to its end; `judge(reports, news)` is called when one of its processes has
    a new report, `news` being how far it is, and stops the whole tree by returning True.

    Ctrl-C goes to the command as it would without us, and we wait for it to end.
    """
    result = Run(tuple(command), plan=Plan(steps=None, watch=True))
    start = time.monotonic()
    with folder_of_run() as folder, adopting_orphans(), _patient() as asked:
        result.plan.write(folder)
        board, tree = Board(folder), Tree(folder)
        try:
            tree.root = subprocess.Popen(command, env=carrying(folder))
        except OSError as error:
            result.hint = hints.not_started(command, error)
            return result
        stopped = False
        try:
            while not stopped and tree.root.poll() is None:
                stopped = _news(board) and judge(board.reports(), board.news())
                _pass_on(asked, tree.root)
                time.sleep(_POLL)
        finally:
            if stopped:
                tree.stop()
        board.read()
        result.exit_status = None if stopped else tree.root.returncode
        result.outcome = "crashed" if result.exit_status else "ended"
        if board.stepped and not result.exit_status:
            result.outcome = "inspected"
        else:
            result.hint = hints.hint(result.outcome, board, result.exit_status, 0.0)
        result.reports = board.reports()
        result.remarks = [
            f"freezecheck watched no longer: {why}" for why in board.said("unwatched")
        ]
        result.seconds = time.monotonic() - start
    return result


def _news(board: Board) -> bool:
    """A process has a new report."""
    before = board.said("phase"), board.said("trace")
    board.read()
    return (board.said("phase"), board.said("trace")) != before


@contextlib.contextmanager
def _patient() -> Iterator[list[int]]:
    """Signals that ask us to end are noted: the command decides what they mean."""
    asked: list[int] = []
    before: dict[int, Any] = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # One that is ignored stays ignored, by the command too (nohup).
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, lambda got, frame: asked.append(got))
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(asked: list[int], root: subprocess.Popen[bytes]) -> None:
    """Hand on what the terminal has not given the command already, as it does with Ctrl-C."""
    while asked:
        number = asked.pop()
        if number != signal.SIGINT:
            root.send_signal(number)
