from __future__ import annotations

from collections.abc import Iterator

from freezecheck import stated_rates
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import ESCAPE, STEP, World
from freezecheck.program import Optimizer as Built
from freezecheck.program import Scheduler as Schedule
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

    One optimizer for each part, of which one alone has a schedule:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    backbone = [p for name, p in model.named_parameters() if not name.startswith("fc.")]
    optimizer = torch.optim.SGD(backbone, lr=0.001, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    head_optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01, momentum=0.9)

    for epoch in range(2):
        loss = F.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.tensor([0, 1]))
        optimizer.zero_grad()
        head_optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        head_optimizer.step()
        scheduler.step()
    ```

    ## How it is found

    By identity. In a recorded run: an optimizer never steps, nothing but its scheduler
    refers to it any more, and one that was built later steps without a scheduler. Given
    finished objects: the scheduler's optimizer is none of those given, and shares
    parameters with one of them, or no scheduler drives any of them.

    From the text: an optimizer that takes the name of the scheduler's own, trains the same
    model and is stepped; the scheduler goes on stepping, the old optimizer does not, and no other
    scheduler is built.

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

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for scheduler in world.schedulers:
            old = scheduler.optimizer
            new = _replacement(world, scheduler, old) if old is not None else None
            if new is None or new.site in told:
                continue
            told.add(new.site)
            at = {stated_rates.number(new.lr(group)) for group in new.groups} - {None}
            rate = f" of {' and '.join(f'{r:g}' for r in sorted(at, key=str))}" if at else ""
            name = scheduler.label or "the scheduler"
            last = scheduler.steps[-1]
            yield self.finding(
                f"{name} ({stated_rates.short(scheduler)}) drives the optimizer that was there"
                f" before; {new.shown} has no schedule and keeps its rate{rate} for ever.",
                site=new.site,
                symbol=name,
                notes=[
                    Note(f"{name} is built here, on the one before", scheduler.site),
                    Note(f"{name} is stepped here", last.site),
                    Note(f"{new.shown} is stepped here", new.steps[0].site),
                ],
                fix=f"build the scheduler again, on {new.shown}",
                subject=(name, new.shown),
            )

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


def _replacement(world: World, scheduler: Schedule, old: Built) -> Built | None:
    """The optimizer that took the place of the scheduler's own, and has no schedule."""
    if scheduler.event is None or not scheduler.steps:
        return None
    for new in world.optimizers:
        built = new.event
        if built is None or built.index < scheduler.event.index or new is old:
            continue
        idle = not any(
            e.index > built.index
            for e in world.events
            if e.subject is old and e.kind in (STEP, ESCAPE)
        )
        unserved = not any(s.optimizer in (new, None) for s in world.schedulers)
        used = bool(new.steps) and any(e.index > built.index for e in scheduler.steps)
        if idle and unserved and used and not new.escaped and _same_place(old, new):
            return new
    return None


def _same_place(old: Built, new: Built) -> bool:
    """They have one name, and train one model."""
    models = [{p.module.root for g in o.groups for p in g.params} for o in (old, new)]
    return old.label == new.label and bool(models[0] & models[1])
