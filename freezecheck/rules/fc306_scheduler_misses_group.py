from __future__ import annotations

from collections.abc import Iterator

from freezecheck import stated_rates
from freezecheck.account import names as listed
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import GROUP, World
from freezecheck.program import Scheduler as Schedule
from freezecheck.rule import Rule
from freezecheck.snapshot import FOREIGN, Optimizer, Scheduler, Snapshot, count, summarise
from freezecheck.timeline import Timeline

# They keep one rate or function for each group that was there when they were built.
_FIXED = frozenset(
    ("LambdaLR", "MultiplicativeLR", "CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR")
)
_RAISES = (2, 10)  # the first torch that notices


class SchedulerMissesGroup(Rule):
    """A parameter group was added after the scheduler, which knows nothing of it.

    ## What it does

    Finds groups added to an optimizer after a `LambdaLR`, `MultiplicativeLR`,
    `CosineAnnealingWarmRestarts`, `CyclicLR` or `OneCycleLR` was built on it.

    ## Why it matters

    These schedulers keep one rate for each group that was there when they were built.
    With torch before 2.10 a later group keeps its first rate for ever, in silence; since
    2.10 the next `scheduler.step()` raises a ValueError, in the epoch of the unfreeze.
    `OneCycleLR` has always raised a KeyError.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.95**epoch)
    model.layer4.requires_grad_(True)
    optimizer.add_param_group({"params": model.layer4.parameters(), "lr": 1e-3})  # <- FC306

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    Add the groups first, or take a scheduler that works on the groups as they are
    (`StepLR`, `MultiStepLR`, `ExponentialLR`, `PolynomialLR`, `CosineAnnealingLR`):

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.95)
    model.layer4.requires_grad_(True)
    optimizer.add_param_group({"params": model.layer4.parameters(), "lr": 1e-3})

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    Groups added before the scheduler exists:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=1e-2)
    model.layer4.requires_grad_(True)
    optimizer.add_param_group({"params": model.layer4.parameters(), "lr": 1e-3})
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.95**epoch)

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    The scheduler has fewer base rates than its optimizer has groups.

    From the text: the order of the scheduler's construction and `add_param_group`, unless a
    scheduler is built again after it. The schedules of transformers are `LambdaLR`.

    ## Limits

    Schedulers of one's own are not judged.

    ## References

    - [torch.optim.lr_scheduler.LambdaLR](https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.LambdaLR.html)
    - [torch.optim.Optimizer.add_param_group](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.add_param_group.html)
    """

    code = "FC306"
    name = "scheduler-misses-group"
    severity = Severity.ERROR

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for scheduler in now.schedulers:
            if scheduler.optimizer is None:
                continue
            groups = len(now.optimizers[scheduler.optimizer].groups)
            for part in scheduler.simple:
                if part.type in _FIXED and 0 < len(part.base_lrs) < groups:
                    yield self._judge(now, scheduler, part)
                    break

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for event in world.of(GROUP):
            optimizer = event.subject
            driving = stated_rates.drivers(world, optimizer)
            before = [s for s in driving if s.event and s.event.index < event.index]
            scheduler = next((s for s in before if _fixed(s)), None)
            part = _fixed(scheduler) if scheduler else None
            if scheduler is None or part is None or event.site in told:
                continue
            if len(before) < len(driving) and not any(
                e.index > event.index for e in scheduler.steps
            ):
                continue  # built again
            told.add(event.site)
            known = scheduler.event.data["groups"] if scheduler.event else 0
            kind = stated_rates.short(part)
            outcome = (
                "The next scheduler.step() raises a KeyError."
                if kind == "OneCycleLR"
                else "With torch before 2.10 the new group keeps its first rate for ever, in silence;"
                " since 2.10 the next scheduler.step() raises a ValueError."
            )
            held = event.data["group"].params
            yield self.finding(
                f"{kind} is built when {optimizer.shown} has {count(known, 'group')}; this one is"
                f" added later. {outcome}" + (f" It holds {listed(held)}." if held else ""),
                site=event.site,
                symbol=f"{optimizer.shown}.param_groups[{known}]",
                notes=[Note("the scheduler is built here", scheduler.site)],
                fix="add every group before the scheduler is built, or build the scheduler again"
                " after add_param_group()",
                subject=(scheduler.label, optimizer.shown),
            )

    def _judge(self, now: Snapshot, scheduler: Scheduler, part: Scheduler) -> Finding:
        index = scheduler.optimizer or 0
        optimizer, known = now.optimizers[index], len(part.base_lrs)
        members = [
            param
            for position in range(known, len(optimizer.groups))
            for param in now.by_group[index, position]
        ]
        names = [p.name if p.model == FOREIGN else now.path(p.model, p.name) for p in members]
        late = optimizer.groups[known]
        return self.finding(
            f"{part.type} was built when {optimizer.label} had {count(known, 'group')}; it has"
            f" {len(optimizer.groups)} now. {_outcome(now, part, optimizer)}"
            f" The new ones hold {summarise(names)}.",
            site=late.site or scheduler.site,
            symbol=f"{optimizer.label}.param_groups[{known}]",
            notes=[Note("the scheduler was built here", scheduler.site)] if scheduler.site else (),
            fix="add every group before the scheduler is built, or build the scheduler again"
            " after add_param_group()",
            subject=(scheduler.label, optimizer.label),
        )


def _outcome(now: Snapshot, part: Scheduler, optimizer: Optimizer) -> str:
    """What the next `scheduler.step()` does with the torch of this snapshot."""
    if part.type == "OneCycleLR":
        return "The next scheduler.step() raises a KeyError."
    if _version(now.torch) >= _RAISES:
        return "The next scheduler.step() raises a ValueError."
    kept = dict.fromkeys(f"{g.lr:g}" for g in optimizer.groups[len(part.base_lrs) :])
    return f"The rest keeps its rate of {' and '.join(kept)} for ever, in silence."


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _fixed(scheduler: Schedule) -> Schedule | None:
    """It, or the part of it, that keeps one value for each group."""
    for part in scheduler.parts or (scheduler,):
        kind = stated_rates.short(part)
        if kind in _FIXED or kind.startswith("get_"):  # those of transformers are LambdaLR
            return part
    return None
