"""Signals wait while something is done that must not be left half done."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Undisturbed:
    """Signals that Python handles (Ctrl-C, a scheduler's SIGTERM) are delivered when the block is
    left, to the handlers that they had. Only the main thread gets any; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._late: list[int] = []

    def __enter__(self) -> Undisturbed:
        if threading.current_thread() is threading.main_thread():
            try:
                self._take()
            except BaseException:  # one of them was quicker
                self._give_back()
                raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._give_back()
        self._deliver()

    def _take(self) -> None:
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler):
                self._before[number] = handler
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number not in self._late:
            self._late.append(number)

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _deliver(self) -> None:
        """Each of them, though the handler of one raises."""
        if self._late:
            try:
                signal.raise_signal(self._late.pop(0))
            finally:
                self._deliver()
