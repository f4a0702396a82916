from __future__ import annotations

import math
from collections.abc import Iterator

from freezecheck import rates, stated_rates
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import World
from freezecheck.rule import Rule
from freezecheck.snapshot import Optimizer, Scheduler, Snapshot
from freezecheck.timeline import SCHEDULER, Event, Timeline

_SETTERS = ("OneCycleLR", "CyclicLR")
# Options that a scheduler writes, or that only name a group.
_WRITTEN = frozenset(
    """lr initial_lr max_lr min_lr momentum betas max_momentum base_momentum param_names name
    names""".split()
)


class SchedulerFlattensGroups(Rule):
    """One `max_lr` for all groups replaces the rates that they were given.

    ## What it does

    Finds `OneCycleLR` and `CyclicLR` schedulers with a single `max_lr` on an optimizer whose
    groups had different rates.

    ## Why it matters

    Both write their own rates into every group, whatever it held. With a single number the
    backbone is driven up to the head's rate, and a group that was held at 0 starts to
    learn. The rates that were set with care on the line above are gone, without a word.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    backbone = [p for name, p in model.named_parameters() if not name.startswith("fc.")]
    optimizer = torch.optim.AdamW(
        [
            {"params": backbone, "lr": 1e-5},
            {"params": model.fc.parameters(), "lr": 1e-3},
        ]
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=1000)  # <- FC307

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    scheduler.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    backbone = [p for name, p in model.named_parameters() if not name.startswith("fc.")]
    optimizer = torch.optim.AdamW(
        [
            {"params": backbone, "lr": 1e-5},
            {"params": model.fc.parameters(), "lr": 1e-3},
        ]
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[1e-5, 1e-3], total_steps=1000)

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    scheduler.step()
    ```

    One group needs one rate:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=1000)

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    scheduler.step()
    ```

    ## How it is found

    In a recorded run: the groups' rates differed before the scheduler was built, and all
    have the same maximum since. Given finished objects, the first rates are gone; then
    only groups are reported that part a new head from a pretrained backbone, differ in
    nothing else, and rise to a new layer's rate together.

    From the text: `max_lr` is one known number, and the groups' rates are known and differ.

    ## Limits

    Without a record, groups that are flattened to a small rate are not seen.

    ## References

    - [torch.optim.lr_scheduler.OneCycleLR](https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.OneCycleLR.html)
    - [torch.optim.lr_scheduler.CyclicLR](https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.CyclicLR.html)
    """

    code = "FC307"
    name = "scheduler-flattens-groups"
    severity = Severity.ERROR
    explains = ("FC301",)

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for scheduler in now.schedulers:
            if scheduler.type not in _SETTERS or scheduler.optimizer is None:
                continue
            optimizer = now.optimizers[scheduler.optimizer]
            top = _only_maximum(scheduler, optimizer)
            if top is None:
                continue
            event = past.last(SCHEDULER, scheduler.label)
            before = [group["lr"] for group in event.data["before"]] if event else None
            if before is None:
                before = [] if _parted(now, scheduler.optimizer, top) else None
            elif _same(before) or _left(before, event):
                continue
            if before is not None:
                yield self._judge(scheduler, optimizer, top, before)

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for scheduler in world.schedulers:
            optimizer, built = scheduler.optimizer, scheduler.event
            top = stated_rates.number(scheduler.options.get("max_lr"))
            kind = stated_rates.short(scheduler)
            if kind not in _SETTERS or optimizer is None or built is None or top is None:
                continue
            groups = optimizer.groups[: built.data["groups"]]
            before = [stated_rates.at(world, optimizer, g, built) for g in groups]
            given = [rate for rate in before if rate is not None]
            if len(given) < len(before) or _same(given) or scheduler.site in told:
                continue
            told.add(scheduler.site)
            name = scheduler.label or "the scheduler"
            rates_ = " and ".join(dict.fromkeys(f"{rate:g}" for rate in given))
            yield self.finding(
                f"{kind} with one max_lr takes all {len(given)} groups of {optimizer.shown} to"
                f" {top:g}; the rates that they were given ({rates_}) are overwritten.",
                site=scheduler.site,
                symbol=name,
                notes=[Note("the groups get their rates here", optimizer.site)],
                fix='give max_lr one value a group: max_lr=[group["lr"] for group in'
                f" {optimizer.shown}.param_groups]",
                subject=(name, optimizer.shown),
            )

    def _judge(
        self, scheduler: Scheduler, optimizer: Optimizer, top: float, before: list[float]
    ) -> Finding:
        given = " and ".join(dict.fromkeys(f"{rate:g}" for rate in before))
        if before:
            message = (
                f"{scheduler.type} with one max_lr takes all {len(before)} groups of"
                f" {optimizer.label} to {top:g}; the rates that they were given ({given}) are"
                " overwritten."
            )
        else:
            message = (
                f"{scheduler.type} with one max_lr takes all {len(optimizer.groups)} groups of"
                f" {optimizer.label} to {top:g}, though they part the new head from the"
                " pretrained backbone. Rates of their own, if they had any, are overwritten."
            )
        return self.finding(
            message,
            site=scheduler.site,
            symbol=scheduler.label,
            notes=[Note("the groups got their rates here", optimizer.site)]
            if optimizer.site and before
            else (),
            fix='give max_lr one value a group: max_lr=[group["lr"] for group in'
            f" {optimizer.label}.param_groups]",
            severity=self.severity if before else Severity.WARNING,
            subject=(scheduler.label, optimizer.label),
        )


def _left(before: list[float], event: Event | None) -> bool:
    """These rates are what an earlier scheduler came to, rather than what the groups were given."""
    last = (event.data.get("last") if event else None) or ()
    return len(last) == len(before) > 0 and all(map(math.isclose, before, last))


def _only_maximum(scheduler: Scheduler, optimizer: Optimizer) -> float | None:
    """The one rate to which all of two or more groups rise."""
    tops = list(scheduler.options.get("max_lrs", ()))
    if scheduler.type == "OneCycleLR":
        tops = [group.options.get("max_lr", math.nan) for group in optimizer.groups]
    return tops[0] if len(tops) > 1 and _same(tops) else None


def _same(values: list[float]) -> bool:
    return not values or all(math.isclose(value, values[0]) for value in values)


def _parted(now: Snapshot, index: int, top: float) -> bool:
    """The groups differ in nothing but that one holds the new head, at a new layer's rate."""
    optimizer = now.optimizers[index]
    others = [
        {k: v for k, v in group.options.items() if k not in _WRITTEN} for group in optimizer.groups
    ]
    if any(other != others[0] for other in others) or optimizer.stepped:
        return False
    if not rates.is_high(optimizer, optimizer.groups[0], top):
        return False
    for model in range(len(now.models)):
        head = rates.fresh_head(now, model)
        if head is None:
            continue
        holding = {
            h.group
            for p in now.by_stage[model, head[0]]
            for h in p.held
            if h.optimizer == index and p.trainable
        }
        rest = {
            h.group
            for p in now.of_model(model)
            for h in p.held
            if h.optimizer == index and p.stage != head[0] and p.trainable
        }
        if holding and rest and not holding & rest:
            return True
    return False
