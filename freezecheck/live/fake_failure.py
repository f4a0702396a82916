"""Why a script ended under `--fake`, where the reason is that tensors have no values."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable, Iterator
from types import TracebackType

from freezecheck.finding import Site
from freezecheck.live import frames
from freezecheck.live.patches import Patches

# Errors of fake tensors, by name, since torch has moved them about.
_ERRORS = frozenset(
    """DataDependentOutputException DynamicOutputShapeException UnsupportedOperatorException
    UnsupportedFakeTensorException""".split()
)
# What C++ code says that looks for the values itself.
_WORDS = ("FakeTensor", "fake tensor", "data pointer", "doesn't have storage", "CPU only")


def install(patches: Patches, note: Callable[..., None]) -> None:
    """`note("valueless", "train.py:31: operation")` as the process ends, if that is why."""

    def tell() -> None:
        _tell(note)

    atexit.register(tell)
    patches.later(lambda: atexit.unregister(tell))


def _tell(note: Callable[..., None]) -> None:
    # What Python has printed by now as the reason for ending.
    error: BaseException | None = getattr(sys, "last_value", None)
    if error is None:
        return
    for each in _chain(error):
        what = reason(each)
        if what is not None:
            place = _users(each.__traceback__) or _users(error.__traceback__)
            note("valueless", f"{place}: {what}" if place else what)
            return


def reason(error: BaseException) -> str | None:
    """What of an operation needs values, in one line; None if this error is about something else."""
    if type(error).__name__ in _ERRORS:
        operation = getattr(error, "func", None)
        return str(operation) if operation is not None else type(error).__name__
    text = next(iter(str(error).strip().splitlines()), "")
    return text if any(word in text for word in _WORDS) else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _users(trace: TracebackType | None) -> Site | None:
    """The user's innermost line."""
    found = None
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if frames.is_users(path):
            found = Site(frames.shown(path), trace.tb_lineno)
        trace = trace.tb_next
    return found
