from __future__ import annotations

import math
from collections.abc import Iterator

from freezecheck import stated_rates
from freezecheck.account import names
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import GROUP, Event, Scheduler, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Scheduler as Schedule
from freezecheck.snapshot import Snapshot, count
from freezecheck.timeline import GROUP as ADDED
from freezecheck.timeline import SCHEDULER, Timeline
from freezecheck.timeline import Event as Heard


class GroupAddedDuringWarmUp(Rule):
    """A group added in the middle of a warm-up is multiplied by what is left of it.

    ## What it does

    Finds groups added by `add_param_group` while a `LinearLR` or `ConstantLR` on the same
    optimizer has not come to its end.

    ## Why it matters

    These schedulers do not compute a rate from the group's base: they multiply the rate that
    is there, at each step, by the ratio of the next factor to the last. The groups that were
    there from the start were first brought down by `start_factor`. A group that comes later was
    not, and is multiplied up all the same: one added at 0.001 can end at five times that.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=4)
    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4))
    loader = torch.utils.data.DataLoader(data, batch_size=4)

    for epoch in range(6):
        if epoch == 2:
            model.layer4.requires_grad_(True)
            optimizer.add_param_group({"params": model.layer4.parameters(), "lr": 0.001})  # <- FC311
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        scheduler.step()
    ```

    ## Good

    Added when the warm-up is over:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=4)
    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4))
    loader = torch.utils.data.DataLoader(data, batch_size=4)

    for epoch in range(6):
        if epoch == 4:
            model.layer4.requires_grad_(True)
            optimizer.add_param_group({"params": model.layer4.parameters(), "lr": 0.001})
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        scheduler.step()
    ```

    All groups there before the scheduler is:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)
    model.layer4.requires_grad_(True)
    optimizer.add_param_group({"params": model.layer4.parameters(), "lr": 0.001})
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=4)
    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4))
    loader = torch.utils.data.DataLoader(data, batch_size=4)

    for epoch in range(6):
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        scheduler.step()
    ```

    ## How it is found

    In a recorded run: at the first step after the group was added, the warm-up on the same
    optimizer has steps left to take. A rate that is a round part of another group's (the same, a
    tenth) is taken for one that was worked out from it and so was brought down with it.

    From the text: the steps that the scheduler has taken when the group is added are counted
    through the loops, and must be fewer than `total_iters`; the scheduler must step again
    after it. A warm-up that is a part of a `SequentialLR` or `ChainedScheduler` counts as well.

    ## Limits

    In a text, where the number of steps is not known, as in a loop over a loader, nothing is said.

    ## References

    - [torch.optim.lr_scheduler.LinearLR](https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.LinearLR.html)
    - [torch.optim.lr_scheduler.ConstantLR](https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ConstantLR.html)
    """

    code = "FC311"
    name = "group-added-during-warm-up"
    severity = Severity.WARNING

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for event in past.of(ADDED):
            optimizers = [i for i, o in enumerate(now.optimizers) if o.label == event.subject]
            for index in optimizers:
                for schedule in now.schedulers:
                    warm_up = _under_way(schedule) if schedule.optimizer == index else None
                    built = past.last(SCHEDULER, schedule.label)
                    if warm_up is None or built is None or past.order(built) > past.order(event):
                        continue
                    position = event.data["index"]
                    if position < len(now.optimizers[index].groups) and not _brought_down(event):
                        rate = now.optimizers[index].groups[position].lr
                        yield self._judge(event, schedule, warm_up, rate)

    def _judge(self, event: Heard, schedule: Schedule, warm_up: Schedule, rate: float) -> Finding:
        factor, total = _start(warm_up), int(warm_up.options["total_iters"])
        reached = 0.0 if warm_up.type == "ConstantLR" else warm_up.last_epoch / total
        end = rate / (factor + (1 - factor) * reached)
        return self.finding(
            f"The group ({count(len(event.names), 'tensor')}) is added after"
            f" {warm_up.last_epoch} of the {total} steps of {warm_up.type}, which multiplies its"
            f" rate by the rest of the way to full, from {rate:g} to {end:g}, though it was never"
            f" brought down by {factor:g}.",
            site=event.site,
            symbol=f"{event.subject}.param_groups[{event.data['index']}]",
            notes=[Note("the warm-up is built here", schedule.site)] if schedule.site else (),
            fix=_FIX,
            subject=(schedule.label, event.subject),
        )

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for event in world.of(GROUP):
            optimizer, group = event.subject, event.data["group"]
            if event.site in told:
                continue
            for whole in stated_rates.drivers(world, optimizer, event.index):
                part = next((p for p in whole.parts or (whole,) if _is_warm_up(p)), None)
                taken = stated_rates.times(world, whole.steps, whole.event, event)
                if part is None or taken is None or not _goes_on(whole, event):
                    continue
                total = part.options["total_iters"]
                if taken >= total:
                    continue
                told.add(event.site)
                held = f" ({names(group.params)})" if group.params else ""
                yield self.finding(
                    f"The group{held} is added after {taken} of the {total} steps of"
                    f" {stated_rates.short(part)}, which multiplies its rate by the rest of the"
                    f" way to full, though it was never brought down by"
                    f" {_factor(part):g}.",
                    site=event.site,
                    symbol=f"{optimizer.shown}.param_groups[{optimizer.groups.index(group)}]",
                    notes=[
                        Note("the warm-up is built here", part.site),
                        Note("it goes on here", whole.steps[-1].site),
                    ],
                    fix=_FIX,
                    subject=(whole.label, optimizer.shown),
                )
                break


_FIX = "add the group before the scheduler is built, or after the warm-up"


def _under_way(schedule: Schedule) -> Schedule | None:
    """A warm-up that is this schedule or a part of it, and has steps left to take."""
    for part in schedule.simple:
        active = part is schedule or schedule.type != "SequentialLR"
        # The later parts of a sequence take no steps of their own while the first one does.
        active = active or part.last_epoch == schedule.last_epoch
        factor = _start(part)
        if active and 0 < factor < 1 and part.last_epoch < part.options.get("total_iters", 0):
            return part
    return None


def _start(part: Schedule) -> float:
    """The factor that a warm-up begins with; 0 where it is none."""
    name = {"LinearLR": "start_factor", "ConstantLR": "factor"}.get(part.type, "")
    return float(part.options.get(name, 0)) if part.options.get("end_factor", 1) == 1 else 0.0


def _brought_down(event: Heard) -> bool:
    """Its rate was worked out from those of the other groups, which the warm-up had brought
    down: it is a round part of one of them."""
    if "lr" not in event.data["given"]:
        return False
    parts = (event.data["lr"] / other for other in event.data["others"] if other > 0)
    return any(math.isclose(part, float(f"{part:.1g}"), rel_tol=1e-6) for part in parts)


def _is_warm_up(scheduler: Scheduler) -> bool:
    """It brings rates down first and up later, by factors that are known."""
    factor, total = _factor(scheduler), scheduler.options.get("total_iters")
    return factor is not None and 0 < factor < 1 and isinstance(total, int)


def _factor(scheduler: Scheduler) -> float | None:
    name = {"LinearLR": "start_factor", "ConstantLR": "factor"}.get(stated_rates.short(scheduler))
    end = scheduler.options.get("end_factor", 1.0)
    return stated_rates.number(scheduler.options.get(name)) if name and end == 1 else None


def _goes_on(scheduler: Scheduler, event: Event) -> bool:
    return any(step.index > event.index for step in scheduler.steps)
