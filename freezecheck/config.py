"""`[tool.freezecheck]` in the pyproject.toml that is closest to a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from freezecheck.arguments import BadInput

_TABLE = "tool.freezecheck"
FAIL_ON = ("error", "warning", "info", "never")


class Config:
    """What a project wants. The attributes are the keys of its table.

    `select` is None where the project chooses no rules; `like` maps the dotted name of
    a function of the project to that of the library's function that it is like.
    """

    __slots__ = ("exclude", "fail_on", "ignore", "like", "path", "per_file_ignores", "select")

    def __init__(self, path: str = "") -> None:
        self.path = path  # of its pyproject.toml; "" where there is none
        self.select: list[str] | None = None
        self.ignore: list[str] = []
        self.per_file_ignores: dict[str, list[str]] = {}
        self.exclude: list[str] = []
        self.fail_on = "warning"
        self.like: dict[str, str] = {}

    def excludes(self, path: str) -> bool:
        """Whether `exclude` names this file or a folder that it is in."""
        return any(self._matches(path, pattern) for pattern in self.exclude)

    def ignored_in(self, path: str) -> list[str]:
        """The rules that `per-file-ignores` takes away from this file."""
        return [
            selector
            for pattern, selectors in self.per_file_ignores.items()
            if self._matches(path, pattern)
            for selector in selectors
        ]

    def _matches(self, path: str, pattern: str) -> bool:
        """A pattern without a slash may match any part of the path, one with a slash its
        beginning, from the folder of pyproject.toml."""
        folder = os.path.dirname(self.path)
        parts = os.path.relpath(os.path.abspath(path), folder or None).split(os.sep)
        pattern = pattern.removeprefix("./").rstrip("/")
        if "/" not in pattern:
            return any(fnmatchcase(part, pattern) for part in parts)
        return any(fnmatchcase("/".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def closest(path: str) -> Config:
    """The configuration for a file or folder: that of the nearest pyproject.toml at or above it
    that has one. BadInput for one that is wrong."""
    path = os.path.abspath(path)
    return _of_folder(path if os.path.isdir(path) else os.path.dirname(path))


@cache
def _of_folder(folder: str) -> Config:
    found = _of_file(os.path.join(folder, "pyproject.toml"))
    above = os.path.dirname(folder)
    if found is not None:
        return found
    return Config() if above == folder else _of_folder(above)


def _of_file(path: str) -> Config | None:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    if _TABLE.encode() not in data:  # do not even import the parser
        return None
    tools = _parsed(path, data).get("tool")
    table = tools.get("freezecheck") if isinstance(tools, dict) else None
    if table is None:
        return None
    if not isinstance(table, dict):
        raise BadInput(f"{_shown(path)}: {_TABLE} must be a table")
    config = Config(path)
    for key, value in table.items():
        _read_key(config, key, value)
    return config


def _parsed(path: str, data: bytes) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[import-not-found, no-redef, unused-ignore]
    try:
        return tomllib.loads(data.decode())
    except ValueError as problem:  # of TOML and of UTF-8
        raise BadInput(f"{_shown(path)}: {problem}") from None


def _shown(path: str) -> str:
    """Its path from here, where that is shorter."""
    return min(path, os.path.relpath(path), key=len)


def _read_key(config: Config, key: str, value: Any) -> None:
    shown = _shown(config.path)
    where = f"{shown}: {_TABLE}.{key}"
    if key not in _KEYS:
        raise BadInput(f"{shown}: unknown key {key!r} in [{_TABLE}]{_nearest(key)}")
    setattr(config, key.replace("-", "_"), _KEYS[key](where, value))


def _nearest(key: str) -> str:
    import difflib

    near = difflib.get_close_matches(key, _KEYS, n=1)
    return f"; did you mean {near[0]!r}?" if near else f" (it takes {', '.join(_KEYS)})"


def _strings(where: str, value: Any) -> list[str]:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    raise BadInput(f"{where} must be a list of strings")


def _selectors(where: str, value: Any) -> list[str]:
    from freezecheck import catalogue

    try:
        return [*catalogue.known(_strings(where, value))]
    except ValueError as problem:
        raise BadInput(f"{where}: {problem}") from None


def _selectors_of(where: str, value: Any) -> dict[str, list[str]]:
    if not isinstance(value, dict):
        raise BadInput(f"{where} must be a table from patterns to lists of rules")
    return {pattern: _selectors(f"{where}.{pattern!r}", each) for pattern, each in value.items()}


def _fail_on(where: str, value: Any) -> str:
    if value in FAIL_ON:
        return str(value)
    raise BadInput(f"{where} must be one of {', '.join(map(repr, FAIL_ON))}")


def _names(where: str, value: Any) -> dict[str, str]:
    """Dotted names to dotted names; a key without quotes is a table in a table in TOML."""
    if not isinstance(value, dict):
        raise BadInput(f"{where} must be a table from dotted names to dotted names")
    found: dict[str, str] = {}
    for name, known in value.items():
        if isinstance(known, dict):
            inside = _names(f"{where}.{name}", known)
            found.update({f"{name}.{rest}": each for rest, each in inside.items()})
        elif isinstance(known, str):
            found[name] = known
        else:
            raise BadInput(
                f"{where}.{name} must be a dotted name, such as 'torchvision.models.resnet50'"
            )
    return found


_KEYS: dict[str, Callable[[str, Any], Any]] = {
    "select": _selectors,
    "ignore": _selectors,
    "per-file-ignores": _selectors_of,
    "exclude": _strings,
    "fail-on": _fail_on,
    "like": _names,
}
