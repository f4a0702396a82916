"""Waits for `import torch` and then lets freezecheck in; until then it does next to nothing.

What happens is told to the runner by lines in `PID.log` in the folder of the
run, and by `PID.hang`, into which a signal makes Python write where each
thread stands (`faulthandler`, which works also where the process is stuck).
"""

from __future__ import annotations

import os
import sys

import freezecheck_environment

TYPE_CHECKING = False  # `typing` would be the dearest import of a Python that starts
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_folder = ""


def start() -> None:
    """Hide the inspection from the script and wait for torch."""
    global _folder
    folder = freezecheck_environment.hide()
    if folder is None:
        return
    _folder = folder
    _enter()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_enter)
    sys.meta_path.insert(0, _Waiting({"torch": _torch}))
    if "torch" in sys.modules:  # a .pth file was faster
        _torch()


def note(*words: str) -> None:
    """Tell the runner. A folder that has gone takes no notes."""
    line = os.fsencode("\t".join(words).replace("\n", " ") + "\n")
    try:
        log = os.open(_file("log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError:
        return
    try:
        os.write(log, line)
    finally:
        os.close(log)


def _file(kind: str) -> str:
    return os.path.join(_folder, f"{os.getpid()}.{kind}")


def _enter() -> None:
    """A process begins, by exec or by fork."""
    note("start", sys.executable or "")
    note("rank", os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "")
    if "freezecheck.live.child" in sys.modules:  # a fork of a process that records
        note("recording")
    try:  # noqa: SIM105
        _answer_where()
    except (AttributeError, ImportError, OSError, RuntimeError, ValueError):
        pass  # then a hang is reported without its place


def _answer_where() -> None:
    """Let a signal that no script uses write the stack of every thread."""
    import _signal
    import faulthandler
    import fcntl

    # A real-time signal where there are any: scripts and schedulers use SIGUSR1 themselves.
    number = _signal.SIGRTMAX - 1 if hasattr(_signal, "SIGRTMAX") else _signal.SIGUSR1
    low = os.open(_file("hang"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:  # out of the way of scripts that count on low descriptors
        high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 200)
    finally:
        os.close(low)
    faulthandler.register(number, file=high, all_threads=True)
    note("signal", str(int(number)))


class _Waiting:
    """A finder that finds nothing itself, but calls back when certain modules are there."""

    def __init__(self, callbacks: dict[str, Callable[[], None]]) -> None:
        self.callbacks = callbacks

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        callback = self.callbacks.get(name)
        if callback is None:
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        self._call_after(spec.loader, name, callback)
                    return spec
        note("missing", name)
        return None

    def _call_after(self, loader: Any, name: str, callback: Callable[[], None]) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            loader.__dict__.pop("exec_module", None)
            note("importing", name)
            try:
                execute(module)
            except BaseException:
                note("broken", name)
                raise
            if self.callbacks.pop(name, None) is not None:
                callback()

        try:
            loader.exec_module = exec_module
        except AttributeError:
            note("failed", f"cannot wait for {name}: its loader is {type(loader)!r}")


def _torch() -> None:
    """torch is there: record this process."""
    try:
        _load_package()
        from freezecheck.live import child

        child.start(_folder, note)
    except Exception as error:
        note("failed", f"{type(error).__name__}: {error}")
    else:
        note("recording")


def _load_package() -> None:
    """Import freezecheck from where it lies; the script's environment need not have it."""
    if "freezecheck" in sys.modules:
        return
    from importlib import util

    spec = util.spec_from_file_location(
        "freezecheck",
        os.path.join(_PACKAGE, "__init__.py"),
        submodule_search_locations=[_PACKAGE],
    )
    assert spec is not None
    assert spec.loader is not None  # it names a file
    module = util.module_from_spec(spec)
    sys.modules["freezecheck"] = module
    spec.loader.exec_module(module)
