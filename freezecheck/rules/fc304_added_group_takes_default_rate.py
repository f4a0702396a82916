from __future__ import annotations

import math
from collections.abc import Iterator

from freezecheck import rates, stated_rates
from freezecheck.account import names
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import GROUP as ADDED
from freezecheck.program import RATE, World
from freezecheck.rule import Rule
from freezecheck.snapshot import FOREIGN, Group, Snapshot, summarise
from freezecheck.timeline import GROUP, OPTIMIZER, Timeline

_LOWERED = 0.7  # of its first value or less: the other groups' rates have been brought down


class AddedGroupTakesDefaultRate(Rule):
    """A group added without a rate takes the constructor's, which the others have long left.

    ## What it does

    Finds groups added by `add_param_group` at the optimizer's default rate after the rates
    of all other groups were brought down.

    ## Why it matters

    A group without `lr` takes the value that the optimizer was built with, not the one it
    has come down to. A layer unfrozen in the tenth epoch then starts at the rate of the
    first, often a hundred times the head's, and is thrown far from its pretrained values.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.requires_grad_(False).eval()
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10)
    for epoch in range(20):  # resume after epoch 20
        scheduler.step()

    model.layer4.requires_grad_(True)
    optimizer.add_param_group({"params": model.layer4.parameters()})  # <- FC304

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.requires_grad_(False).eval()
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10)
    for epoch in range(20):  # resume after epoch 20
        scheduler.step()

    model.layer4.requires_grad_(True)
    rate = scheduler.get_last_lr()[0] / 10
    optimizer.add_param_group({"params": model.layer4.parameters(), "lr": rate})

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    In a recorded run by the dictionary that was handed to `add_param_group` and the rates
    of the other groups at that moment. Otherwise by what is left of it: a scheduler has
    written `initial_lr` into every group but this one, which stands exactly at the
    optimizer's default while all others have come down from their first rates.

    From the text: the rates of the other groups are followed through assignments and through
    the steps of `StepLR`, `MultiStepLR`, `ExponentialLR` and `CosineAnnealingLR`, counted through
    the loops around them. Where a count or a rate is not known, or the new group's rate is set by
    hand later, nothing is said.

    ## Limits

    Rates that a warm-up has yet to raise are not counted as brought down. Without a
    record, rates lowered by hand leave no trace.

    ## References

    - [torch.optim.Optimizer.add_param_group](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.add_param_group.html)
    """

    code = "FC304"
    name = "added-group-takes-default-rate"
    severity = Severity.WARNING
    explains = ("FC301", "FC302", "FC303")

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for index, optimizer in enumerate(now.optimizers):
            default = optimizer.defaults.get("lr")
            if len(optimizer.groups) < 2 or not isinstance(default, (int, float)):
                continue
            recorded = next(past.of(OPTIMIZER, optimizer.label), None) is not None
            added = _recorded(optimizer.label, default, past) if recorded else None
            if added is None:
                added = {} if recorded else _left(now, index, default)
            for position, others in added.items():
                if position >= len(optimizer.groups) or _rising(now, index, position):
                    continue
                others_now = [g.lr for j, g in enumerate(optimizer.groups) if j != position]
                if optimizer.groups[position].lr > max(others_now):  # not lowered since
                    yield self._judge(now, index, position, default, others)

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for event in world.of(ADDED):
            optimizer, group = event.subject, event.data["group"]
            default = stated_rates.number(optimizer.options.get("lr"))
            by_hand = any(e.data["group"] is group for e in world.of(RATE, optimizer))
            if default is None or by_hand or "lr" in group.options or event.site in told:
                continue
            older = [g for g in optimizer.groups if g.event and g.event.index < event.index]
            now = [stated_rates.at(world, optimizer, g, event) for g in older]
            was = [stated_rates.first(optimizer, g, world) for g in older]
            others = [rate for rate in now if rate is not None]
            given = [rate for rate in was if rate is not None]
            if len(others) < len(older) or not _down(others, given):
                continue
            told.add(event.site)
            down = " and ".join(dict.fromkeys(f"{rate:g}" for rate in others[:3]))
            what = f" ({names(group.params)})" if group.params else ""
            models = {param.module.root.shown for param in group.params}
            lowered = [e.site for e in world.of(RATE, optimizer) if e.index < event.index]
            lowered += [s.site for s in stated_rates.drivers(world, optimizer, event.index)]
            yield self.finding(
                f"The group{what} is added without a rate and takes the constructor's {default:g},"
                f" while the other groups have come down to {down}.",
                site=event.site,
                symbol=f"{optimizer.shown}.param_groups[{len(older)}]",
                notes=[
                    Note(f"{default:g} is set here", optimizer.site),
                    *(Note("the other rates are lowered here", site) for site in lowered[:1]),
                ],
                fix='give the group its own "lr", below that of the groups after it',
                subject=(optimizer.shown, *sorted(models)),
            )

    def _judge(
        self, now: Snapshot, index: int, position: int, default: float, others: list[float]
    ) -> Finding:
        optimizer = now.optimizers[index]
        group = optimizer.groups[position]
        members = now.by_group[index, position]
        names = [p.name if p.model == FOREIGN else now.path(p.model, p.name) for p in members]
        models = {now.models[p.model].label for p in members if p.model != FOREIGN}
        what = f" ({summarise(names)})" if names else ""
        down = " and ".join(dict.fromkeys(f"{rate:g}" for rate in others[:3]))
        return self.finding(
            f"param_groups[{position}]{what} was added without a rate and took the"
            f" constructor's {default:g}, while the other groups had come down to {down}.",
            site=group.site or optimizer.site,
            symbol=f"{optimizer.label}.param_groups[{position}]",
            notes=[Note(f"{default:g} was set here", optimizer.site)] if optimizer.site else (),
            fix='give the group its own "lr", below that of the groups after it',
            subject=(optimizer.label, *sorted(models)),
        )


