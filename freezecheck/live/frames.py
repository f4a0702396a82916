"""Whose line is this? The user's own frames on the stack, cheaply."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from types import FrameType

from freezecheck.finding import Site

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_PLACES = tuple(
    os.path.realpath(path) + os.sep
    for key in ("stdlib", "platstdlib")
    if (path := sysconfig.get_paths().get(key))
)
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@lru_cache(maxsize=None)
def is_users(filename: str) -> bool:
    """A file that the user wrote: not the standard library, not an installed package."""
    if filename.startswith("<"):
        return False
    if any(part in filename for part in _PACKAGES):
        return False
    real = os.path.realpath(filename)
    return not real.startswith((_OURS, *_PLACES)) and not any(p in real for p in _PACKAGES)


@lru_cache(maxsize=None)
def shown(filename: str) -> str:
    """The path as findings name it: relative to the working directory where it is below it."""
    here = os.getcwd() + os.sep
    path = os.path.abspath(filename)
    return path[len(here) :] if path.startswith(here) else path


def users(frame: FrameType | None) -> Iterator[FrameType]:
    """The user's frames from `frame` outwards, innermost first."""
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            yield frame
        frame = frame.f_back


def site(depth: int = 1) -> Site | None:
    """The innermost line of the user's own code that led here."""
    frame = next(users(sys._getframe(depth)), None)
    return None if frame is None else Site(shown(frame.f_code.co_filename), frame.f_lineno)
