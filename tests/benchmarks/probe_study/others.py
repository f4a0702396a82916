"""What other tools' rules say of a run's losses. Each is given losses step by step and says whether it
would ring; defaults as documented."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean

Rule = Callable[[Sequence[float]], bool]


def not_finite(losses: Sequence[float]) -> bool:
    """SageMaker Debugger's NaN and ExplodingTensor rules."""
    return not all(map(math.isfinite, losses))


def huge(losses: Sequence[float]) -> bool:
    """AutoTrainer: a loss that is not finite, or a thousand or more."""
    return any(not loss < 1e3 for loss in losses)


def not_decreasing(losses: Sequence[float], steps: int = 10, percent: float = 0.1) -> bool:
    """SageMaker Debugger's LossNotDecreasing: every ten steps, less than 0.1% below ten steps ago."""
    looked_at = losses[::steps]
    pairs = zip(looked_at, [*looked_at[1:], losses[-1]])
    return any(
        not now <= before * (1 - percent / 100) for before, now in pairs if now is not before
    )


def spike(losses: Sequence[float], window: int = 10, tolerance: float = 2.0) -> bool:
    """Lightning's SpikeDetection: above the last loss, and off the mean of ten by twice that mean."""
    for step in range(1, len(losses)):
        loss, mean = losses[step], fmean(losses[max(0, step - window) : step])
        if not math.isfinite(loss):
            return True
        if loss > losses[step - 1] and abs(loss - mean) >= abs(tolerance * mean):
            return True
    return not math.isfinite(losses[0])


def four_times_best(losses: Sequence[float], beta: float = 0.98) -> bool:
    """fastai's learning-rate finder stops at four times the best loss, both means that forget."""
    total, best = 0.0, math.inf
    for step, loss in enumerate(losses, 1):
        total = beta * total + (1 - beta) * loss
        mean = total / (1 - beta**step)
        best = min(best, mean)
        if not mean <= 4 * best:
            return True
    return False


RULES: dict[str, Rule] = {
    "not finite (SageMaker Debugger)": not_finite,
    "loss >= 1e3 (AutoTrainer)": huge,
    "LossNotDecreasing (SageMaker Debugger)": not_decreasing,
    "SpikeDetection (Lightning)": spike,
    "4 x best (fastai lr_find)": four_times_best,
}