def _recorded(label: str, default: float, past: Timeline) -> dict[int, list[float]]:
    """Position of each such group and the others' rates when it was added."""
    first: list[float] = []
    found = {}
    for event in past.events:
        if event.subject != label:
            continue
        if event.kind == OPTIMIZER:
            first = list(event.data.get("rates", ()))
        elif event.kind == GROUP:
            others = list(event.data.get("others", ()))
            took = "lr" not in event.data["given"] and event.data["lr"] == default
            if took and _down(others, first[: len(others)]):
                found[event.data["index"]] = others
            first.append(event.data["lr"])
    return found


def _left(now: Snapshot, index: int, default: float) -> dict[int, list[float]]:
    """The same, from what it left behind."""
    groups = now.optimizers[index].groups
    late = [j for j, g in enumerate(groups) if "initial_lr" not in g.options and g.lr == default]
    older = [g for g in groups if "initial_lr" in g.options]
    if not late or not older or len(late) + len(older) != len(groups):
        return {}
    if not _down([g.lr for g in older], [_initial(g) for g in older]):
        return {}
    return {j: [g.lr for g in older] for j in late}


def _initial(group: Group) -> float:
    return float(group.options["initial_lr"])


def _down(rates_: list[float], first: list[float]) -> bool:
    """Every rate is clearly below its first value."""
    return (
        bool(rates_)
        and len(rates_) == len(first)
        and all(rate <= _LOWERED * was and not math.isnan(rate) for rate, was in zip(rates_, first))
    )


def _rising(now: Snapshot, index: int, position: int) -> bool:
    """The other groups are below their peak because of a warm-up, or may be."""
    groups = now.optimizers[index].groups
    for scheduler in rates.driving(now, index):
        if len(scheduler.peaks) != len(groups):
            return True
        if any(
            peak > 1.001 * group.lr
            for j, (peak, group) in enumerate(zip(scheduler.peaks, groups))
            if j != position
        ):
            return True
    return False
