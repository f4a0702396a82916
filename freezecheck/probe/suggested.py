"""Which rates to give the groups, by their critical rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SHARE = 1 / 3  # of the rate at which a group diverges


def suggested(
    rates: Sequence[float], ends: Mapping[int, float], places: Sequence[float]
) -> list[float]:
    """A rate for each group: the run's own, or a third of that at which the group diverges if it
    is less, to one digit.

    Rates are never raised: that a rate does not diverge is no reason to give it to pretrained layers.
    Of two groups the one nearer the input does not get the higher rate if it had none in the run.

    Args:
        rates: the run's.
        ends: the rates at which groups diverge, where these are known.
        places: where each group lies, in the order from the input to the head.
    """
    found = [
        min(rate, rounded(SHARE * ends[group])) if group in ends else rate
        for group, rate in enumerate(rates)
    ]
    return [
        min(
            [found[one]]
            + [
                found[other]
                for other in range(len(rates))
                if places[one] < places[other] and rates[one] <= rates[other]
            ]
        )
        for one in range(len(rates))
    ]


def rounded(rate: float) -> float:
    """To one digit."""
    return float(f"{rate:.0e}")
