"""What a model is trained to say: classes, labels, numbers, pixels or words, told by the shapes of
its outputs and targets; and what outputs that say nothing would cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from freezecheck.live import values
from freezecheck.warmup import CLASSES, LABELS, NUMBERS, PIXELS, TOKENS, UNKNOWN


def task(logits: Any, targets: Any) -> str:
    """The kind of task of outputs [samples, ...] and targets."""
    tensor = values.torch().Tensor
    if not isinstance(logits, tensor) or not isinstance(targets, tensor):
        return UNKNOWN
    if not logits.is_floating_point() or logits.shape[:1] != targets.shape[:1] or not logits.dim():
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


def entropies(kind: str) -> Iterator[Callable[[Any, Any], Any]]:
    """What models that return their own loss use: cross-entropy, of words also of the next one."""
    entropy: Callable[[Any, Any], Any] = values.torch().nn.functional.cross_entropy
    if kind in (CLASSES, PIXELS):
        yield entropy
    elif kind == TOKENS:
        yield lambda out, target: entropy(out.flatten(0, 1), target.flatten())
        yield lambda out, target: entropy(out[:, :-1].flatten(0, 1), target[:, 1:].flatten())


def level(
    kind: str, loss: Callable[[Any, Any], Any] | None, pairs: Sequence[tuple[Any, Any]]
) -> float | None:
    """The mean loss of outputs that do not know the inputs, only how frequent each class or label
    is among all others, or the targets' mean; None where there is no such thing.

    `pairs` are (outputs, targets) of batches. It is the user's own loss that is asked.
    """
    if kind == UNKNOWN or loss is None or not pairs:
        return None
    try:
        with values.torch().no_grad():
            costs = [
                float(_number(loss(blind.to(out.dtype), targets)))
                for (out, targets), blind in zip(pairs, _blind(kind, pairs))
            ]
    except Exception:  # it wants outputs of another kind, such as probabilities
        return None
    known = [cost for cost in costs if math.isfinite(cost)]
    return sum(known) / len(known) if known else None


def _blind(kind: str, pairs: Sequence[tuple[Any, Any]]) -> Iterable[Any]:
    torch = values.torch()
    if kind == CLASSES or (kind in (PIXELS, TOKENS) and not pairs[0][1].is_floating_point()):
        return _frequencies(kind, pairs)
    targets = torch.cat([t for _, t in pairs]).double()
    if kind == PIXELS:
        mean = targets.mean((0, *range(2, targets.dim())), keepdim=True)[0]
    else:
        mean = targets.mean(0)
    guess = mean if kind == NUMBERS else torch.logit(mean, eps=1e-4)
    return (guess.expand_as(out) for out, _ in pairs)


def _frequencies(kind: str, pairs: Sequence[tuple[Any, Any]]) -> Iterator[Any]:
    """Logarithms of the classes' shares among all labels but the sample's own, each counted once more
    (Laplace's rule): of a thousand classes few samples know little, and must not seem to know more."""
    torch = values.torch()
    axis = 2 if kind == TOKENS else 1
    classes = pairs[0][0].shape[axis]
    known = [labels(target) if kind == CLASSES else target for _, target in pairs]
    every = torch.cat([each.flatten() for each in known])
    every = every[(every >= 0) & (every < classes)]
    counts = torch.bincount(every, minlength=classes).double()
    whole = max(len(every) - 1, 0) + classes
    shape = [1] * pairs[0][0].dim()
    shape[axis] = classes
    for (out, _), own in zip(pairs, known):
        blind = ((counts + 1) / whole).log().float().view(shape).expand_as(out).clone()
        inside = own.clamp(0, classes - 1)
        left = (counts[inside].clamp_min(1) / whole).log().float()
        yield blind.scatter_(axis, inside.unsqueeze(axis), left.unsqueeze(axis))


def _number(loss: Any) -> Any:
    return loss if loss.dim() == 0 else loss.mean()
