from __future__ import annotations

from collections.abc import Iterator

from freezecheck import stated_rates
from freezecheck.account import names
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import GROUP, Event, Scheduler, World
from freezecheck.rule import Rule


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

    ```python source
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)

    for epoch in range(20):
        if epoch == 3:
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

    ```python source
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)

    for epoch in range(20):
        if epoch == 10:
            model.layer4.requires_grad_(True)
            optimizer.add_param_group({"params": model.layer4.parameters(), "lr": 0.001})
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        scheduler.step()
    ```

    All groups there before the scheduler is:

    ```python source
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)
    model.layer4.requires_grad_(True)
    optimizer.add_param_group({"params": model.layer4.parameters(), "lr": 0.001})
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)

    for epoch in range(20):
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        scheduler.step()
    ```

    ## How it is found

    From the text: the steps that the scheduler has taken when the group is added are counted
    through the loops, and must be fewer than `total_iters`; the scheduler must step again
    after it. A warm-up that is a part of a `SequentialLR` or `ChainedScheduler` counts as well.

    ## Limits

    Where the number of steps is not known, as in a loop over a loader, nothing is said.

    ## References

    - [torch.optim.lr_scheduler.LinearLR](https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.LinearLR.html)
    - [torch.optim.lr_scheduler.ConstantLR](https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ConstantLR.html)
    """

    code = "FC311"
    name = "group-added-during-warm-up"
    severity = Severity.WARNING

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
                    fix="add the group before the scheduler is built, or after the warm-up",
                    subject=(whole.label, optimizer.shown),
                )
                break


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
