"""Names and what they stand for."""

from __future__ import annotations

from typing import Any

MISSING: Any = object()


class Scope:
    """The names of a function, of a class body or of a file, and the scope around it."""

    __slots__ = ("file", "foreign", "names", "parent")

    def __init__(self, parent: Scope | None, file: Any = None) -> None:
        self.names: dict[str, Any] = {}
        self.parent = parent
        self.file: Any = file if file is not None or parent is None else parent.file
        self.foreign: dict[str, Scope] = {}  # declared `global` or `nonlocal`

    @property
    def top(self) -> Scope:
        """The file's own scope."""
        found = self
        while found.parent is not None:
            found = found.parent
        return found

    def get(self, name: str) -> Any:
        """What a name stands for; MISSING if it is bound nowhere."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return MISSING

    def set(self, name: str, value: Any) -> None:
        """Bind a name here, or where it was declared to be."""
        self.foreign.get(name, self).names[name] = value

    def declare(self, name: str, globally: bool) -> None:
        """`global name` or `nonlocal name`."""
        scope: Scope | None = self.top if globally else self.parent
        while not globally and scope is not None and name not in scope.names:
            scope = scope.parent
        if scope is not None:
            self.foreign[name] = scope
