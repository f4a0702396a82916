"""Ctrl-C, and the other ways in which a user ends us, without leaving a mess."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Interrupts:
    """While inside, SIGINT raises KeyboardInterrupt; SIGTERM and SIGHUP raise SystemExit.

    After `hold()` they wait until the block is left, so that nothing can
    interrupt the cleaning up. Other threads than the main one get no signals
    and are left alone; so is a signal that was being ignored (`nohup`).
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._held = False
        self._waiting: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def hold(self) -> None:
        """From now on, let signals wait."""
        self._held = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._waiting = number
        else:
            self._held = True  # the first one starts the cleaning up
            _raise(number)

    def __exit__(self, kind: Any, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._waiting is not None and kind is None:
            _raise(self._waiting)


def _raise(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
