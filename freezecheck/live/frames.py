"""Whose line is this? The user's own frames on the stack, cheaply."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from types import FrameType

from freezecheck.finding import Site

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_PLACES = tuple(
    os.path.realpath(path) + os.sep
    for key in ("stdlib", "platstdlib")
    if (path := sysconfig.get_paths().get(key))
)
_base: str | None = None  # None: the working directory of the moment
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@cache
def is_users(filename: str) -> bool:
    """A file that the user wrote: not the standard library, not an installed package."""
    if filename.startswith("<"):
        return False
    if any(part in filename for part in _PACKAGES):
        return False
    real = os.path.realpath(filename)
    return not real.startswith((_OURS, *_PLACES)) and not any(p in real for p in _PACKAGES)


def set_base(folder: str) -> None:
    """Show paths relative to `folder` from now on, wherever the script goes (`os.chdir`)."""
    global _base
    _base = folder
    shown.cache_clear()


@cache
def shown(filename: str) -> str:
    """The path as findings name it: relative to the working directory where it is below it."""
    here = os.path.join(_base or os.getcwd(), "")
    path = os.path.abspath(filename)
    return path[len(here) :] if path.startswith(here) else path


@cache
def _is_between(filename: str) -> bool:
    """A file of ours or of torch's, through which any call of a hooked function passes."""
    torch = sys.modules["torch"].__file__ or ""
    return filename.startswith((_OURS, os.path.dirname(torch) + os.sep))


def direct(depth: int = 1) -> bool:
    """The user's own line calls the torch function that led here, no other library in between."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None and _is_between(frame.f_code.co_filename):
        frame = frame.f_back
    return frame is not None and is_users(frame.f_code.co_filename)


def setter(depth: int = 1) -> Site | None:
    """The user's line that sets the attribute which is being set; None if a library's does."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None and (
        frame.f_code.co_name == "__setattr__" or frame.f_code.co_filename.startswith(_OURS)
    ):
        frame = frame.f_back
    if frame is None or not is_users(frame.f_code.co_filename):
        return None
    return Site(shown(frame.f_code.co_filename), frame.f_lineno)


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
