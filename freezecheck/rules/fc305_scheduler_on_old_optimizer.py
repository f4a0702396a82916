from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Note, Severity
from freezecheck.rule import Rule
from freezecheck.snapshot import Scheduler, Snapshot
from freezecheck.timeline import OPTIMIZER, SCHEDULER, Timeline


class SchedulerOnOldOptimizer(Rule):
    """The scheduler drives an optimizer that is no longer the one that steps.

    ## What it does

    Finds schedulers that were built on an optimizer which has since been replaced, while
    the new optimizer has no scheduler.

    ## Why it matters

    A scheduler keeps the optimizer that it was built with. Once that is replaced, as when
    more layers are unfrozen, `scheduler.step()` and `get_last_lr()` go on working, on
    groups that nobody steps. The new optimizer keeps its first rate for ever: no warm-up,
    no decay.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)  # <- FC305
    for epoch in range(20):
        loss = F.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for epoch in range(20):
        loss = F.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    ```

    ## How it is found

    By identity. In a recorded run: an optimizer never steps, nothing but its scheduler
    refers to it any more, and one that was built later steps without a scheduler. Given
    finished objects: the scheduler's optimizer is none of those given, and shares
    parameters with one of them, or no scheduler drives any of them.

    ## Limits

    An optimizer that still has a name may be meant for another phase, and is left alone.

    ## References

    - [torch.optim: how to adjust learning rate](https://docs.pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate)
    """

    code = "FC305"
    name = "scheduler-on-old-optimizer"
    severity = Severity.ERROR

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        served = {s.optimizer for s in now.schedulers}
        for scheduler in now.schedulers:
            if scheduler.optimizer is not None:
                new = self._successor(now, past, scheduler, served) if now.recorded else None
            elif now.optimizers and scheduler.shared is not None:
                unscheduled = [i for i in range(len(now.optimizers)) if i not in served]
                sure = scheduler.shared > 0 or len(unscheduled) == len(now.optimizers)
                new = unscheduled[0] if unscheduled and sure else None
            else:
                new = None
            if new is not None:
                yield self._judge(now, scheduler, new)

    def _successor(
        self, now: Snapshot, past: Timeline, scheduler: Scheduler, served: set[int | None]
    ) -> int | None:
        """The optimizer that took the place of the scheduler's own."""
        old = now.optimizers[scheduler.optimizer or 0]
        if not (old.idle and old.dropped):
            return None
        built = past.last(SCHEDULER, scheduler.label)
        for index, optimizer in enumerate(now.optimizers):
            if index in served or optimizer.idle or built is None:
                continue
            start = past.last(OPTIMIZER, optimizer.label)
            if start is not None and past.order(start) > past.order(built):
                return index
        return None

    def _judge(self, now: Snapshot, scheduler: Scheduler, new: int) -> Finding:
        optimizer = now.optimizers[new]
        notes = [Note(f"{scheduler.label} was built here, on the one before", scheduler.site)]
        at = " and ".join(dict.fromkeys(f"{group.lr:g}" for group in optimizer.groups[:3]))
        other = "the optimizer that was there before" if now.recorded else "another optimizer"
        return self.finding(
            f"{scheduler.label} ({scheduler.type}) drives {other}; {optimizer.label} has no"
            f" schedule and keeps its rate of {at} for ever.",
            site=optimizer.site,
            symbol=scheduler.label,
            notes=notes if scheduler.site else (),
            fix=f"build the scheduler again, on {optimizer.label}",
            subject=(scheduler.label, optimizer.label),
        )
