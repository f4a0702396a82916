"""Which files to check, from the paths that were given."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

SUFFIXES = (".py", ".ipynb")

# Folders that nobody means when naming the one around them.
_PASSED_OVER = frozenset(
    ".bzr .direnv .eggs .git .hg .ipynb_checkpoints .mypy_cache .nox .pytest_cache .ruff_cache"
    " .svn .tox .venv .vscode __pycache__ __pypackages__ build conda-meta dist node_modules"
    " site-packages venv".split()
)

# Set for hooks of git; they would point our own calls of git at another repository.
_GIT_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")


class NotThere(Exception):
    """A path that was given does not exist."""


def find(
    paths: Iterable[str], *, excluded: Callable[[str], bool] = lambda _: False, force: bool = False
) -> list[str]:
    """The files to check, each once, in the order of the paths and sorted within a folder.

    A file that is given itself is taken whatever it is called, also one that is `excluded`
    unless `force`d. A folder is searched for Python files and notebooks, leaving
    out what git ignores, what is `excluded`, virtual environments, caches and the like.
    """
    found: dict[str, str] = {}
    for path in paths:
        if os.path.isdir(path):
            inside = [f for f in sorted(_inside(path)) if not excluded(f)]
        elif os.path.exists(path):
            inside = [] if force and excluded(path) else [path]
        else:
            raise NotThere(f"{path}: no such file or folder")
        for file in inside:
            found.setdefault(os.path.abspath(file), os.path.normpath(file))
    return list(found.values())


def _inside(folder: str) -> Iterator[str]:
    listed = _listed(folder) if _in_checkout(folder) else None
    return _walked(folder) if listed is None else _kept(folder, listed)


def _in_checkout(folder: str) -> bool:
    at = os.path.abspath(folder)
    while not os.path.exists(os.path.join(at, ".git")):
        above = os.path.dirname(at)
        if above == at:
            return False
        at = above
    return True


def _listed(folder: str) -> list[str] | None:
    """The files below a folder that git knows or would add; None where it cannot say,
    which is also so for a folder that is itself ignored."""
    names = _git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if names or (names is not None and _git(folder, "check-ignore", "-q", ".") is None):
        return sorted(filter(None, names.split("\0")))
    return None


def _git(folder: str, *words: str) -> str | None:
    """What a git command says; None if there is no git, or it fails."""
    import subprocess

    environment = {k: v for k, v in os.environ.items() if k not in _GIT_VARIABLES}
    try:
        done = subprocess.run(
            # A repository may name a program to watch its files; nothing of it is run here.
            ["git", "-c", "core.fsmonitor=false", *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None
    return os.fsdecode(done.stdout) if done.returncode == 0 else None


def _kept(folder: str, listed: list[str]) -> Iterator[str]:
    """Of the files that git lists, those of ours; a repository inside is listed as a folder."""
    environments: dict[str, bool] = {}
    for name in listed:
        path = os.path.join(folder, name)
        within = name.rstrip("/").split("/")
        if not _PASSED_OVER.isdisjoint(within[:-1]) or _in_environment(
            folder, within[:-1], environments
        ):
            continue
        if name.endswith(SUFFIXES):
            if os.path.isfile(path):
                yield path
        elif within[-1] not in _PASSED_OVER and os.path.isdir(path) and not os.path.islink(path):
            yield from _inside(path)


def _in_environment(folder: str, within: list[str], known: dict[str, bool]) -> bool:
    at = folder
    for part in within:
        at = os.path.join(at, part)
        if at not in known:
            known[at] = _is_environment(at)
        if known[at]:
            return True
    return False


def _walked(folder: str) -> Iterator[str]:
    for at, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name not in _PASSED_OVER and not _is_environment(os.path.join(at, name))
        ]
        paths = (os.path.join(at, name) for name in names if name.endswith(SUFFIXES))
        yield from filter(os.path.isfile, paths)  # not a link to nowhere


def _is_environment(folder: str) -> bool:
    """A virtual environment, of whatever name."""
    return os.path.exists(os.path.join(folder, "pyvenv.cfg"))
