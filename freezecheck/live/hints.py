"""One line on what to do when a run did not get to a step."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from freezecheck.live.board import Board, Report


def not_started(command: Sequence[str], error: OSError) -> str:
    """The command could not be started at all."""
    name = command[0]
    if isinstance(error, FileNotFoundError):
        return f"{name}: command not found"
    if isinstance(error, PermissionError):
        return f"{name}: permission denied (to run a script, name its interpreter: bash {name})"
    return f"{name}: {error.strerror or error}"


def late(reports: Sequence[Report], seconds: float) -> str:
    """Some processes stepped, these did not; empty where there are none."""
    if not reports:
        return ""
    who = [f"process {r.pid}" if r.rank is None else f"rank {r.rank}" for r in reports]
    return (
        f"No step within {seconds:g} s of the first one: {', '.join(who)}. What is shown of it is"
        " what was seen by then."
    )


def hint(
    outcome: str, board: Board, status: int | None, timeout: float, *, probe: bool = False
) -> str:
    """What to say of a run with this outcome; `status` is the command's exit status. A `probe` does
    not go without weights."""
    if outcome == "failed":
        return f"freezecheck failed inside the script: {board.said('failed')[0]}"
    if refused := board.said("refused"):
        return refused[0]
    if raised := board.said("raised"):
        return f"{raised[0]}.{_unavailable(board, probe)}"
    if valueless := board.said("valueless"):
        return f"This needs values, which tensors do not have under --fake: {valueless[0]}"
    if outcome == "timeout":
        end = f"The command was stopped after {timeout:g} s"
    elif status is not None and status < 0:
        end = f"The command was killed ({_name(-status)})"
    elif status:
        end = f"The command failed (exit status {status})"
    else:
        end = "The command ended"
    problem = board.said("problem")
    return (
        end
        + _reached(board)
        + _unavailable(board, probe)
        + (f" What it built could not be told: {problem[0]}." if problem else "")
    )


def _reached(board: Board) -> str:
    """How far it got."""
    if news := board.news():
        return f" at {news}."
    if not board.notes:
        return (
            ", and no Python process of it could be seen. Python leaves freezecheck out if started"
            " with -I, -E or -S, or with a PYTHONPATH that replaces the one it is given"
            " (PYTHONPATH=src:$PYTHONPATH keeps it)."
        )
    if not board.said("recording"):
        if board.said("missing"):
            return (
                f": {board.said('start')[-1]} has no torch. Install it there (pip install"
                " 'freezecheck[torch]'), or name the Python to run: freezecheck inspect -- python ..."
            )
        return " before it imported torch."
    if not board.said("optimizer"):
        return " before it built a torch optimizer."
    if not board.said("backward"):
        return " before its first backward()."
    short = board.said("short")
    return " before its first optimizer step" + (f": {short[0]}." if short else ".")


def _unavailable(board: Board, probe: bool) -> str:
    """Where weights, or what else a model is made of, could not be had: what to do."""
    without = bool(board.said("weights"))
    for said in board.said("unavailable"):
        kind, _, text = said.partition("\t")
        if kind == "other":
            only = " (--no-weights leaves out weights alone)" if without else ""
            return f" A file of a hub could not be fetched{only}: {text}"
        if probe:
            return f" Its weights could not be loaded, and a probe needs them: {text}"
        if kind == "file":
            ending = "cannot stand in for it here" if without else "goes on without it"
            return f" {text} is not there; --no-weights {ending}."
        if without:
            return f" Weights are loaded in a way that --no-weights does not know: {text}"
        return f" Its weights could not be loaded; --no-weights goes on without them: {text}"
    left_out = board.weights_left_out()
    if left_out:
        names = ", ".join(left_out)
        return f" It may want more of what --no-weights left out than to load it: {names}."
    return ""


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
