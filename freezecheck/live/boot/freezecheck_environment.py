"""An environment that the script cannot tell from its own, and that its children inherit.

Two entries carry the inspection into every process of a command: FREEZECHECK_RUN
names the folder of the run, and PYTHONPATH leads to this folder. The script must
not see them, but its children need them. So they leave `os.environ` and stay in
the C environment, which `fork`, `spawn`, `system` and `Popen(env=None)` hand on;
an environment that is passed explicitly gets them back on its way out.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # `typing` would be the dearest import of a Python that starts
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

RUN = b"FREEZECHECK_RUN"
_PATH = b"PYTHONPATH"
_HERE = os.fsencode(os.path.dirname(os.path.abspath(__file__)))
_SEP = os.fsencode(os.pathsep)
# How the folder is spelt tells what was there before: nothing, an empty text, or the rest.
_UNSET, _EMPTY, _BEFORE = _HERE, _HERE + b"/.", _HERE + b"/" + _SEP
_run = b""


def prefixed(path: bytes | None) -> bytes:
    """PYTHONPATH (bytes; None: unset) with this folder in front."""
    if path is None:
        return _UNSET
    if _HERE in path:
        return path
    return _BEFORE + path if path else _EMPTY


def original(path: bytes) -> bytes | None:
    """PYTHONPATH as it would be without us, also where a shell has added to it since."""
    if path == _UNSET:
        return None
    for spelling in (_BEFORE, _EMPTY, _UNSET):
        if spelling in path:
            return path.replace(spelling, b"", 1)
    return path


def carried(environment: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A mapping for a child process, with our entries (keys and values as bytes)."""
    if RUN in environment:
        return environment
    values = {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
    values[RUN] = _run
    values[_PATH] = prefixed(values.get(_PATH))
    return values


def hide() -> str | None:
    """Take our entries out of `os.environ` and `sys.path`; the folder of the run, or None."""
    global _run
    if os.name != "posix":  # os.environ is all there is: nothing can be hidden
        return os.environ.get(os.fsdecode(RUN))
    seen = vars(os.environ)["_data"]  # changed without putenv: the C environment stays
    _run = seen.pop(RUN, b"")
    ours = seen.pop(_PATH, b"")
    theirs = original(ours)
    if theirs is not None:
        seen[_PATH] = theirs
    _repair(_entries(ours), _entries(theirs or b""))
    if not _run:
        return None
    _carry()
    return os.fsdecode(_run)


def _entries(path: bytes) -> list[str]:
    """What PYTHONPATH puts on `sys.path`; an empty entry is the working directory."""
    entries = path.split(_SEP) if path else []
    return list(dict.fromkeys(os.path.abspath(os.fsdecode(entry)) for entry in entries))


def _repair(ours: list[str], theirs: list[str]) -> None:
    """PYTHONPATH comes first on `sys.path`, and what it names is not repeated."""
    if sys.path[: len(ours)] == ours:
        rest = [entry for entry in sys.path[len(ours) :] if entry not in theirs]
        sys.path[:] = theirs + rest


def _carry() -> None:
    """Hand our entries on, whichever way a child process is started."""
    import _posixsubprocess

    putenv, unsetenv, fork_exec = os.putenv, os.unsetenv, _posixsubprocess.fork_exec

    def put(name: Any, value: Any) -> None:
        ours = os.fsencode(name) == _PATH
        putenv(name, prefixed(os.fsencode(value)) if ours else value)

    def unset(name: Any) -> None:
        if os.fsencode(name) == _PATH:
            putenv(_PATH, _HERE)
        else:
            unsetenv(name)

    def fork_and_exec(
        args: Any, executables: Any, close: Any, keep: Any, cwd: Any, env: Any, *rest: Any
    ) -> Any:
        if env is not None:
            pairs = dict(pair.split(b"=", 1) for pair in env)
            env = [name + b"=" + value for name, value in carried(pairs).items()]
        return fork_exec(args, executables, close, keep, cwd, env, *rest)

    os.putenv, os.unsetenv = put, unset
    _posixsubprocess.fork_exec = fork_and_exec
    subprocess = sys.modules.get("subprocess")
    if hasattr(subprocess, "_fork_exec"):  # it was imported before us
        setattr(subprocess, "_fork_exec", fork_and_exec)  # noqa: B010
    for name in ("execve", "posix_spawn", "posix_spawnp"):
        if hasattr(os, name):
            setattr(os, name, _with_ours(getattr(os, name)))


def _with_ours(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(path, arguments, environment, ...)`, given our entries too."""

    def call(path: Any, argv: Any, env: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(env, "items"):
            env = carried(env)
        return function(path, argv, env, *args, **kwargs)

    call.__name__ = function.__name__
    return call
