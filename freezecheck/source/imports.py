"""Imports: of files among those that were given, which are followed; of all else, by name."""

from __future__ import annotations

import builtins

from freezecheck.source import calls
from freezecheck.source.machine import Machine, Raised
from freezecheck.source.scope import Scope


def absolute(importer: str, module: str, level: int) -> str:
    """The dotted name that `from {dots}{module} import ...` in `importer` means."""
    if not level:
        return module
    parts = importer.split(".")
    base = parts[: len(parts) - level] if level <= len(parts) else []
    return ".".join([*base, *([module] if module else [])])


def load(m: Machine, name: str) -> Scope | None:
    """The names of a file that may be followed, run once; None for a library."""
    if name in m.loaded:
        return m.loaded[name]
    if name in m.shared:
        return m.shared[name]
    file = m.imports(name)
    if file is None:
        m.shared[name] = None
        return None
    scope = Scope(None, file)
    m.loaded[name] = scope
    before = _traces(m)
    outer, m.scope = m.scope, scope
    depth, m.defining = m.defining, len(m.active)
    scope.names["__name__"] = name
    try:
        m.run(file.tree.body)
    except Raised:
        pass
    finally:
        m.scope, m.defining = outer, depth
    if _traces(m) == before:
        m.shared[name] = scope
    return scope


def _traces(m: Machine) -> tuple[int, ...]:
    """What the run of a file leaves behind, but for the names in it: mere definitions
    leave nothing, and are made once for all ways."""
    world = m.world
    return (len(world.events), len(world.modules), len(m.decisions.taken), len(m.stars))


# What the modules that people import everything from show of other libraries.
_SHOWN = {
    "nn": "torch.nn", "F": "torch.nn.functional", "torch": "torch", "optim": "torch.optim",
    "models": "torchvision.models", "partial": "functools.partial",
}  # fmt: skip


def starred(m: Machine, name: str) -> str:
    """The dotted name of what is bound nowhere: Python's own, or out of `from ... import *`."""
    if hasattr(builtins, name):
        return name
    if name in _SHOWN and any(star.startswith("fastai") for star in m.stars):
        return _SHOWN[name]
    star = next((s for s in m.stars if f"{s}.{name}" in calls.EFFECTS), m.stars[-1])
    return f"{star}.{name}"
