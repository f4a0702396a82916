"""Learning-rate schedulers, and the largest rate that they will reach."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, SimpleNamespace
from typing import Any

from freezecheck.live import values
from freezecheck.snapshot import Scheduler

_HORIZON = 200  # steps of a schedule that are run on a stand-in to see a warm-up
_LONGEST = 5_000  # as many where the rates still rise after that
_FAR = 1_000_000  # steps up to which a LambdaLR's function is asked, ever more rarely
_LOW = 0.1  # of the peak
# Schedules that never rise above the rate they stand at.
_DECAYS = ("StepLR", "MultiStepLR", "ExponentialLR", "PolynomialLR", "CosineAnnealingLR")
_OPTIONS = (
    "eta_min",
    "T_max",
    "T_0",
    "T_i",
    "total_steps",
    "step_size",
    "gamma",
    "total_iters",
    "start_factor",
    "end_factor",
    "factor",
    "patience",
    "max_lrs",
)


def capture(label: str, scheduler: Any, positions: Mapping[int, int]) -> Scheduler:
    """The record of a scheduler.

    `positions` gives an optimizer's index by its id and by those of its groups.
    """
    scheduler = unwrap(scheduler)
    optimizer = driven(scheduler)
    if optimizer is None:
        return _record(label, scheduler, None)
    keys = (id(optimizer), *(id(group) for group in optimizer.param_groups))
    record = _record(label, scheduler, next((positions[k] for k in keys if k in positions), None))
    record.peaks = tuple(_peaks(scheduler, record, optimizer))
    record.falls = _falls(scheduler)
    return record


def _record(label: str, scheduler: Any, optimizer: int | None) -> Scheduler:
    record = Scheduler(
        label,
        type(scheduler).__name__,
        optimizer,
        int(getattr(scheduler, "last_epoch", 0) or 0),
        tuple(values.number(lr) for lr in getattr(scheduler, "base_lrs", ()) or ()),
    )
    for key in _OPTIONS:
        value = getattr(scheduler, key, None)
        if isinstance(value, (int, float)):
            record.options[key] = value
        elif isinstance(value, (list, tuple)):
            record.options[key] = tuple(values.number(v) for v in value)
    record.parts = [
        _record(f"{label}._schedulers[{index}]", part, optimizer)
        for index, part in enumerate(getattr(scheduler, "_schedulers", ()) or ())
    ]
    if record.parts and not record.base_lrs:
        record.base_lrs = record.parts[0].base_lrs
    return record


def unwrap(scheduler: Any) -> Any:
    """The torch scheduler inside accelerate's wrapper."""
    inner = getattr(scheduler, "scheduler", None)
    return unwrap(inner) if hasattr(inner, "last_epoch") else scheduler


def driven(scheduler: Any) -> Any:
    """The optimizer whose rates a scheduler writes, unwrapped."""
    from freezecheck.live import optimizers

    optimizer = getattr(scheduler, "optimizer", None)
    if optimizer is None:
        parts = getattr(scheduler, "_schedulers", None)
        optimizer = getattr(parts[0], "optimizer", None) if parts else None
    return None if optimizer is None else optimizers.unwrap(optimizer)


def _peaks(scheduler: Any, record: Scheduler, optimizer: Any) -> list[float]:
    """The largest rate of each group to come; empty for a schedule that is not torch's own."""
    if type(scheduler).__module__ != "torch.optim.lr_scheduler":
        return []
    groups = optimizer.param_groups
    now = [values.number(group.get("lr", 0.0)) for group in groups]
    if record.type == "ReduceLROnPlateau" or _decays(record, now):
        return now
    if record.type == "OneCycleLR":
        if record.last_epoch > scheduler._schedule_phases[0]["end_step"]:
            return now  # past its peak
        tops = [values.number(group.get("max_lr", math.nan)) for group in groups]
        return _larger(now, tops)
    if record.type == "CyclicLR":
        tops = list(record.options["max_lrs"])
        return _larger(now, tops) if len(tops) == len(now) else []
    if record.type == "LambdaLR":
        return _ask_ahead(scheduler, record, now)
    return _run_ahead(scheduler, groups, now)


def _decays(record: Scheduler, now: list[float]) -> bool:
    """From here on the rates can only fall."""
    if record.type not in _DECAYS or len(record.base_lrs) != len(now):
        return False
    floor = max(record.options.get("eta_min", 0), 0)
    return record.options.get("gamma", 1) <= 1 and all(
        lr > floor and lr >= base for lr, base in zip(now, record.base_lrs)
    )


def _larger(one: list[float], other: list[float]) -> list[float]:
    return [max(pair) for pair in zip(one, other)]


