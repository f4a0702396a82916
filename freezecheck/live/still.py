"""The end of an inspected process: it has told what it knows, and holds still until it is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import NoReturn

ALIVE = "alive"  # a named pipe in the folder of the run that the runner holds open


def park(folder: str) -> NoReturn:
    """Hold still until the runner kills this process; never returns.

    `PyDLL` keeps the interpreter lock during a call, so that no other thread
    runs a line of Python meanwhile; signals are blocked, so that none of the
    script's handlers does. Reading from the runner's pipe ends when the runner
    has gone; then this process and those started with it must go too.
    """
    try:
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None and not stream.closed:
                stream.flush()
    except (OSError, ValueError):
        pass
    if os.name != "posix":
        while True:
            ctypes.PyDLL("kernel32").Sleep(0xFFFFFFFF)
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pipe = os.open(os.path.join(folder, ALIVE), os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(pipe, True)
        ctypes.PyDLL(None).read(pipe, ctypes.create_string_buffer(1), 1)
    finally:
        os.killpg(0, signal.SIGKILL)
        os._exit(1)


def told(error: Exception) -> str:
    """An error in one line, with the line of ours that it came from."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
    return f"{type(error).__name__}: {error}{place}"


def leave(path: str, text: str) -> None:
    """Write a file for the runner. It appears whole or not at all."""
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".part", path)
