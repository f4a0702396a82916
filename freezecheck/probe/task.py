"""What a model is trained to say: classes, labels, numbers, pixels or words, told by the shapes of
its outputs and targets; and what outputs that say nothing would cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from freezecheck.live import values
from freezecheck.warmup import CLASSES, LABELS, NUMBERS, PIXELS, TOKENS, UNKNOWN


def task(logits: Any, targets: Any) -> str:
    """The kind of task of outputs [samples, ...] and targets."""
    tensor = values.torch().Tensor
    if not isinstance(logits, tensor) or not isinstance(targets, tensor):
        return UNKNOWN
    if not logits.is_floating_point() or not logits.dim() or len(logits) != len(targets):
        return UNKNOWN
    if targets.is_floating_point() or targets.dtype == values.torch().bool:
        return _by_values(logits, targets)
    if logits.dim() == 2 and targets.dim() == 1:
        return CLASSES if logits.shape[1] > 1 else UNKNOWN
    if logits.dim() == 3 and targets.shape == logits.shape[:2]:
        return TOKENS
    if logits.dim() == targets.dim() + 1 and logits.shape[2:] == targets.shape[1:]:
        return PIXELS
    return LABELS if logits.shape == targets.shape else UNKNOWN


def _by_values(logits: Any, targets: Any) -> str:
    if logits.shape != targets.shape:
        return UNKNOWN
    numbers = targets.detach().float()
    if bool(((numbers == 0) | (numbers == 1)).all()):
        hot = numbers.dim() == 2 and numbers.shape[1] > 1 and bool((numbers.sum(1) == 1).all())
        return CLASSES if hot else LABELS if numbers.dim() < 3 else PIXELS
    wide = numbers.dim() == 2 and numbers.shape[1] > 1
    if wide and bool(((numbers >= 0) & ((numbers.sum(1, True) - 1).abs() < 1e-3)).all()):
        return CLASSES  # probabilities of the classes
    return NUMBERS


def labels(targets: Any) -> Any:
    """Class of each sample of a classification [samples]."""
    return targets.argmax(1) if targets.dim() == 2 else targets


def level(
    kind: str, loss: Callable[[Any, Any], Any] | None, pairs: Sequence[tuple[Any, Any]]
) -> float | None:
    """The mean loss of outputs that are the same for every input and know how frequent each class
    or label is, or the targets' mean; None where there is no such thing.

    `pairs` are (outputs, targets) of batches. It is the user's own loss that is asked.
    """
    if kind not in (CLASSES, LABELS, NUMBERS) or loss is None:
        return None
    known = _constant(kind, pairs)
    try:
        costs = [float(_number(loss(known.expand_as(out).to(out.dtype), t))) for out, t in pairs]
    except Exception:  # it wants outputs of another kind, such as probabilities
        return None
    mean = sum(costs) / len(costs)
    return mean if math.isfinite(mean) else None


def _constant(kind: str, pairs: Sequence[tuple[Any, Any]]) -> Any:
    torch = values.torch()
    targets = torch.cat([t for _, t in pairs])
    if kind == CLASSES:
        classes = pairs[0][0].shape[1]
        kept = labels(targets)
        counts = torch.bincount(kept[(kept >= 0) & (kept < classes)], minlength=classes).double()
        return ((counts + 1e-3) / (counts + 1e-3).sum()).log()
    mean = targets.double().mean(0)
    return mean if kind == NUMBERS else torch.logit(mean, eps=1e-4)


def _number(loss: Any) -> Any:
    return loss if loss.dim() == 0 else loss.mean()
