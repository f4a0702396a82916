"""Calling back once a module has been imported, be it that it already has."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from freezecheck.live.patches import Patches


def after(patches: Patches, callbacks: dict[str, Callable[[ModuleType], None]]) -> None:
    """Call `callbacks[name](module)` right after the module's own code has run, before whoever
    imports it gets to see it: names that are imported from it are then those that it has by then.
    """
    waiting = dict(callbacks)
    for name in list(waiting):
        module = sys.modules.get(name)
        if module is not None:
            waiting.pop(name)(module)
    finder = _Waiting(waiting)
    sys.meta_path.insert(0, finder)
    patches.later(lambda: sys.meta_path.remove(finder))


class _Waiting:
    """A finder that leaves finding to the others."""

    def __init__(self, callbacks: dict[str, Callable[[ModuleType], None]]) -> None:
        self.callbacks = callbacks

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """What the finders after this one say, with an ear on the module's loader."""
        if name not in self.callbacks:
            return None
        finders = sys.meta_path[sys.meta_path.index(self) + 1 :]
        specs = (f.find_spec(name, path, target) for f in finders if hasattr(f, "find_spec"))
        spec = next((found for found in specs if found is not None), None)
        # A spec that is only asked for, to know whether there is such a library, is never executed.
        if spec is not None and hasattr(getattr(spec.loader, "exec_module", None), "__func__"):
            self._listen(spec.loader)
        return spec

    def _listen(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            execute(module)
            callback = self.callbacks.pop(module.__name__, None)
            if callback is not None:
                callback(module)

        loader.exec_module = exec_module
