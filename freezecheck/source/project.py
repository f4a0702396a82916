"""The files that a file's imports may be followed into: those of its own project.

They are found as Python would find them for `python train.py` (beside the script), for
`python -m package.train` (from the folder of the command) and among the files that are
checked together. They are read when the analysis gets to the import, and only a few.
"""

from __future__ import annotations

import ast
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

from freezecheck.source import skim
from freezecheck.source.read import read

_FILES = 16  # that are followed for one file
_BYTES = 300_000  # of text in them
_SHORT = 10_000  # bytes
_KEPT = 1_500_000  # bytes of text whose trees stay in memory

# Where the modules of everybody lie; what is beside a module there is not its project.
_LIBRARIES = ("site-packages", "dist-packages")

Parsed = tuple[ast.Module, str]  # a tree and its path


class Project:
    """The files that are checked together, and what has been read of those they import."""

    def __init__(self, files: Sequence[str], data: Callable[[str], bytes]) -> None:
        self._files = files
        self._data = data
        self._named: dict[str, str] | None = None
        self._given: dict[str, str] | None = None
        self._trees: OrderedDict[str, tuple[ast.Module | None, int]] = OrderedDict()

    def imports(self, path: str) -> Imports:
        """What the file at `path` may import."""
        return Imports(self, path)

    def checked(self, name: str) -> str | None:
        """The path of a checked file by its dotted name."""
        if self._named is None:
            self._named = {dotted(path): path for path in reversed(self._files)}
        return self._named.get(name) or self._named.get(f"{name}.__init__")

    def given(self, path: str, *, relative: bool) -> str:
        """The path of a file as it was given on the command line, or would have been."""
        if self._given is None:
            self._given = {os.path.abspath(each): each for each in self._files}
        return self._given.get(path) or (os.path.relpath(path) if relative else path)

    def tree(self, path: str) -> tuple[ast.Module | None, int]:
        """The tree of a file, if anything in it can matter, and its size."""
        if path not in self._trees:
            self._trees[path] = self._read(path)
            while sum(size for _, size in self._trees.values()) > _KEPT:
                self._trees.popitem(last=False)
        self._trees.move_to_end(path)
        return self._trees[path]

    def _read(self, path: str) -> tuple[ast.Module | None, int]:
        try:
            data = self._data(path)
        except OSError:
            return None, 0
        # A short file without a word of ours may pass on what is defined elsewhere.
        if len(data) > _BYTES or not (len(data) < _SHORT or skim.matters(data)):
            return None, 0
        return read(path, data).tree, len(data)


class Imports(Mapping[str, Parsed]):
    """Dotted name to tree and path, for one importing file."""

    def __init__(self, project: Project, path: str) -> None:
        self._project = project
        self._path = path
        self._left = _BYTES
        self._found: dict[str, Parsed | None] = {}

    def __getitem__(self, name: str) -> Parsed:
        if name not in self._found:
            self._found[name] = self._follow(name)
        found = self._found[name]
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return (name for name, found in self._found.items() if found)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _follow(self, name: str) -> Parsed | None:
        if len(self) >= _FILES:
            return None
        path = self._locate(name)
        if path is None or os.path.realpath(path) == os.path.realpath(self._path):
            return None
        tree, size = self._project.tree(path)
        if tree is None or size > self._left:
            return None
        self._left -= size
        return tree, path

    def _locate(self, name: str) -> str | None:
        """The file that a dotted name means, if it is one of the project's."""
        parts = name.split(".")
        if parts[0] in sys.stdlib_module_names or not all(map(str.isidentifier, parts)):
            return None
        for root in self._roots(parts[0]):
            start = os.path.join(root, *parts)
            for path in (f"{start}.py", os.path.join(start, "__init__.py")):
                if os.path.isfile(path):
                    return self._project.given(path, relative=not os.path.isabs(self._path))
        return self._project.checked(name)

    def _roots(self, top: str) -> Iterator[str]:
        """The folders in which a name that begins with `top` is looked for."""
        folder = os.path.dirname(os.path.abspath(self._path))
        around = package_root(folder)
        if around != folder and os.path.relpath(folder, around).split(os.sep)[0] == top:
            yield around
        yield from (f for f in (folder, os.getcwd()) if os.path.basename(f) not in _LIBRARIES)


def dotted(path: str) -> str:
    """The dotted name of a file: below the outermost package that it is in. That of a package
    itself ends in `__init__`, so that relative imports count from it."""
    path = os.path.abspath(path)
    below = os.path.relpath(path, package_root(os.path.dirname(path)))
    return below.removesuffix(".py").replace(os.sep, ".")


@cache
def package_root(folder: str) -> str:
    """The folder around the outermost package that `folder` is in; itself if in none."""
    if not os.path.isfile(os.path.join(folder, "__init__.py")):
        return folder
    return package_root(os.path.dirname(folder))
