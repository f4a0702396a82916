"""A short warm-up at the rates that a run will reach, after which everything is as it was.

The package is the function, too: `freezecheck.probe(model, optimizer, batches, loss)`; see
`freezecheck.probe.api.probe`. Python puts a package into its parent under its name, where the
function would be looked for.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Probe(ModuleType):
    """Called, it probes."""

    @property
    def __wrapped__(self) -> Any:
        """Where the signature is read."""
        from freezecheck.probe.api import probe

        return probe

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.__wrapped__(*args, **options)


sys.modules[__name__].__class__ = _Probe
