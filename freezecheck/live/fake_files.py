"""Files of tensors under `--fake`: what is saved is kept in memory, what is large is not read.

A script may save its first weights and load them again before it trains. Fake tensors
must not take the place of a real checkpoint, so nothing is written.
"""

from __future__ import annotations

import copy
import os
from typing import Any

from freezecheck.live.patches import Patches
from freezecheck.live.values import torch

_SMALL = 2**26  # bytes up to which a file is read for real


def install(patches: Patches) -> None:
    """Keep `torch.save` from the disk, and `torch.load` from reading large files."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    saved: dict[str, Any] = {}

    def save(original: Any, obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        path = _path(f)
        if path is not None:
            saved[path] = copy.deepcopy(obj)

    def load(original: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
        path = _path(f)
        if path in saved:
            return copy.deepcopy(saved[path])
        if "map_location" in kwargs or args:
            args, kwargs["map_location"] = args[1:], "cpu"
        if path is None or not os.path.isfile(path) or os.path.getsize(path) <= _SMALL:
            with unset_fake_temporarily():
                return original(f, *args, **kwargs)
        return original(f, *args, **kwargs)

    patches.around(torch(), "save", save)
    patches.around(torch(), "load", load)


def _path(file: Any) -> str | None:
    """The path that a file is known by; None for one that has none."""
    if isinstance(file, (str, os.PathLike)):
        return os.path.abspath(os.fspath(file))
    return None
