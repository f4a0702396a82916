"""Modules whose weights were left out: they count as pretrained, whatever their values are.

Kept beside the modules, not on them, and by identity. A copy of such a module is not known.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection
from typing import Any

_modules: dict[int, weakref.ref[Any]] = {}


def add(root: Any, but: Collection[str] = ()) -> None:
    """The weights of `root` were left out, but for those of the modules at the paths `but`,
    which would not have got any."""
    for path, module in root.named_modules():
        if path not in but:
            _modules[id(module)] = weakref.ref(module)


def holds(module: Any) -> bool:
    """The module would have had loaded weights."""
    reference = _modules.get(id(module))
    return reference is not None and reference() is module
