"""The largest rate that each parameter group will ever get."""

from __future__ import annotations

from typing import Any

from freezecheck import rates
from freezecheck.live.api import take_snapshot


def peaks(model: Any, optimizer: Any, scheduler: Any) -> tuple[list[float], bool, list[str]]:
    """The rates by group, whether they come down again, and what is to be said of them; a schedule is
    run on stand-ins.

    Raises TypeError for things that are no model, optimizer or scheduler.
    """
    now = take_snapshot(model, optimizer, scheduler)
    found = rates.tops(now, 0)
    remarks = [
        f"the peak of {each.type} is not known: the rates of now were taken"
        for each in now.schedulers
        if each.optimizer == 0 and len(each.peaks) != len(found)
    ]
    return found, rates.falls(now, 0), remarks


def rated(optimizer: Any, rates: list[float]) -> None:
    """Set each group's rate."""
    for group, rate in zip(optimizer.param_groups, rates):
        if hasattr(group["lr"], "fill_"):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
