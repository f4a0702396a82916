"""Tests on parameter names in the user's source, tried on the names that a run asks for.

When a line of the user's asks for names, the loop around it is read from the
source (`names.chains`), once a file. What the literals are is then asked of the running
frame (`no_decay`, `args.unfreeze`): plain values only, so no code of the user's runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from freezecheck.live import syntax
from freezecheck.names import chains


@dataclass(slots=True)
class Found:
    """A chain with its literals, and the names that come to it."""

    branches: tuple[tuple[Any, str, int, int], ...]  # fields of `pattern.Branch`
    otherwise: str | None
    guards: tuple[Any, ...]

    def data(self, of: str, caller: tuple[str, int] | None) -> dict[str, Any]:
        """The data of its PATTERN event."""
        return {"of": of, "branches": self.branches, "else": self.otherwise, "caller": caller}

    def reached(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` that no condition before the chain keeps out."""
        return chains.reached(names, self.guards)


class Reader:
    """Reads each file once."""

    def __init__(self) -> None:
        self._files: dict[str, chains.Loops] = {}

    def chains(self, frame: FrameType, method: str) -> list[Found]:
        """The chains of tests on the names that `frame` is just asking for by `method`."""
        filename = frame.f_code.co_filename
        loops = self._files.get(filename)
        if loops is None:
            loops = self._files[filename] = _read(filename)
        return [
            Found(
                tuple(
                    (held, do, test.lineno, test.col_offset + 1) for held, do, test in t.branches
                ),
                t.otherwise,
                t.guards,
            )
            for t in chains.told(loops, frame.f_lineno, method, _Frame(frame))
        ]


class _Frame:
    """The variables of a running frame; attributes are read without calling properties."""

    def __init__(self, frame: FrameType) -> None:
        self._scopes = (frame.f_locals, frame.f_globals)

    def variable(self, name: str) -> Any:
        """The value of a variable."""
        for scope in self._scopes:
            if name in scope:
                return scope[name]
        raise KeyError(name)

    def attribute(self, base: Any, name: str) -> Any:
        """An attribute as it is stored."""
        return inspect.getattr_static(base, name)


def _read(filename: str) -> chains.Loops:
    tree = syntax.tree(filename)
    return {} if tree is None else chains.choosing(tree)
