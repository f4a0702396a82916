"""Tests on names as plain data: `if "fc" in name`, tried on the names that a loop went through.

A condition is a nested tuple, so that it survives JSON inside a PATTERN event:

    ("test", how, literals, lower, each)   the name contains ("in"), starts with, ends with
                                           or equals ("==") any of the literals
    ("not", c)   ("and", c, ...)   ("or", c, ...)
    ("?",)                                 anything else: nothing is known of it

`lower`: the name is lowered first. `each`: the literals are tried one after the
other, in a loop around. What a condition with an unknown part amounts to may
still be known, as for `"fc" in name and p.dim() > 1` where there is no `fc`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from freezecheck.finding import Site
from freezecheck.records import dataclass
from freezecheck.snapshot import Param, Snapshot
from freezecheck.timeline import Event

UNKNOWN = ("?",)
# Path components that wrappers add to the names of what they wrap.
_WRAPPERS = (
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
)


@dataclass(frozen=True, slots=True)
class Atom:
    """One test of a condition: the very tuple, and whether it stands under a `not`."""

    test: Any
    negated: bool

    @property
    def how(self) -> str:
        """The kind of test: "in", "startswith", "endswith" or "==" (the whole name)."""
        return self.test[1]

    @property
    def literals(self) -> tuple[str, ...]:
        """What the name is tested for; any of them will do."""
        return self.test[2]

    @property
    def each(self) -> bool:
        """The literals are tried one after the other, in a loop around."""
        return self.test[4]

    def hits(self, name: str, literal: str | None = None) -> bool:
        """The test (of that literal alone) holds of `name`, before any negation."""
        _, how, literals, lower, each = self.test
        return _holds(("test", how, (literal,) if literal else literals, lower, each), name)

    def __str__(self) -> str:
        """The test as one would write it: `'fc' in name`, `name.startswith('fc')`."""
        shown = ", ".join(repr(literal) for literal in self.literals[:4])
        if len(self.literals) > 4:
            shown += ", ..."
        if self.how == "in":
            return f"{shown} in name" if len(self.literals) == 1 else f"any of {shown} in name"
        if self.how == "==":
            return f"name == {shown}" if len(self.literals) == 1 else f"name in [{shown}]"
        return (
            f"name.{self.how}({shown})"
            if len(self.literals) == 1
            else f"name.{self.how}(({shown}))"
        )


@dataclass(frozen=True, slots=True)
class Branch:
    """One arm of an if/elif chain over names: its condition, what it does, its line."""

    condition: Any
    action: str  # "freeze", "unfreeze", "flag", "eval", "train", "collect", "skip" or ""
    line: int
    column: int = 1
    end_line: int | None = None
    end_column: int | None = None

    @property
    def atoms(self) -> list[Atom]:
        """The tests in the condition."""
        return list(atoms(self.condition))


@dataclass(frozen=True, slots=True)
class Chain:
    """The tests that one loop made on each of `names`; read from a PATTERN event."""

    subject: str  # path of the module whose names were asked for
    model: str  # its model's label
    of: str  # "parameters", "modules", "children"
    names: tuple[str, ...]
    branches: tuple[Branch, ...]
    path: str  # of the file
    caller: Site | None  # the line that called the function with the loop
    otherwise: str | None  # what its else does; None: there is none

    def site(self, branch: Branch) -> Site:
        """Where the branch is in the user's file."""
        return Site(self.path, branch.line, branch.column, branch.end_line, branch.end_column)

    def taken(self, name: str, forced: Any = None) -> int | None:
        """Index of the branch that `name` goes into; -1: none of them; None: cannot say.

        With one test (the very tuple) `forced` to hold, where it would go then.
        """
        for index, branch in enumerate(self.branches):
            held = value(branch.condition, name, forced)
            if held is None:
                return None
            if held:
                return index
        return -1


def read(event: Event) -> Chain:
    """The chain that a PATTERN event records."""
    data = event.data
    caller = data.get("caller")
    return Chain(
        event.subject,
        data["model"],
        data["of"],
        tuple(event.names),
        tuple(Branch(*branch) for branch in data["branches"]),
        event.site.path if event.site else "",
        Site(*caller) if caller else None,
        data["else"],
    )


def value(condition: Any, name: str, forced: Any = None) -> bool | None:
    """Whether the condition holds of `name`; None where that is not known.

    `forced` is one test of the condition (the very tuple) to be taken as true.
    """
    kind = condition[0]
    if kind == "test":
        return True if condition is forced else _holds(condition, name)
    if kind == "not":
        inner = value(condition[1], name, forced)
        return None if inner is None else not inner
    if kind in ("and", "or"):
        results = [value(part, name, forced) for part in condition[1:]]
        decisive = kind == "or"
        if decisive in results:
            return decisive
        return None if None in results else not decisive
    return None


def members(now: Snapshot, chain: Chain) -> Mapping[str, Param]:
    """The parameters behind the names, as far as the snapshot still has them."""
    known = {now.path(p.model, p.name): p for p in now.owned}
    prefix = f"{chain.subject}." if chain.subject else ""
    found = {}
    for name in chain.names:
        param = known.get(prefix + bare(name)) or known.get(prefix + name)
        if param is not None:
            found[name] = param
    return found


def bare(name: str) -> str:
    """A name without what wrappers put into it (`module.`, `_orig_mod.`)."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    return ".".join(parts[1:] if parts[:1] == ["module"] else parts)


def model_of(now: Snapshot, chain: Chain) -> int | None:
    """Index of the model that the chain is about."""
    return next((i for i, model in enumerate(now.models) if model.label == chain.model), None)


def atoms(condition: Any, negated: bool = False) -> Iterator[Atom]:
    """The tests in a condition."""
    kind = condition[0]
    if kind == "test":
        yield Atom(condition, negated)
    elif kind == "not":
        yield from atoms(condition[1], not negated)
    elif kind != "?":
        for part in condition[1:]:
            yield from atoms(part, negated)


def _holds(test: Any, name: str) -> bool:
    _, how, literals, lower, _ = test
    if lower:
        name = name.lower()
    if how == "in":
        return any(literal in name for literal in literals)
    if how == "==":
        return name in literals
    return (
        name.startswith(tuple(literals)) if how == "startswith" else name.endswith(tuple(literals))
    )
