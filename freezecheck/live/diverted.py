"""Checkpoints of a run that is not meant are kept aside, and read back from there.

What `torch.save`, safetensors and the saving functions of the usual libraries
write, and files that end as checkpoints do, goes to a folder of the run. To
the script it is where it was meant to be: `os`, `open`, `glob`, `shutil` and
`pathlib` find it, it can be renamed, linked, removed, and loaded. A file of
the user's is never overwritten or removed by it. All other files are written
as ever; `--sandbox` discards those too.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from types import FrameType
from typing import Any

from freezecheck.live.aside import Aside, ends_as_checkpoint, is_path
from freezecheck.live.patches import Patches

Note = Callable[..., None]

# A function of these libraries so named writes checkpoints, or tidies them up.
_LIBRARIES = frozenset(
    """accelerate composer diffusers fastai ignite lightning lightning_fabric mmengine peft
    pytorch_lightning sentence_transformers setfit timm transformers trl""".split()
)
_SAVES = re.compile(r"(?!on_)(.*_)?(save|rotate|remove)(_.*)?")
_LOGS = re.compile(r"\.(loggers?|logging|summary)(\.|$)")
_OF_TORCH = "torch.distributed.checkpoint"

_READERS = "stat lstat access readlink utime chmod getxattr listxattr setxattr".split()
_OTHERS = "listdir scandir open mkdir remove unlink rmdir rename replace link symlink".split()
_BY_NUMBER = ("dir_fd", "src_dir_fd", "dst_dir_fd")  # below a folder that is open
# Classes that hold functions of `os` since they were made (pathlib in 3.10, glob in 3.13).
_HOLDERS = (("pathlib", "_NormalAccessor"), ("glob", "_StringGlobber"))


def install(patches: Patches, folder: str, note: Note) -> None:
    """Keep the checkpoints of this process in `folder`; other processes of the run share it.

    Tells `note("aside", path)` of the first one.
    """
    _Diversion(Aside(folder), patches, note).install()


class _Diversion:
    """Our functions in the places of those that write, find and read files."""

    def __init__(self, aside: Aside, patches: Patches, note: Note) -> None:
        self.aside = aside
        self.patches = patches
        self.note = note
        self._local = threading.local()
        self._told = False
        self._native = {"tokenizers": self._tokenizers}

    def install(self) -> None:
        for name in _READERS:
            if hasattr(os, name):
                self._put(os, name, self._reading)
        ways: tuple[Callable[..., Any], ...] = (
            self._listing,
            self._scanning,
            self._opening_low,
            self._making,
            self._removing,
            self._removing,
            self._removing_folder,
            self._renaming,
            self._renaming,
            self._linking,
            self._linking_softly,
        )
        for name, way in zip(_OTHERS, ways):
            self._put(os, name, way)
        self._put(shutil, "rmtree", self._removing_tree)
        self._put(shutil, "copyfile", self._copying)
        self._put(builtins, "open", self._opening)
        self.patches.put(io, "open", builtins.open)
        for home, name in _HOLDERS:
            self._hold(getattr(sys.modules.get(home), name, None))
        self._torch()
        with contextlib.suppress(ImportError):
            self._safetensors()

    def _put(self, owner: Any, name: str, way: Callable[..., Any]) -> None:
        """`way(original, path, ...)` for calls with a path; what it does itself goes past us."""

        def call(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if getattr(self._local, "busy", False):
                return original(*args, **kwargs)
            if not args and name in ("open", "listdir", "scandir"):
                args = (kwargs.pop("file" if name == "open" else "path", None),)
                args = (".",) if args == (None,) else args
            if not is_path(args[0]) or any(kwargs.get(key) is not None for key in _BY_NUMBER):
                return original(*args, **kwargs)
            self._local.busy = True
            try:
                return way(original, *args, **kwargs)
            finally:
                self._local.busy = False

        self.patches.around(owner, name, call)

    def _hold(self, kind: Any) -> None:
        for name in vars(kind) if kind is not None else ():
            if name in (*_READERS, *_OTHERS):
                source = io if name == "open" else os
                self.patches.put(kind, name, staticmethod(getattr(source, name)))

    # -- who writes ---------------------------------------------------------------

    def _diverts(self, path: Any, *, checkpoint: bool = False) -> bool:
        """Writing `path` now is to be kept aside."""
        if not (checkpoint or self.aside.only_here(path) or _saving()):
            return False
        if not self._told:
            self._told = True
            self.note("aside", os.fsdecode(path))
        for name in [n for n in self._native if n in sys.modules]:
            self._native.pop(name)(sys.modules[name])
        return True

    # -- reading ---------------------------------------------------------------------

    def _reading(self, original: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self.aside.seen(path), *args, **kwargs)

    def _listing(self, original: Any, path: Any = ".") -> Any:
        if self.aside.empty or not self.aside.is_folder(path):
            return original(path)
        names = self.aside.names(path)
        return [os.fsencode(name) for name in names] if isinstance(path, bytes) else names

    def _scanning(self, original: Any, path: Any = ".") -> Any:
        if self.aside.empty or isinstance(path, bytes) or not self.aside.is_folder(path):
            return original(path)
        entries: dict[str, Any] = {}
        for folder in (self.aside.seen(path), self.aside.place(path)):  # the latter wins
            if os.path.isdir(folder):
                with original(folder) as found:
                    entries.update((entry.name, entry) for entry in found)
        return _Scan(_Entry(path, entries[name]) for name in self.aside.names(path))

    # -- writing -----------------------------------------------------------------------

    def _opening(self, original: Any, file: Any, mode: str = "r", *args: Any, **kw: Any) -> Any:
        if kw.get("opener") is not None:
            return original(file, mode, *args, **kw)
        if not set(mode) & set("wax+"):
            return original(self.aside.seen(file), mode, *args, **kw)
        if not self._diverts(file, checkpoint="b" in mode and ends_as_checkpoint(file)):
            return original(file, mode, *args, **kw)
        if "x" in mode and self.aside.exists(file):
            raise _error(FileExistsError, errno.EEXIST, file)
        if self.aside.is_folder(file):
            raise _error(IsADirectoryError, errno.EISDIR, file)
        place = self.aside.room(file) if "w" in mode else self.aside.brought(file)
        return original(place, mode, *args, **kw)

    def _opening_low(self, original: Any, path: Any, flags: int, *args: Any, **kw: Any) -> Any:
        if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return original(self.aside.seen(path), flags, *args, **kw)
        if not self._diverts(path):
            return original(path, flags, *args, **kw)
        if flags & os.O_EXCL and self.aside.exists(path):
            raise _error(FileExistsError, errno.EEXIST, path)
        return original(self.aside.brought(path), flags, *args, **kw)

    def _making(self, original: Any, path: Any, *args: Any, **kw: Any) -> Any:
        if not self._diverts(path) and not (not self.aside.empty and self.aside.kept(path)):
            return original(path, *args, **kw)
        if self.aside.exists(path):
            raise _error(FileExistsError, errno.EEXIST, path)
        return original(self.aside.room(path), *args, **kw)

    def _copying(self, original: Any, src: Any, dst: Any, *args: Any, **kw: Any) -> Any:
        kept = not self.aside.empty and self.aside.kept(src)
        seen = self.aside.seen(src)
        if self._diverts(dst, checkpoint=kept or ends_as_checkpoint(dst)):
            original(seen, self.aside.room(dst), *args, **kw)
            return dst
        return original(seen, dst, *args, **kw)

    def _linking(self, original: Any, src: Any, dst: Any, *args: Any, **kw: Any) -> Any:
        kept = not self.aside.empty and self.aside.kept(src)
        if not self._diverts(dst, checkpoint=kept):
            return original(src, dst, *args, **kw)
        if self.aside.exists(dst):
            raise _error(FileExistsError, errno.EEXIST, dst)
        # A copy: a link would let what is written aside reach the script's own file.
        shutil.copyfile(self.aside.seen(src), self.aside.room(dst))
        return None

    def _linking_softly(self, original: Any, src: Any, dst: Any, *args: Any, **kw: Any) -> Any:
        source = os.path.join(os.path.dirname(os.path.abspath(os.fsdecode(dst))), os.fsdecode(src))
        kept = not self.aside.empty and self.aside.kept(source)
        if not self._diverts(dst, checkpoint=kept):
            return original(src, dst, *args, **kw)
        if self.aside.exists(dst):
            raise _error(FileExistsError, errno.EEXIST, dst)
        return original(os.path.abspath(self.aside.seen(source)), self.aside.room(dst), *args, **kw)

    # -- moving and removing ----------------------------------------------------------------

    def _renaming(self, original: Any, src: Any, dst: Any, **kw: Any) -> Any:
        kept = not self.aside.empty and self.aside.kept(src)
        overwrites = os.path.lexists(dst) and ends_as_checkpoint(dst)
        if not self._diverts(dst, checkpoint=kept or overwrites):
            return original(src, dst, **kw)
        seen, place = self.aside.seen(src), self.aside.room(dst)
        if seen == self.aside.place(src):
            original(seen, place)
            if os.path.lexists(src):
                self.aside.remove(src)
        elif os.path.isdir(seen):
            shutil.copytree(seen, place, symlinks=True)
            self.aside.remove(src)
        else:
            shutil.copyfile(seen, place)
            if ends_as_checkpoint(src):
                self.aside.remove(src)
            else:
                os.remove(src)  # what a script writes first under a name for the moment
        return None

    def _removing(self, original: Any, path: Any, *args: Any, **kw: Any) -> Any:
        if not self._diverts(path, checkpoint=ends_as_checkpoint(path)):
            return original(path, *args, **kw)
        if self.aside.is_folder(path) and not os.path.islink(self.aside.seen(path)):
            raise _error(IsADirectoryError, errno.EISDIR, path)
        return self.aside.remove(path)

    def _removing_folder(self, original: Any, path: Any, *args: Any, **kw: Any) -> Any:
        kept = not self.aside.empty and self.aside.kept(path)
        if not self._diverts(path, checkpoint=kept):
            return original(path, *args, **kw)
        if self.aside.names(path):
            raise _error(OSError, errno.ENOTEMPTY, path)
        return self.aside.remove(path)

    def _removing_tree(self, original: Any, path: Any, *args: Any, **kw: Any) -> Any:
        kept = not self.aside.empty and self.aside.kept(path)
        if not self._diverts(path, checkpoint=kept) or not self.aside.exists(path):
            return original(path, *args, **kw)
        return self.aside.remove(path)

    # -- code that reads and writes by itself ------------------------------------------------

    def _room(self, path: Any) -> Any:
        """Where native code is to write; the path itself where that cannot work, for its error."""
        if not self._diverts(path, checkpoint=True) or self.aside.is_folder(path):
            return path
        with contextlib.suppress(FileNotFoundError):
            return self.aside.room(path)
        return path

    def _torch(self) -> None:
        import torch

        def save(original: Any, obj: Any, f: Any, *args: Any, **kw: Any) -> Any:
            return original(obj, self._raw(self._room, f), *args, **kw)

        def save_script(original: Any, m: Any, f: Any, *args: Any, **kw: Any) -> Any:
            return save(original, m, f, *args, **kw)

        def load(original: Any, f: Any, *args: Any, **kw: Any) -> Any:
            return original(self._raw(self.aside.seen, f), *args, **kw)

        self.patches.around(torch, "save", save)
        self.patches.around(torch.jit, "save", save_script)
        for home in (torch, torch.jit):
            self.patches.around(home, "load", load)
        for name in ("save", "load"):
            self.patches.put(torch.serialization, name, getattr(torch, name))

    def _safetensors(self) -> None:
        package, for_torch = import_module("safetensors"), import_module("safetensors.torch")

        def write(original: Any, tensor_dict: Any, filename: Any, *args: Any, **kw: Any) -> Any:
            return original(tensor_dict, self._raw(self._room, filename), *args, **kw)

        def read(original: Any, filename: Any, *args: Any, **kw: Any) -> Any:
            return original(self._raw(self.aside.seen, filename), *args, **kw)

        for name, way in (("serialize_file", write), ("safe_open", read)):
            original = getattr(package, name)
            # Whoever was imported before us may have the function by its name.
            known = [
                m
                for m in list(sys.modules.values())
                if getattr(m, "__dict__", {}).get(name) is original
            ]
            self.patches.around(package, name, way)
            for module in {id(m): m for m in (for_torch, *known) if m is not package}.values():
                self.patches.put(module, name, getattr(package, name))

    def _tokenizers(self, package: Any) -> None:
        kind = package.Tokenizer
        save, from_file = kind.save, kind.from_file

        def write(tokenizer: Any, path: Any, *args: Any, **kw: Any) -> Any:
            if _saving() or (not self.aside.empty and self._raw(self.aside.only_here, path)):
                path = self._raw(self._room, path)
            return save(tokenizer, path, *args, **kw)

        def read(path: Any) -> Any:
            return from_file(self._raw(self.aside.seen, path))

        self.patches.put(kind, "save", write)
        self.patches.put(kind, "from_file", staticmethod(read))

    def _raw(self, way: Callable[[Any], Any], path: Any) -> Any:
        """`way(path)` on the real file system; what is no path stays as it is."""
        if not is_path(path):
            return path
        before = getattr(self._local, "busy", False)
        self._local.busy = True
        try:
            return way(path)
        finally:
            self._local.busy = before


def _saving() -> bool:
    """A library is writing or tidying up its checkpoints."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        package = module.partition(".")[0]
        if package in _LIBRARIES:
            if _SAVES.fullmatch(frame.f_code.co_name) and not _LOGS.search(module):
                return True
        elif package == "torch" and module.startswith(_OF_TORCH):
            return True
        frame = frame.f_back
    return False


def _error(kind: type[OSError], number: int, path: Any) -> OSError:
    return kind(number, os.strerror(number), os.fspath(path))


class _Entry:
    """An entry of a folder, under the path by which the script asked for it."""

    def __init__(self, folder: Any, entry: os.DirEntry[str]) -> None:
        self._entry = entry
        self.name = entry.name
        self.path = os.path.join(folder, entry.name)

    def __fspath__(self) -> str:
        return self.path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)


class _Scan:
    """What `os.scandir` gives: entries, closed by hand or by `with`."""

    def __init__(self, entries: Iterator[Any]) -> None:
        self._entries = entries

    def __iter__(self) -> _Scan:
        return self

    def __next__(self) -> Any:
        return next(self._entries)

    def close(self) -> None:
        self._entries = iter(())

    def __enter__(self) -> _Scan:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
