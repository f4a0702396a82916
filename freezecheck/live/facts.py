"""What frameworks keep in objects of their own, such as Lightning's fine-tuning callback."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from freezecheck.live.tree import unwrap

_LIGHTNING = (
    "lightning.pytorch.callbacks.finetuning",
    "pytorch_lightning.callbacks.finetuning",
)


def gather(models: Iterable[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(fact, details) for each thing that concerns these models; see `docs/timeline.md`."""
    kinds = tuple(home.BaseFinetuning for n in _LIGHTNING if (home := sys.modules.get(n)))
    for model in models if kinds else ():
        trainer = unwrap(model)[0].__dict__.get("_trainer")
        for callback in getattr(trainer, "callbacks", ()):
            if isinstance(callback, kinds):
                yield "lightning-finetuning", _finetuning(callback)


def _finetuning(callback: Any) -> dict[str, Any]:
    """A callback that freezes a backbone and unfreezes it later."""
    return {
        "callback": type(callback).__name__,
        "train_bn": getattr(callback, "train_bn", None),
        "epoch": getattr(callback, "unfreeze_backbone_at_epoch", None),
    }
