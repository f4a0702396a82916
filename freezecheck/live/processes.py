"""The process tree of a command: who belongs to it, and how to stop it with nothing left.

On Linux a tree is complete: this process becomes the reaper of orphans, so
that a process which daemonised is still found among our children. Elsewhere
`psutil` walks the tree if it is installed; without it, only the command's own
process group (on Windows: the processes that `taskkill /T` finds) is stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37  # linux/prctl.h
_SETTLE = 1.0  # seconds for helpers to clean up, and for processes to stop
_KILL = 5.0  # seconds for killed processes to be gone
_LOOKS = 50  # at an environment that seems empty, 2 ms apart
_HELPERS = (b"multiprocessing.resource_tracker", b"torch_shm_manager")
LINUX = sys.platform.startswith("linux")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table."""

    pid: int
    parent: int
    session: int  # the process that began it with setsid(2)
    state: str  # "R", "S", "D", "T" (stopped), "Z" (ended, not yet reaped), ...

    @property
    def ended(self) -> bool:
        return self.state in "ZX"

    @property
    def still(self) -> bool:
        """Runs nothing until it is told to."""
        return self.state in "TtZX"


def table() -> dict[int, Process]:
    """All processes by id: from /proc (proc(5)), else from psutil, else none."""
    if not LINUX:
        return _psutil_table()
    every = (_look(int(name)) for name in os.listdir("/proc") if name.isdecimal())
    return {process.pid: process for process in every if process is not None}


def _look(pid: int) -> Process | None:
    """One process; None if there is no such."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command in parentheses may hold anything, parentheses too.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Process(pid, int(fields[1]), int(fields[3]), fields[0].decode())


def _psutil_table() -> dict[int, Process]:
    try:
        import psutil
    except ImportError:
        return {}
    states = {psutil.STATUS_ZOMBIE: "Z", psutil.STATUS_STOPPED: "T"}
    found = {}
    for process in psutil.process_iter(["ppid", "status"]):
        state = states.get(process.info["status"], "R")
        found[process.pid] = Process(process.pid, process.info["ppid"] or 0, 0, state)
    return found


def descendants(roots: set[int], processes: Mapping[int, Process]) -> set[int]:
    """The given processes and all that come from them."""
    found = set(roots)
    added = bool(roots)
    while added:
        more = {p.pid for p in processes.values() if p.parent in found} - found
        found |= more
        added = bool(more)
    return found


def ancestors(pid: int, processes: Mapping[int, Process]) -> set[int]:
    """The processes from which `pid` comes."""
    found: set[int] = set()
    while pid in processes and (pid := processes[pid].parent) not in found:
        found.add(pid)
    return found


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """While inside, a process whose parent ends becomes our child (Linux, prctl(2))."""
    if not LINUX:
        yield
        return
    libc = ctypes.CDLL(None)
    before = ctypes.c_int()
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


class Tree:
    """The processes of one command.

    Make it before the command starts: children of ours that come later and
    carry `mark` in their environment belong to it, whoever started them.
    """

    def __init__(self, mark: str) -> None:
        self.root: subprocess.Popen[bytes] | None = None
        self._mark = mark.encode()
        self._strangers = {p.pid for p in table().values() if p.parent == os.getpid()}
        self._seen: set[int] = set()

    def members(self) -> dict[int, Process]:
        """The processes that belong to the command, ended ones that await reaping included."""
        processes = table()
        roots = {p.pid for p in processes.values() if p.parent == os.getpid() and self._ours(p)}
        found = descendants(roots, processes)
        self._seen |= found
        return {pid: processes[pid] for pid in found}

    def _ours(self, process: Process) -> bool:
        if self.root is not None and process.pid == self.root.pid:
            return True
        if process.pid in self._strangers:
            return False
        if process.pid in self._seen or process.session in self._seen:
            return True  # what has ended already shows no environment
        return self._mark in _environment(process.pid)

    def stop(self) -> None:
        """Freeze every process, kill every process, and wait until all are gone.

        Frozen first, so that none sees another one's end: no shell runs its
        next line, no launcher restarts or cleans up.
        """
        if LINUX:
            self._freeze()
            self._kill()
        elif self.root is not None:
            _stop_elsewhere(self.root.pid)
        if self.root is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.root.wait(_KILL)

    def _freeze(self) -> None:
        """A process may fork while we look: done when two looks find all still."""
        deadline = time.monotonic() + _SETTLE
        quiet = 0
        while quiet < 2 and time.monotonic() < deadline:
            awake = [p.pid for p in self.members().values() if not p.still and not helps(p.pid)]
            for pid in awake:
                send(pid, signal.SIGSTOP)
            quiet = 0 if awake else quiet + 1
            if awake:
                time.sleep(0.001)

    def _kill(self) -> None:
        """Kill; helpers that remove shared memory see the others end, and get a moment for it."""
        start = time.monotonic()
        while members := self.members().values():
            elapsed = time.monotonic() - start
            if elapsed > _KILL:
                return  # what hangs in the kernel ends when the kernel lets it
            for process in members:
                if process.ended:
                    self._reap(process.pid)
                elif elapsed > _SETTLE or not helps(process.pid):
                    send(process.pid, signal.SIGKILL)
            time.sleep(0.002)
        _remove_shared_memory(self._seen)

    def _reap(self, pid: int) -> None:
        """Let it leave the process table; the parent's part, so later if that is not yet us."""
        if self.root is not None and pid == self.root.pid:
            self.root.poll()
        else:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _environment(pid: int) -> bytes:
    """The environment a process was started with. It is empty for a moment during exec(2)."""
    for _ in range(_LOOKS):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if text := file.read():
                    return text
        except OSError:
            break
        process = _look(pid)
        if process is None or process.ended:
            break
        time.sleep(0.002)
    return b""


def send(pid: int, number: int) -> None:
    """Send a signal, if the process is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def helps(pid: int) -> bool:
    """Removes what others left when they are gone; runs nothing of the user's."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read()
    except OSError:
        return False
    return any(name in command for name in _HELPERS)


def _remove_shared_memory(pids: set[int]) -> None:
    """What torch made and had not yet unlinked: /dev/shm/torch_PID_..."""
    prefixes = tuple(f"torch_{pid}_" for pid in pids)
    with contextlib.suppress(OSError):
        for name in os.listdir("/dev/shm"):
            if name.startswith(prefixes):
                os.unlink(os.path.join("/dev/shm", name))


def _stop_elsewhere(root: int) -> None:
    try:
        import psutil
    except ImportError:
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(root, signal.SIGSTOP)
                os.killpg(root, signal.SIGKILL)
        else:
            command = ["taskkill", "/T", "/F", "/PID", str(root)]
            subprocess.run(command, capture_output=True, check=False)
        return

    def family() -> list[Any]:
        with contextlib.suppress(psutil.Error):
            top = psutil.Process(root)
            return [top, *top.children(recursive=True)]
        return []

    tree: dict[int, Any] = {}
    while fresh := [process for process in family() if process.pid not in tree]:
        for process in fresh:
            tree[process.pid] = process
            with contextlib.suppress(psutil.Error):
                process.suspend()
    for process in tree.values():
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(tree.values()), timeout=_KILL)
