"""Where a warm-up's losses say that the rates lie: losses in, zone out.

Each step's loss is compared with that of the initial weights on the same batch, which cancels what
the batches differ by. A spike alone decides nothing: a loss that leaps and settles lower is healthy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from freezecheck.trace import Pool
from freezecheck.warmup import INCONCLUSIVE, LAST, NEAR, SAFE, UNSAFE

HEALTHY, ALARM, UNCLEAR = "healthy", "alarm", "unclear"

HIGH = 1.5  # times the loss that knows nothing: a run that stays there has exploded
_LOST = 16.0  # likewise: from here it does not come down with the rates
_LEAP = 4.0  # times the best loss so far
_MEMORY = 0.5  # of the exponential mean in which leaps are looked for
_ONE_SIDED = 1.833  # 95% point of Student's t with 9 degrees of freedom
_FALLS, _RISES, _BET = 0.2, 1.8, 100.0  # factors of the bounded alarm, and where it rings


def zone(
    losses: Sequence[float], initial: Sequence[float], level: float | None, steps: int, last: bool
) -> str | None:
    """The zone that the losses show after `steps` steps or more; None: more steps are needed.

    `last`: there will be no more.
    """
    if not finite(losses):
        return UNSAFE
    now = paired(losses, initial, level)
    early = paired(losses[:steps], initial[:steps], level) if len(losses) > steps else now
    alarmed = early == ALARM or tripped(losses, initial) is not None or bounded(losses, initial)
    if now == HEALTHY and not alarmed:
        return SAFE
    if not last:
        return None
    if now != HEALTHY and excess(losses, initial, level) > HIGH:
        return UNSAFE
    return NEAR if alarmed or now == ALARM else INCONCLUSIVE


def beside_scores(
    zone: str,
    losses: Sequence[float],
    initial: Sequence[float],
    level: float | None,
    pools: Sequence[Pool | None],
    *,
    falls: bool,
) -> str:
    """The zone, when the scores of the last weights have been looked at, too; `falls`: the schedule
    brings the rates down. A high loss whose scores still tell the labels comes down with them. A
    low one whose predictions are all one class, and by chance, is no success."""
    known = [pool for pool in pools if pool is not None]
    if not known or len(known) < len(pools):
        return zone
    if zone == UNSAFE and falls and finite(losses) and all(pool.informed for pool in known):
        return NEAR if excess(losses, initial, level) < _LOST else zone
    if zone == SAFE and all(pool.uninformed for pool in known):
        return INCONCLUSIVE
    return zone


def excess(losses: Sequence[float], initial: Sequence[float], level: float | None) -> float:
    """The mean of the last twenty losses, beside that of the initial weights or `level`, whichever
    is higher; infinite where these are below 0 and the losses are above, 0 where there are none."""
    if not losses:
        return 0.0
    mean, bound = fmean(losses[-2 * LAST :]), fmean(initial)
    bound = bound if level is None else max(bound, level)
    if bound > 0:
        return mean / bound
    return math.inf if mean > bound else 0.0


def finite(losses: Sequence[float]) -> bool:
    """None is NaN or infinite."""
    return all(map(math.isfinite, losses))


def paired(losses: Sequence[float], initial: Sequence[float], level: float | None) -> str:
    """The last ten steps: `HEALTHY` below both the initial weights' loss and `level`, `ALARM` above
    both and not falling, each one-sided at 5%."""
    if len(losses) < LAST:
        return UNCLEAR
    now, first = losses[-LAST:], initial[-LAST:]
    if not finite(now):
        return ALARM
    changes = [loss - before for loss, before in zip(now, first)]
    below, above = _sides(changes)
    if level is not None:
        under, over = _sides([loss - level for loss in now])
        below, above = below and under, above and over
    if below:
        return HEALTHY
    half = LAST // 2
    falling = fmean(changes[half:]) < fmean(changes[:half])
    return ALARM if above and not falling else UNCLEAR


def _sides(numbers: Sequence[float]) -> tuple[bool, bool]:
    """Whether the mean is surely below 0, and surely above."""
    mean, error = fmean(numbers), stdev(numbers) / math.sqrt(len(numbers))
    return mean + _ONE_SIDED * error < 0, mean - _ONE_SIDED * error > 0


def tripped(losses: Sequence[float], initial: Sequence[float]) -> int | None:
    """The first step (from 1) at which the loss leaps: far above its best and the initial one."""
    mean = best = first = math.inf
    for step, (loss, before) in enumerate(zip(losses, initial), 1):
        if not math.isfinite(loss):
            return step
        mean = loss if step == 1 else _MEMORY * mean + (1 - _MEMORY) * loss
        first = before if step == 1 else first + (before - first) / step
        if mean > _LEAP * best > 0 and mean > HIGH * first:
            return step
        best = min(best, mean)
    return None


def bounded(losses: Sequence[float], initial: Sequence[float]) -> bool:
    """A bet at each step that the loss is above the initial weights'. While it is no worse than
    theirs, the stake reaches a hundredfold with a probability of at most 1%, whenever one looks
    (Ville's inequality)."""
    stake = 1.0
    for loss, before in zip(losses, initial):
        stake *= _RISES if loss > before else _FALLS if loss < before else 1.0
        if stake >= _BET:
            return True
    return False
