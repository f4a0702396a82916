"""Numbers as a row of small bars: blocks where they can be shown, else plain characters."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN = "_.:-=+*#"
LOST = "x"  # where a number is not finite
_WIDE = 20.0  # the ratio of the largest to the smallest from which on a log scale is taken
_CLASSES = 40  # bars of a row of shares


def sparkline(numbers: Sequence[float], width: int, *, blocks: bool) -> str:
    """The course of `numbers` in `width` characters or fewer, from the smallest to the largest."""
    means = [_mean(part) for part in _parts(numbers, max(width, 1))]
    finite = [n for n in means if math.isfinite(n)]
    if not finite:
        return LOST * len(means)
    scale = math.log if logarithmic(finite) else float
    low, high = scale(min(finite)), scale(max(finite))
    return "".join(
        _bar((scale(n) - low) / (high - low) if high > low else 0.0, blocks)
        if math.isfinite(n)
        else LOST
        for n in means
    )


def bars(shares: Sequence[float], *, blocks: bool) -> str:
    """A bar for each share of a whole; of many the largest."""
    shown = shares if len(shares) <= _CLASSES else sorted(shares, reverse=True)[:_CLASSES]
    return "".join(_bar(share, blocks) for share in shown)


def logarithmic(numbers: Sequence[float]) -> bool:
    """They are positive and of different magnitudes."""
    finite = [n for n in numbers if math.isfinite(n)]
    return bool(finite) and min(finite) > 0 and max(finite) > _WIDE * min(finite)


def _bar(share: float, blocks: bool) -> str:
    characters = _BLOCKS if blocks else _PLAIN
    return characters[min(int(share * len(characters)), len(characters) - 1)]


def _parts(numbers: Sequence[float], width: int) -> list[Sequence[float]]:
    """As many stretches, of about the same length."""
    count = min(width, len(numbers))
    return [
        numbers[len(numbers) * i // count : len(numbers) * (i + 1) // count] for i in range(count)
    ]


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if all(map(math.isfinite, numbers)) else math.nan
