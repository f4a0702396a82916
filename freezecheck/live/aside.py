"""Files kept aside, and seen as if they lay where they were meant to.

Below `root` each file has the path that it was meant to have: `/data/best.pt`
is kept at `ROOT/data/best.pt`, for every process of the run. What was removed
without being touched is `gone`, in the process that did it.

Everything here works on the real file system: callers see to it that none of
our own functions stand in for `os`'s meanwhile (`diverted`).
"""

from __future__ import annotations

import errno
import os
import shutil
from typing import Any

# Endings that say what a file is, whoever writes it.
_ENDINGS = (
    ".pt",
    ".pth",
    ".ckpt",
    ".safetensors",
    ".distcp",
    ".pkl",
    ".pickle",
    ".joblib",
    ".npy",
    ".npz",
)


def is_path(value: Any) -> bool:
    """A name, not an open file or its number."""
    return isinstance(value, (str, bytes, os.PathLike))


def ends_as_checkpoint(path: Any) -> bool:
    """Its ending says that it holds weights or arrays."""
    return os.fsdecode(path).lower().endswith(_ENDINGS)


class Aside:
    """The files of one run that are kept in `root`."""

    def __init__(self, root: str) -> None:
        os.makedirs(root, exist_ok=True)
        self.root = os.path.realpath(root)
        self._gone: set[str] = set()
        self._used = bool(os.listdir(self.root))
        self._untouched = os.stat(self.root).st_mtime_ns

    @property
    def empty(self) -> bool:
        """Nothing has been kept or removed yet, by any process: every path means itself."""
        if not self._used:  # another process may have been the first
            self._used = os.stat(self.root).st_mtime_ns != self._untouched
        return not self._used

    def place(self, path: Any) -> str:
        """Where the file would be kept."""
        folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
        real = os.path.join(os.path.realpath(folder), name)
        if real == self.root or real.startswith(self.root + os.sep):
            return real
        return self.root + os.path.splitdrive(real)[1]

    def kept(self, path: Any) -> bool:
        """There is a file or folder aside."""
        return os.path.lexists(self.place(path))

    def gone(self, path: Any) -> bool:
        """It, or a folder that it was in, was removed without being touched."""
        if not self._gone:
            return False
        place = self.place(path)
        while place not in self._gone:
            above = os.path.dirname(place)
            if above == place:
                return False
            place = above
        return True

    def seen(self, path: Any) -> Any:
        """The path to read in the place of `path`: itself unless something is kept."""
        if self.empty:
            return path
        place = self.place(path)
        if os.path.lexists(place):
            both = os.path.isdir(place) and os.path.isdir(path) and not self.gone(path)
            return path if both else place
        return place if self.gone(path) else path

    def exists(self, path: Any) -> bool:
        """As the script sees it."""
        return os.path.lexists(self.seen(path))

    def is_folder(self, path: Any) -> bool:
        """As the script sees it."""
        return os.path.isdir(self.seen(path))

    def only_here(self, path: Any) -> bool:
        """What is at `path` can only be at its place aside: it or its folder is nowhere else."""
        if self.empty:
            return False
        folder = os.path.dirname(os.path.abspath(os.fsdecode(path)))
        return (
            (self.kept(path) and not os.path.isdir(self.place(path))) or self.gone(path)
        ) or self.seen(folder) != folder

    def room(self, path: Any) -> str:
        """The place to write `path` at, its folder made. FileNotFoundError: it has no folder."""
        folder = os.path.dirname(os.path.abspath(os.fsdecode(path)))
        if not self.is_folder(folder):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
        place = self.place(path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        self._used = True
        return place

    def brought(self, path: Any) -> str:
        """The place to change `path` at: a copy of the script's own file if there is one."""
        seen = self.seen(path)
        place = self.room(path)
        if seen != place and os.path.isfile(seen):
            shutil.copyfile(seen, place)
        return place

    def remove(self, path: Any) -> None:
        """Let a file, link or folder be gone. The script's own stays where it is."""
        if not self.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
        place = self.place(path)
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place)
        elif os.path.lexists(place):
            os.remove(place)
        if os.path.lexists(path):
            self._gone.add(place)
            self._used = True

    def names(self, folder: Any) -> list[str]:
        """What is in a folder, as the script sees it."""
        own, found = os.fsdecode(folder), set()
        if os.path.isdir(own) and not self.gone(own):
            found = {
                name
                for name in os.listdir(own)
                if self.place(os.path.join(own, name)) not in self._gone
            }
        place = self.place(own)
        if os.path.isdir(place):
            found |= set(os.listdir(place))
        return sorted(found)
