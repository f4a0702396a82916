"""Run a command so that every file it writes is discarded (`--sandbox`, Linux).

    python -I -S sandbox.py FOLDER COMMAND [ARGS...]

A mount namespace of its own (mount_namespaces(7)) shows the command the file systems as they are,
each below a writable layer (overlayfs) that lies in FOLDER and goes with it. Without the rights
to mount, a user namespace gives them (user_namespaces(7)). The namespaces end with the last
process in them, so that no mount can be left behind. FOLDER itself is the real one inside, since
the run reports through it; kernel file systems and devices (/proc, /sys, /dev) are as outside.

Meant against accidents, not against malice. This process becomes the command; if that cannot be,
the reason is left in FOLDER/sandbox.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import sys
from collections.abc import Sequence

PROBLEM = "sandbox"  # a file in the folder: why there is no sandbox
FAILED = 125  # exit status then

# <sys/mount.h>, <sched.h>
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_RELATIME, _DETACH = 1 << 21, 2
_NEWNS, _NEWUSER = 0x20000, 0x10000000

# What the kernel shows as files; nothing written there lasts, or it is not ours to keep from it.
_KERNELS = frozenset(
    """autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl
    hugetlbfs mqueue nsfs proc pstore rpc_pipefs securityfs selinuxfs sysfs tracefs""".split()
)
_SHARED_MEMORY = "/dev/shm"
# Of overlayfs: the first that the kernel takes. The first two do without fsync(2).
_OPTIONS = ("volatile,redirect_dir=on", "volatile,userxattr", "userxattr", "")


def wrapped(command: Sequence[str], folder: str) -> list[str]:
    """The words that run `command` in a sandbox that lies in `folder`."""
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), folder, *command]


def problem(folder: str) -> str | None:
    """Why the command was not run in the sandbox; None: it was."""
    try:
        with open(os.path.join(folder, PROBLEM), encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


class Impossible(Exception):
    """Why there can be no sandbox here, in one line."""


def _called(function: str, *args: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    _called(
        "mount",
        os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        os.fsencode(data),
    )


def _own_namespaces() -> bool:
    """Mounts from here on are seen by this process and its children alone; whether it took
    a user namespace."""
    user, group = os.geteuid(), os.getegid()
    lent = False
    try:
        _called("unshare", _NEWNS)
    except OSError:
        lent = True
        try:
            _called("unshare", _NEWUSER | _NEWNS)
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{user} {user} 1"),
                ("gid_map", f"{group} {group} 1"),
            ):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
        except OSError as error:
            raise Impossible(f"user namespaces are not allowed here ({error.strerror})") from None
    _mount("none", "/", None, _REC | _PRIVATE)
    return lent


def _islands() -> set[str]:
    """Folders of the user's in folders of others, on the ways to where commands write.

    In a user namespace no other user is known, and overlayfs cannot copy a folder of theirs to
    the layer, as it does with those above a file that is written: such ways begin anew here.
    """
    places = {os.getcwd(), "/tmp", "/var/tmp"}
    places |= {v for k, v in os.environ.items() if k.endswith(("HOME", "TMPDIR", "_DIR", "_CACHE"))}
    found = set()
    for place in places:
        path = os.path.realpath(place)
        while path != "/":
            above = os.path.dirname(path)
            with contextlib.suppress(OSError):
                mine = os.stat(above).st_uid == os.geteuid()
                if not mine and os.path.isdir(path) and os.access(path, os.W_OK):
                    found.add(path)
            path = above
    return found


def _mounts() -> dict[str, tuple[str, bool]]:
    """Mount point -> (kind of file system, read-only); of several on one point, the uppermost."""
    found = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            words = before.split()
            point = os.fsencode(words[4]).decode("unicode_escape")  # a blank is \\040
            point = os.fsdecode(point.encode("latin-1"))
            found[point] = (after.split()[0], "ro" in words[5].split(","))
    return found


class _View:
    """The file systems as the command will see them, put together below `new`."""

    def __init__(self, folder: str, islands: set[str]) -> None:
        self.new = os.path.join(folder, "root")
        self.store = os.path.join(folder, "discarded")
        self.mounts = dict.fromkeys(islands, ("", False)) | _mounts()
        self.layers = 0
        self.options: tuple[str, ...] = _OPTIONS
        for path in (self.new, self.store):
            os.mkdir(path)
        self._choose_store(folder)

    def _choose_store(self, folder: str) -> None:
        """Layers lie on the disk of the folder if its file system can, else in memory."""
        for in_memory in (False, True):
            if in_memory:
                _mount("tmpfs", self.store, "tmpfs", 0, "mode=0700")
            empty = os.path.join(self.store, "empty")
            os.mkdir(empty)
            for option in _OPTIONS:
                self.options = (option,)
                if self._overlay(empty, self.new):
                    _called("umount2", os.fsencode(self.new), _DETACH)
                    return
        raise Impossible("overlayfs is not to be had here")

    def _overlay(self, path: str, target: str, store: str = "") -> bool:
        """Mount `path` at `target` below a fresh layer; whether that could be."""
        self.layers += 1
        layer = os.path.join(store or self.store, str(self.layers))
        upper, work = os.path.join(layer, "upper"), os.path.join(layer, "work")
        for made in (layer, upper, work):
            os.mkdir(made)
        own = os.stat(path)
        with contextlib.suppress(OSError):
            os.chown(upper, own.st_uid, own.st_gid)
        forbidden = 0 if os.access(path, os.W_OK) else 0o222
        os.chmod(upper, stat.S_IMODE(own.st_mode) & ~forbidden)
        data = ",".join(
            f"{key}={_escaped(value)}"
            for key, value in (("lowerdir", path), ("upperdir", upper), ("workdir", work))
        )
        for option in self.options:
            with contextlib.suppress(OSError):
                _mount("overlay", target, "overlay", 0, f"{data},{option}".rstrip(","))
                return True
        return False

    def show(self, path: str) -> None:
        """Let `path` and all below it be seen at its place in the new tree."""
        target = self.new + path if path != "/" else self.new
        kind, read_only = self.mounts.get(path, ("", False))
        within = self._within(path)
        if kind in _KERNELS or path == "/dev":
            _mount(path, target, None, _BIND | _REC)
            within = [point for point in within if point == _SHARED_MEMORY]
        elif not os.path.isdir(path):
            self._bind_read_only(path, target)
        elif read_only:
            _mount(path, target, None, _BIND | _REC)
        elif not self._covered(path, target):
            if not within:
                self._bind_read_only(path, target)
                return
            self._spread(path, target)
            return
        for point in within:
            if os.path.lexists(self.new + point):
                self.show(point)

    def _within(self, path: str) -> list[str]:
        """The mount points below a path with no other in between."""
        prefix = path.rstrip("/") + "/"
        below = sorted(p for p in self.mounts if p.startswith(prefix) and p != path)
        return [p for p in below if not any(p.startswith(q + "/") for q in below)]

    def _covered(self, path: str, target: str) -> bool:
        if path != _SHARED_MEMORY:
            return self._overlay(path, target)
        store = os.path.join(self.store, "memory")  # shared memory belongs in memory
        os.mkdir(store)
        _mount("tmpfs", store, "tmpfs", 0, "mode=0700")
        return self._overlay(path, target, store)

    def _spread(self, path: str, target: str) -> None:
        """A folder with mounts of others in it, which an unprivileged overlay cannot cover: a
        folder in memory in its stead, with everything that is in it, each below its own layer."""
        _mount("tmpfs", target, "tmpfs", 0, "mode=0755")
        for entry in os.scandir(path):
            place = os.path.join(target, entry.name)
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), place)
                continue
            if entry.is_dir():
                os.mkdir(place)
            else:
                os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
            self.show(entry.path)

    def _bind_read_only(self, path: str, target: str) -> None:
        """Where no layer can be had, nothing can be written."""
        _mount(path, target, None, _BIND | _REC)
        kept = os.statvfs(path).f_flag
        flags = kept & 0xC0E | (_RELATIME if kept & 4096 else 0)  # nosuid, nodev, noexec, no*atime
        try:
            _mount("none", target, None, _BIND | _REMOUNT | _RDONLY | flags)
        except OSError as error:
            raise Impossible(f"{path} cannot be kept from being written ({error})") from None

    def enter(self, folder: str) -> None:
        """Make the new tree the only one."""
        inner = self.new + folder
        _mount(folder, inner, None, _BIND)
        _mount("tmpfs", os.path.join(inner, "discarded"), "tmpfs", _RDONLY)  # nobody's business
        here = os.getcwd()
        os.chdir(self.new)
        _called("pivot_root", b".", b".")
        _called("umount2", b".", _DETACH)
        os.chdir(here)


def _escaped(path: str) -> str:
    """For the options of overlayfs, in which commas and colons separate."""
    for mark in "\\,:":
        path = path.replace(mark, "\\" + mark)
    return path


def main(folder: str, command: list[str]) -> None:
    """Enter the sandbox and become the command."""
    folder = os.path.realpath(folder)
    islands = _islands()  # before: in a user namespace, others' files are everybody's
    try:
        view = _View(folder, islands if _own_namespaces() else set())
        view.show("/")
        view.enter(folder)
    except (Impossible, OSError) as error:
        _fail(folder, f"--sandbox does not work on this system: {error}")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        text = "command not found" if error.errno == errno.ENOENT else error.strerror
        _fail(folder, f"{command[0]}: {text}")


def _fail(folder: str, reason: str) -> None:
    with open(os.path.join(folder, PROBLEM), "w", encoding="utf-8") as file:
        file.write(reason)
    os._exit(FAILED)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
