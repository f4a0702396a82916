"""The verdict on made-up losses."""

from __future__ import annotations

import math
import random

import pytest

from freezecheck.probe import judge, verdict
from freezecheck.trace import Pool
from freezecheck.warmup import INCONCLUSIVE, NEAR, SAFE, UNSAFE

LEVEL = 1.6


def noisy(means: list[float], seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [mean + rng.gauss(0, 0.03) for mean in means]


INITIAL = noisy([1.6] * 60, seed=1)
FALLING = [1.6 * 0.97**step for step in range(60)]
SPIKE = FALLING[:12] + [1.6 * 5 * 0.7**step for step in range(18)]
# name -> (losses, zone after 30 steps, zone after the last of 60)
COURSES = {
    "falls": (noisy(FALLING), SAFE, SAFE),
    "rises": (noisy([1.6 * 1.1**step for step in range(60)]), None, UNSAFE),
    "stays": (noisy([1.6] * 60, seed=2), None, INCONCLUSIVE),
    "leaps and settles": (noisy(SPIKE + [0.4] * 30), None, NEAR),
    "leaps and is low, but noisy": (
        noisy(SPIKE + [0.4] * 20) + [0.5, 0.1, 4.0, 0.2, 0.1] * 2,
        None,
        NEAR,
    ),
    "leaps and stays a little up": (noisy(SPIKE[:20] + [2.0] * 40), None, NEAR),
    "rises a little": (noisy([1.9] * 60), None, NEAR),
    "leaps and stays": (noisy(SPIKE[:20] + [4.0] * 40), None, UNSAFE),
    "is lost": (noisy(FALLING[:20]) + [math.nan] * 40, UNSAFE, UNSAFE),
}


@pytest.mark.parametrize("name", COURSES)
def test_zones(name: str):
    losses, early, late = COURSES[name]
    assert verdict.zone(losses[:30], INITIAL[:30], LEVEL, 30, False) == early
    assert verdict.zone(losses, INITIAL, LEVEL, 30, True) == late


def test_a_loss_below_the_initial_one_but_above_ignorance_is_not_healthy():
    """A head that began far off has learnt nothing yet when it is as bad as no head."""
    losses, initial = noisy([2.5] * 30), noisy([6.0] * 30)
    assert verdict.paired(losses, initial, LEVEL) == verdict.UNCLEAR
    assert verdict.paired(losses, initial, None) == verdict.HEALTHY


def test_what_knows_nothing_is_the_worse_of_the_initial_weights_and_of_frequencies():
    """Of nine in ten labels that are one class a new head knows less than their frequencies."""
    losses = noisy(SPIKE[:20] + [0.9] * 40)
    assert verdict.zone(losses, INITIAL, 0.4, 30, True) == NEAR
    assert verdict.zone(losses, noisy([0.4] * 60), 0.4, 30, True) == UNSAFE


def test_a_small_loss_that_grows_fourfold_below_the_initial_one_is_no_leap():
    assert verdict.tripped([1.6, 0.1, 0.02, 0.02, 0.2, 0.2], [1.6] * 6) is None
    assert verdict.tripped([1.6, 0.4, 0.3, 0.3, 6.0, 9.0], [1.6] * 6) == 5


def test_the_bounded_alarm_is_wrong_at_most_once_in_a_hundred():
    """Losses no worse than the initial ones, at whatever step one looks."""
    rng = random.Random(0)
    runs = 3000
    rung = sum(
        verdict.bounded([rng.gauss(0, 1) for _ in range(60)], [0.0] * 60) for _ in range(runs)
    )
    assert 0 < rung <= 0.01 * runs
    assert verdict.bounded([1.0] * 8, [0.0] * 8)


def pool(share: float, z: float, spread: float = 1.0) -> Pool:
    return Pool(60, 256, 5, 0, share, z, spread, 1.0)


NEW, TOLD, ALL_ONE, DEAD = pool(0.95, -1.0), pool(0.4, 12.0), pool(0.95, 0.3), pool(1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("before", "train", "later", "alarmed", "collapsed"),
    [
        (TOLD, ALL_ONE, ALL_ONE, False, True),
        (NEW, ALL_ONE, ALL_ONE, False, False),  # a head that has learnt no more yet
        (NEW, ALL_ONE, ALL_ONE, True, True),
        (NEW, DEAD, DEAD, False, True),
        (DEAD, DEAD, DEAD, False, False),  # a head of zeros
        (TOLD, pool(0.95, 8.0), pool(0.95, 8.0), True, False),  # nine in ten labels are one class
        (TOLD, pool(0.95, 8.0), DEAD, False, True),
        (TOLD, TOLD, DEAD, True, False),  # statistics that lag behind
        (TOLD, None, None, True, False),
    ],
)
def test_collapse_is_one_class_for_all_and_scores_that_tell_no_labels(
    before: Pool, train: Pool | None, later: Pool | None, alarmed: bool, collapsed: bool
):
    assert judge._collapsed([before, train, later], alarmed) == collapsed


HIGH, LOW = [4.0] * 60, [1.0] * 60
RICH = pool(0.95, 8.0)


@pytest.mark.parametrize(
    ("zone", "losses", "pools", "falls", "beside"),
    [
        (UNSAFE, HIGH, [TOLD, TOLD], True, NEAR),
        (UNSAFE, HIGH, [TOLD, TOLD], False, UNSAFE),  # the rates stay
        (UNSAFE, HIGH, [TOLD, ALL_ONE], True, UNSAFE),
        (UNSAFE, [100.0] * 60, [TOLD, TOLD], True, UNSAFE),  # too high to come down
        (UNSAFE, [math.nan] * 60, [TOLD, TOLD], True, UNSAFE),
        (SAFE, LOW, [ALL_ONE, ALL_ONE], False, INCONCLUSIVE),
        (SAFE, LOW, [RICH, RICH], False, SAFE),  # nine in ten labels are one class
        (SAFE, LOW, [ALL_ONE, TOLD], False, SAFE),
        (SAFE, LOW, [None, None], False, SAFE),
    ],
)
def test_scores_are_looked_at_beside_the_losses(
    zone: str, losses: list[float], pools: list[Pool | None], falls: bool, beside: str
):
    assert verdict.beside_scores(zone, losses, INITIAL, LEVEL, pools, falls=falls) == beside
