"""Learning rates as rules need them: of a group over its whole schedule, of a stage, of a head."""

from __future__ import annotations

from collections.abc import Iterable

from freezecheck.snapshot import Group, Optimizer, Param, Scheduler, Snapshot

# Optimizers that divide by the gradient's size, so that a rate is about the size of a step.
_ADAPTIVE = frozenset(("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop"))
_HIGH_ADAPTIVE = 3e-4  # above it, whole pretrained networks are not tuned in practice
_HIGH_SGD = 0.6  # the same for lr / (1 - momentum): 0.06 with momentum 0.9


def driving(now: Snapshot, optimizer: int) -> list[Scheduler]:
    """The schedulers of one optimizer."""
    return [s for s in now.schedulers if s.optimizer == optimizer]


def tops(now: Snapshot, optimizer: int) -> list[float]:
    """The largest rate of each group that is known to come: now, or at its schedule's peak."""
    rates = [_meant(group) for group in now.optimizers[optimizer].groups]
    for scheduler in driving(now, optimizer):
        if len(scheduler.peaks) == len(rates):
            rates = [max(pair) for pair in zip(rates, scheduler.peaks)]
    return rates


def falls(now: Snapshot, optimizer: int) -> bool:
    """Its rates are known to become far lower than they will be at their peak."""
    return any(scheduler.falls for scheduler in driving(now, optimizer))


def _meant(group: Group) -> float:
    """Layer-wise decay by timm: a scale in each group, which timm's scheduler is to apply."""
    scale = group.options.get("lr_scale")
    if isinstance(scale, float) and "initial_lr" not in group.options:
        return group.lr * scale
    return group.lr


def of_params(params: Iterable[Param], optimizer: int, rates: list[float]) -> float | None:
    """The rate at which an optimizer trains the greater part of `params`, by entries.

    None where it trains less than half of them. `rates` are its groups', as from `tops`.
    """
    total = 0
    shares: dict[float, int] = {}
    for param in params:
        total += param.numel
        group = next((h.group for h in param.held if h.optimizer == optimizer), None)
        if group is not None and param.trainable:
            shares[rates[group]] = shares.get(rates[group], 0) + param.numel
    if not shares or 2 * sum(shares.values()) <= total:
        return None
    return max(shares, key=lambda rate: shares[rate])


def of_stages(now: Snapshot, optimizer: int, model: int, rates: list[float]) -> dict[int, float]:
    """`of_params` of each stage that the optimizer trains, by its index."""
    found = {
        stage: of_params(now.by_stage[model, stage], optimizer, rates)
        for stage in range(len(now.models[model].stages))
    }
    return {stage: rate for stage, rate in found.items() if rate is not None}


def fresh_head(now: Snapshot, model: int) -> tuple[int, list[Param]] | None:
    """The stage and the parameters of a new head on a pretrained network; None for any other."""
    record = now.models[model]
    if not (record.pretrained and record.head and record.head.fresh) or len(record.stages) < 2:
        return None
    last = len(record.stages) - 1
    own = [p for p in now.by_stage[model, last] if p.module == record.head.path]
    return (last, own) if own else None


def is_high(optimizer: Optimizer, group: Group, rate: float) -> bool:
    """Right for a new layer, and several times what pretrained ones are tuned with.

    From practice: transformers are tuned with Adam at 1e-5 to 1e-4 and at most 3e-4, whole
    convolutional networks with SGD (momentum 0.9) at 1e-3 to 3e-2. Other optimizers are
    not judged.
    """
    # OneCycleLR and CyclicLR have their lowest momentum where the rate is highest.
    momentum = group.options.get("base_momentum", group.options.get("momentum")) or 0
    return above(optimizer.family or optimizer.class_name, momentum, rate)


def above(family: str, momentum: float, rate: float) -> bool:
    """The same, for a class of optimizers."""
    if family in _ADAPTIVE:
        return rate > 1.001 * _HIGH_ADAPTIVE
    if family == "SGD":
        return 0 <= momentum < 1 and rate / (1 - momentum) > 1.001 * _HIGH_SGD
    return False
