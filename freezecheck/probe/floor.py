"""What a linear head on frozen features reaches: a fine-tune has to beat it."""

from __future__ import annotations

from typing import Any

from freezecheck.live import values
from freezecheck.warmup import Floor

_LEAST = 64  # samples to fit on
_RIDGE = 1e-2  # penalty, relative to the mean square of the features, for each sample


def floor(before: Any, after: Any, scores: Any, labels: Any) -> Floor | None:
    """`before` and `after` are features [samples, features], `scores` the model's own afterwards
    [samples, classes]. Each head is fitted on two thirds of the samples and judged on the rest;
    None for fewer samples than that needs."""
    if before is None or after is None:
        return None
    kept = (labels >= 0) & (labels < scores.shape[1])  # the others are to be ignored
    before, after, scores, labels = (each[kept] for each in (before, after, scores, labels))
    if 2 * len(labels) < 3 * _LEAST:
        return None
    fit = 2 * len(labels) // 3
    rest = labels[fit:]

    def accuracy(guesses: Any) -> float:
        return float((guesses == rest).double().mean())

    return Floor(
        len(rest),
        accuracy(_guesses(before, labels[:fit], fit)),
        accuracy(_guesses(after, labels[:fit], fit)),
        accuracy(scores[fit:].argmax(1)),
    )


def _guesses(features: Any, labels: Any, fit: int) -> Any:
    """Classes of the samples from `fit` on, by a ridge regression on those before."""
    torch = values.torch()
    classes, index = labels.unique(return_inverse=True)
    x = features.double().nan_to_num(0.0, 0.0, 0.0)
    x = x - x[:fit].mean(0)
    x = x / x[:fit].std().clamp_min(1e-12)
    y = torch.nn.functional.one_hot(index, len(classes)).double()
    prior = y.mean(0)
    # In the space of the samples, of which there are few, and features many.
    gram = x[:fit] @ x[:fit].T
    size = float(gram.diagonal().mean())
    gram.diagonal().add_(_RIDGE * max(size, 1e-12))
    weights = x[:fit].T @ torch.linalg.solve(gram, y - prior)
    return classes[(x[fit:] @ weights + prior).argmax(1)]
