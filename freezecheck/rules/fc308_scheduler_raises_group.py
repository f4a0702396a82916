from __future__ import annotations

from collections.abc import Iterator

from freezecheck import stated_rates
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import World
from freezecheck.rule import Rule
from freezecheck.snapshot import Scheduler, Snapshot
from freezecheck.timeline import Timeline

_COSINES = ("CosineAnnealingLR", "CosineAnnealingWarmRestarts")


class SchedulerRaisesGroup(Rule):
    """`eta_min` lies above a group's own rate, so the schedule raises it.

    ## What it does

    Finds cosine schedules whose `eta_min` is above the rate of a group that trains.

    ## Why it matters

    `eta_min` is one number for all groups, and the rate at which each of them ends. A
    group that starts below it, as the backbone's often does, does not decay but grows, and
    is fastest at the end, when everything else has come to rest.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    backbone = [p for name, p in model.named_parameters() if not name.startswith("fc.")]
    optimizer = torch.optim.AdamW(
        [
            {"params": backbone, "lr": 1e-6},
            {"params": model.fc.parameters(), "lr": 1e-3},
        ]
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=1e-5)  # <- FC308

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
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
            {"params": backbone, "lr": 1e-6},
            {"params": model.fc.parameters(), "lr": 1e-3},
        ]
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=1e-7)

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    `eta_min` is compared with the base rate of each group that holds a trainable
    parameter, also where the cosine is a part of a `SequentialLR` or `ChainedScheduler`.

    From the text: `eta_min` and the group's first rate are known numbers, and the group holds
    something trainable when the optimizer is first used.

    ## Limits

    Schedules of one's own, and floors written into a `LambdaLR`, are not looked at.

    ## References

    - [torch.optim.lr_scheduler.CosineAnnealingLR](https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.CosineAnnealingLR.html)
    """

    code = "FC308"
    name = "scheduler-raises-group"
    severity = Severity.WARNING

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for scheduler in now.schedulers:
            index = scheduler.optimizer
            if index is None or now.optimizers[index].idle:
                continue
            for part in scheduler.simple:
                floor = part.options.get("eta_min", 0.0)
                if part.type in _COSINES and floor > 0:
                    raised = _below(now, index, part, floor)
                    if raised:
                        yield self._judge(now, scheduler, index, part, raised)
                        break

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        parts = {part.id: s for s in world.schedulers for part in s.parts}
        for scheduler in world.schedulers:
            optimizer, built = scheduler.optimizer, scheduler.event
            floor = stated_rates.number(scheduler.options.get("eta_min"))
            kind = stated_rates.short(scheduler)
            whole = parts.get(scheduler.id, scheduler)
            if kind not in _COSINES or optimizer is None or built is None or not floor:
                continue
            use = stated_rates.first_use(world, optimizer)
            if use is None or whole.site in told:
                continue
            raised = [
                (j, rate)
                for j, group in enumerate(optimizer.groups[: built.data["groups"]])
                if (rate := stated_rates.first(optimizer, group, world)) is not None
                and rate < 0.999 * floor
                and any(param.trains(use.index) is True for param in group.params)
                and stated_rates.is_steady(world, optimizer, group, built)
            ]
            if not raised:
                continue
            told.add(whole.site)
            which = ", ".join(f"param_groups[{j}] from {rate:g}" for j, rate in raised[:3])
            more = f" and {len(raised) - 3} more" if len(raised) > 3 else ""
            first = optimizer.groups[raised[0][0]]
            yield self.finding(
                f"{kind} with eta_min={floor:g} raises {which}{more} to {floor:g}: that group is"
                " fastest at the end of the schedule.",
                site=whole.site,
                symbol=f"{optimizer.shown}.param_groups[{raised[0][0]}]",
                notes=[Note("the group gets its rate here", first.site)],
                fix="choose an eta_min below every group's rate",
                subject=(whole.label, optimizer.shown),
            )

    def _judge(
        self, now: Snapshot, scheduler: Scheduler, index: int, part: Scheduler, raised: list[int]
    ) -> Finding:
        optimizer = now.optimizers[index]
        floor = part.options["eta_min"]
        which = ", ".join(f"param_groups[{j}] from {part.base_lrs[j]:g}" for j in raised[:3])
        more = f" and {len(raised) - 3} more" if len(raised) > 3 else ""
        return self.finding(
            f"{part.type} with eta_min={floor:g} raises {which}{more} to {floor:g}: that group is"
            " fastest at the end of the schedule.",
            site=scheduler.site,
            symbol=f"{optimizer.label}.param_groups[{raised[0]}]",
            notes=[Note("the group got its rate here", site)]
            if (site := optimizer.groups[raised[0]].site or optimizer.site)
            else (),
            fix="choose an eta_min below every group's rate",
            subject=(scheduler.label, optimizer.label),
        )


def _below(now: Snapshot, index: int, part: Scheduler, floor: float) -> list[int]:
    """Groups with something to train whose base rate is below the floor."""
    return [
        j
        for j, base in enumerate(part.base_lrs[: len(now.optimizers[index].groups)])
        if base < 0.999 * floor and any(p.trainable for p in now.by_group[index, j])
    ]