def _ask_ahead(scheduler: Any, record: Scheduler, now: list[float]) -> list[float]:
    """A LambdaLR's rates are its functions' values, which can be asked for far ahead."""
    if len(scheduler.lr_lambdas) != len(now):
        return []
    functions = [_own(function) for function in scheduler.lr_lambdas]
    tops = now
    try:
        for epoch in _ahead(record.last_epoch):
            factors = [values.number(function(epoch)) for function in functions]
            tops = _larger(tops, [f * base for f, base in zip(factors, record.base_lrs)])
    except Exception:
        return tops if tops is not now else []  # a list of factors that came to its end
    return tops


def _falls(scheduler: Any) -> bool:
    """Rates go down to a tenth of their peak or less; not known of a schedule that is not torch's own."""
    parts = getattr(scheduler, "_schedulers", None)
    if parts:
        return any(map(_falls, parts))
    if type(scheduler).__module__ != "torch.optim.lr_scheduler":
        return False
    kind = type(scheduler).__name__
    if kind == "CosineAnnealingLR":
        return all(scheduler.eta_min <= _LOW * values.number(lr) for lr in scheduler.base_lrs)
    if kind == "LambdaLR":
        return all(_comes_down(_own(function)) for function in scheduler.lr_lambdas)
    return kind in ("OneCycleLR", "PolynomialLR")


def _comes_down(function: Callable[[int], float]) -> bool:
    highest = 0.0
    try:
        for epoch in _ahead(-1):
            factor = values.number(function(epoch))
            highest = max(highest, factor)
            if factor <= _LOW * highest > 0:
                return True
    except Exception:  # a list of factors that came to its end
        return False
    return False


def _ahead(epoch: int) -> Iterator[int]:
    """Steps to come: each of the next ones, then 2% further each time."""
    yield from range(epoch + 1, epoch + 1 + _HORIZON)
    distance = float(_HORIZON)
    while distance < _FAR:
        distance *= 1.02
        yield epoch + round(distance)


def _own(function: Callable[[int], float]) -> Callable[[int], float]:
    """A callable object is copied, as it may count its calls."""
    return function if isinstance(function, FunctionType) else copy.copy(function)


def _run_ahead(scheduler: Any, groups: list[dict[str, Any]], now: list[float]) -> list[float]:
    """The largest rates in the next steps, found on copies; empty where that fails."""
    stand_in = SimpleNamespace(
        param_groups=[{k: _plain(v) for k, v in g.items() if k != "params"} for g in groups],
        _opt_called=True,
        step=SimpleNamespace(_wrapped_by_lr_sched=True),
    )
    tops, end = now, _end(scheduler)
    try:
        twin = _twin(scheduler, stand_in)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for step in range(_LONGEST):
                if step == end:
                    return tops
                twin.step()
                rates = [values.number(group["lr"]) for group in stand_in.param_groups]
                larger = _larger(tops, rates)
                if step >= _HORIZON and larger == tops:
                    return tops
                tops = larger
    except Exception:
        return tops if tops is not now else []  # a schedule that ended, or that cannot start
    return []  # rises and rises: the peak is not in sight


def _end(scheduler: Any) -> int | None:
    """Steps until a cosine at the end of the schedule is through; stepped on, it would
    climb back, which nobody means by it. None where there is none, or that has happened."""
    parts = getattr(scheduler, "_schedulers", None)
    if parts and hasattr(scheduler, "_milestones"):
        left = [*scheduler._milestones[-1:], 0]
        end = left[0] + getattr(parts[-1], "T_max", 0) - scheduler.last_epoch
        return end if end > 0 and hasattr(parts[-1], "T_max") else None
    if parts:
        return min((end for part in parts if (end := _end(part))), default=None)
    if not hasattr(scheduler, "T_max"):
        return None
    return max(scheduler.T_max - scheduler.last_epoch, 0) or None


def _twin(scheduler: Any, stand_in: Any) -> Any:
    twin = copy.copy(scheduler)
    twin.__dict__ = {key: _copied(value) for key, value in scheduler.__dict__.items()}
    twin.verbose = False  # torch < 2.7 prints each new rate on request
    if "optimizer" in twin.__dict__:
        twin.optimizer = stand_in
    if "_schedulers" in twin.__dict__:
        twin._schedulers = [_twin(part, stand_in) for part in scheduler._schedulers]
    if "lr_lambdas" in twin.__dict__:
        twin.lr_lambdas = [f if f is None else _own(f) for f in twin.lr_lambdas]
    return twin


def _copied(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, (list, dict, set)) else value


def _plain(value: Any) -> Any:
    """Schedulers write a rate that is a tensor in place, so the twin gets a number."""
    return values.number(value) if hasattr(value, "fill_") else copy.copy(value)
