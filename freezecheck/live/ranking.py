"""Do the scores of some samples tell their labels? Of scores on the CPU, a step's apart."""

from __future__ import annotations

import math
from typing import Any

from freezecheck.live import values
from freezecheck.trace import SHARE, Pool

_FEW = 16  # samples; in fewer one class may be frequent by chance


def pool(
    step: int, batches: list[tuple[Any, Any]], ignored: int | None, ranked: bool
) -> Pool | None:
    """The `Pool` of batches of scores [samples, classes] and labels [samples], each of one step.

    A single column is the score of class 1 against class 0. Labels that are no class, those `ignored`
    and scores that are not finite are left out; None if nothing is left. Without `ranked`
    the rank test is made only where nearly all predictions are one class.
    """
    torch = values.torch()
    kept = [_clean(*batch, ignored) for batch in batches]
    kept = [(scores, labels) for scores, labels in kept if len(labels)]
    if not kept:
        return None
    classes = kept[0][0].shape[1]
    counts = [
        torch.bincount(predicted, minlength=classes)
        for predicted in _together([scores.argmax(1) for scores, _ in kept])
    ]
    samples = sum(int(count.sum()) for count in counts)
    share = sum(int(count.max()) for count in counts) / samples
    spreads = [_spread(scores) for scores, _ in kept if len(scores) > 1]
    return Pool(
        step,
        samples,
        classes,
        int(sum(counts).argmax()),
        share,
        z=_z(kept) if ranked or share >= SHARE else None,
        spread=max(spreads, default=None),
        scale=max(float(scores.abs().max()) for scores, _ in kept),
    )


def width(scores: Any) -> float:
    """The spread of the scores of one step."""
    return _spread(_centered(scores)) if len(scores) > 1 else 0.0


def _spread(scores: Any) -> float:
    """The largest difference between two samples in the score of a class."""
    return float((scores.amax(0) - scores.amin(0)).max())


def _centered(scores: Any) -> Any:
    """In double precision, beside the mean of a sample's scores, which has no say in its prediction."""
    torch = values.torch()
    scores = scores.double()
    if scores.shape[1] == 1:
        scores = torch.cat((torch.zeros_like(scores), scores), 1)
    return scores - scores.mean(1, keepdim=True)


def _together(batches: list[Any]) -> list[Any]:
    """Batches put together so that each has samples enough for a share to mean something."""
    made: list[Any] = []
    for batch in batches:
        if made and len(made[-1]) < _FEW:
            made[-1] = values.torch().cat((made[-1], batch))
        else:
            made.append(batch)
    return made


def _clean(scores: Any, labels: Any, ignored: int | None) -> tuple[Any, Any]:
    scores, labels = _centered(scores), labels.long()
    kept = scores.isfinite().all(1) & (labels >= 0) & (labels < scores.shape[1])
    if ignored is not None:
        kept &= labels != ignored
    return scores[kept], labels[kept]


def _z(batches: list[tuple[Any, Any]]) -> float | None:
    """Wins of the true class's scores over the rest, summed over batches and classes (Mann-Whitney),
    in standard deviations from what chance would give."""
    excess = variance = 0.0
    for scores, labels in batches:
        classes = labels.unique()
        if scores.shape[1] == 2:  # one score says it all
            classes = classes[classes == 1]
        ours = labels[:, None] == classes  # [samples, classes]
        column = scores[:, classes]
        difference = column[:, None] - column[None]  # of sample i to sample j
        wins = (difference > 0).double() + 0.5 * (difference == 0).double()
        pairs = ours[:, None] & ~ours[None]
        positive = ours.sum(0).double()
        negative = len(labels) - positive
        excess += float((wins * pairs).sum() - (positive * negative).sum() / 2)
        variance += float((positive * negative * (len(labels) + 1)).sum()) / 12
    return excess / math.sqrt(variance) if variance else None


def joined(parts: tuple[Any, ...]) -> Any:
    """Tensors of the same columns as one."""
    return parts[0] if len(parts) == 1 else values.torch().cat(parts)
