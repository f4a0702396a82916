"""Signatures of library functions, written as text: `"params lr=1e-3 * foreach=None"`."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any


class Signature:
    """What a call may give, in which order, and what it means not to give it.

    The text lists names separated by blanks, with their defaults where they have one.
    After `*` come those that are given by name alone; `*name` takes the rest of the
    positions, `**` any other name.
    """

    __slots__ = ("defaults", "names", "open", "positional", "rest")

    def __init__(self, text: str) -> None:
        self.positional: tuple[str, ...] = ()
        self.names: tuple[str, ...] = ()
        self.defaults: dict[str, Any] = {}
        self.rest = ""
        self.open = False
        by_name = False
        for part in text.split():
            name, _, default = part.partition("=")
            if name == "**":
                self.open = True
            elif name.startswith("*"):
                by_name, self.rest = True, name[1:]
            else:
                self.names += (name,)
                self.positional += () if by_name else (name,)
                if default:
                    self.defaults[name] = ast.literal_eval(default)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """The given arguments by name; None if the call would fail.

        Defaults are left out: see `defaults`.
        """
        if len(args) > len(self.positional) and not self.rest:
            return None
        bound = dict(zip(self.positional, args))
        if self.rest:
            bound[self.rest] = tuple(args[len(self.positional) :])
        if not bound.keys().isdisjoint(kwargs):
            return None
        if not self.open and not all(name in self.names for name in kwargs):
            return None
        return {**bound, **kwargs}
