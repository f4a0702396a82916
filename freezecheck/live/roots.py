"""Which models and optimizers are alive, and what the user calls them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from freezecheck.live import frames
from freezecheck.live.tree import unwrap
from freezecheck.live.values import torch


def live_roots(
    ignored: Iterable[int] = (), wrappers: Mapping[int, Any] = MappingProxyType({})
) -> list[Any]:
    """Modules with parameters that are no other module's child, oldest first.

    Forward roots would miss Lightning, whose module is never called. The class
    is tested by `type`, since `isinstance` wakes lazy proxies. `ignored` are
    ids of modules that are none of our business. Of several wrappers around one module the
    newest counts, as an older one may be waiting for the garbage collector: `wrappers` has
    weak references to them by the id of the module.
    """
    base = torch().nn.Module
    skip = set(ignored)
    modules = [
        o for o in gc.get_objects() if issubclass(type(o), base) and "_modules" in o.__dict__
    ]
    children = {id(child) for m in modules for child in m._modules.values() if child is not None}
    roots = [
        m
        for m in modules
        if id(m) not in children and id(m) not in skip and next(m.parameters(), None) is not None
    ]
    found: dict[int, Any] = {}
    for root in roots:
        key = id(unwrap(root)[0])
        newest = wrappers[key]() if key in wrappers else None
        if key not in found or any(module is newest for module in root.modules()):
            found[key] = root
    return list(found.values())


def names(objects: Iterable[Any], fallback: str) -> dict[str, Any]:
    """A label for each object: the variable it has in the user's frames.

    Frames are searched from the innermost outwards, then what hangs on `self`.
    An object without a name gets `fallback`, numbered where there are several.
    """
    objects = list(objects)
    variables = _variables()
    labels: dict[str, Any] = {}
    for index, item in enumerate(objects):
        label = variables.get(id(item)) or variables.get(
            id(unwrap(item)[0]) if _is_module(item) else 0
        )
        label = label or (fallback if len(objects) == 1 else f"{fallback}s[{index}]")
        while label in labels:
            label += "'"
        labels[label] = item
    return labels


def _is_module(item: Any) -> bool:
    return issubclass(type(item), torch().nn.Module)


def _variables() -> Mapping[int, str]:
    """Names by id of everything that the user's frames can name in one or two steps."""
    found: dict[int, str] = {}
    scopes = []
    for frame in frames.users(sys._getframe(1)):
        scopes.append(frame.f_locals)
        if frame.f_globals is not frame.f_locals:
            scopes.append(frame.f_globals)
    main = sys.modules.get("__main__")  # at exit the user's frames are gone
    scopes.append(getattr(main, "__dict__", {}))
    for scope in scopes:
        for name, value in list(scope.items()):
            if name == "self":
                for attribute, item in list(getattr(value, "__dict__", {}).items()):
                    found.setdefault(id(item), f"self.{attribute}")
            elif not name.startswith("__"):
                _name(found, name, value)
    return found


def _name(found: dict[int, str], name: str, value: Any) -> None:
    found.setdefault(id(value), name)
    if type(value) in (list, tuple):
        for index, item in enumerate(value[:8]):
            found.setdefault(id(item), f"{name}[{index}]")
    elif type(value) is dict:
        for key, item in list(value.items())[:32]:
            if isinstance(key, str):
                found.setdefault(id(item), f"{name}[{key!r}]")
