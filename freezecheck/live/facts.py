"""What frameworks keep in objects of their own, such as Lightning's fine-tuning callback.

A framework is asked only where the script has imported it already.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any

_LIGHTNING = (
    "lightning.pytorch.callbacks.finetuning",
    "pytorch_lightning.callbacks.finetuning",
)


def gather() -> Iterator[tuple[str, dict[str, Any]]]:
    """(fact, details) for each thing seen; see `docs/timeline.md`."""
    for name in _LIGHTNING:
        home = sys.modules.get(name)
        if home is not None:
            yield from _finetuning(home.BaseFinetuning)


def _finetuning(base: type[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lightning's callbacks that freeze a backbone and unfreeze it later."""
    for callback in [o for o in gc.get_objects() if issubclass(type(o), base)]:
        yield (
            "lightning-finetuning",
            {
                "callback": type(callback).__name__,
                "train_bn": getattr(callback, "train_bn", None),
                "epoch": getattr(callback, "unfreeze_backbone_at_epoch", None),
            },
        )
