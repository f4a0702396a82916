"""Modules whose weights were left out: they count as pretrained, whatever their values are.

Kept beside the modules, not on them, and by identity. A copy of such a module is not known.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection
from typing import Any

_marked: dict[int, weakref.ref[Any]] = {}  # modules and their parameters, by id


def add(root: Any, but: Collection[str] = ()) -> None:
    """The weights of `root` were left out, but for those of the modules at the paths `but`,
    which would not have got any."""
    for path, module in root.named_modules():
        if path not in but:
            own = [p for p in module._parameters.values() if p is not None]
            _marked.update((id(item), weakref.ref(item)) for item in (module, *own))


def holds(module: Any) -> bool:
    """The module would have had loaded weights; or one whose weight it took over, as
    `convert_sync_batchnorm` makes them."""
    return any(_is_marked(item) for item in (module, module._parameters.get("weight")))


def _is_marked(item: Any) -> bool:
    reference = _marked.get(id(item))
    return reference is not None and reference() is item
