from __future__ import annotations

import math
from collections.abc import Iterator

from freezecheck import rates
from freezecheck.finding import Finding, Note, Severity
from freezecheck.rule import Rule
from freezecheck.snapshot import Optimizer, Scheduler, Snapshot
from freezecheck.timeline import LOAD, SCHEDULER, Timeline

# They compute every rate from `initial_lr`, whatever the rate was when they were built.
_FROM_INITIAL = ("LambdaLR", "CosineAnnealingWarmRestarts")
# They compute every rate from the one before it, so that a floor is never left again.
_FROM_LAST = (
    "CosineAnnealingLR",
    "PolynomialLR",
    "LinearLR",
    "StepLR",
    "MultiStepLR",
    "ExponentialLR",
)


class SchedulerRecreated(Rule):
    """A new scheduler on an optimizer that remembers the first one's rates.

    ## What it does

    Finds schedulers built on an optimizer that had one before, where the `initial_lr` that
    the first one left in the groups undoes a rate set by hand, or where the new schedule
    starts at the end of the old one and cannot leave it.

    ## Why it matters

    The first scheduler writes `initial_lr` into every group, and later ones keep it. So a
    second `LambdaLR` or `CosineAnnealingWarmRestarts` starts from the rate of the first
    phase, whatever was written into `lr` in between. A second `CosineAnnealingLR` computes
    each rate from the last one: built where the first ended, at `eta_min`, it stays there.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    def warm_up(step):
        return min(1.0, (step + 1) / 100)

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up)

    for group in optimizer.param_groups:
        group["lr"] = 1e-4  # the second phase is to be gentle
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up)  # <- FC309

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    scheduler.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    def warm_up(step):
        return min(1.0, (step + 1) / 100)

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up)

    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = 1e-4
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up)

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    scheduler.step()
    ```

    The parts of one schedule are built one after the other on one optimizer:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=100)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], [100])

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    scheduler.step()
    ```

    ## How it is found

    In a recorded run: between the last rate that the scheduler before wrote and the next
    scheduler's construction the rate was changed, to one that `initial_lr` does not know.
    In both halves: the only scheduler of an optimizer is at its start, and every rate is
    already at its floor.

    ## Limits

    Rates that `optimizer.load_state_dict` brought in are left alone, and so is a scheduler
    beside others on the same optimizer.

    ## References

    - [torch.optim.lr_scheduler.LRScheduler](https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.LRScheduler.html)
    - [torch.optim.lr_scheduler.CosineAnnealingLR](https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.CosineAnnealingLR.html)
    """

    code = "FC309"
    name = "scheduler-recreated"
    severity = Severity.ERROR

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for scheduler in now.schedulers:
            if scheduler.optimizer is None or now.optimizers[scheduler.optimizer].idle:
                continue
            optimizer = now.optimizers[scheduler.optimizer]
            finding = self._overwritten(scheduler, optimizer, past)
            if finding is None and len(rates.driving(now, scheduler.optimizer)) == 1:
                finding = self._stuck(scheduler, optimizer, past)
            if finding is not None:
                yield finding

    def _overwritten(
        self, scheduler: Scheduler, optimizer: Optimizer, past: Timeline
    ) -> Finding | None:
        """Rates set by hand that the new scheduler replaced by the first one's."""
        event = past.last(SCHEDULER, scheduler.label)
        if event is None or scheduler.type not in _FROM_INITIAL or not event.data["last"]:
            return None
        if next(past.of(LOAD, optimizer.label), None) is not None:
            return None
        for before, last in zip(event.data["before"], event.data["last"]):
            hand, first = before["lr"], before["initial_lr"]
            if first is None or _near(hand, last) or _near(hand, first):
                continue
            return self.finding(
                f"{scheduler.type} starts from {first:g}, which an earlier scheduler left in the"
                f" groups of {optimizer.label} as initial_lr. The rate that was set in between,"
                f" {hand:g}, is overwritten.",
                site=scheduler.site,
                symbol=scheduler.label,
                notes=[Note("the optimizer was built here", optimizer.site)]
                if optimizer.site
                else (),
                fix='set group["initial_lr"] together with group["lr"], or build a new optimizer'
                " for the new phase",
                subject=(scheduler.label, optimizer.label),
            )
        return None

    def _stuck(self, scheduler: Scheduler, optimizer: Optimizer, past: Timeline) -> Finding | None:
        """A schedule that begins where the one before it ended."""
        if scheduler.type not in _FROM_LAST or scheduler.last_epoch > 1:
            return None
        event = past.last(SCHEDULER, scheduler.label)
        again = event and all(group["initial_lr"] is not None for group in event.data["before"])
        if not (again or (event is None and optimizer.stepped)):
            return None
        floor = scheduler.options.get("eta_min", 0.0)
        pairs = list(zip((group.lr for group in optimizer.groups), scheduler.base_lrs))
        live = [(lr, base) for lr, base in pairs if base > floor]
        if not live or any(lr - floor > 1e-6 * (base - floor) for lr, base in live):
            return None
        return self.finding(
            f"{scheduler.type} was built where an earlier schedule on {optimizer.label} had ended,"
            f" at {max(lr for lr, _ in live):g}. It computes each rate from the one before, so it"
            f" never comes back to {max(base for _, base in live):g}.",
            site=scheduler.site,
            symbol=scheduler.label,
            notes=[Note("the optimizer was built here", optimizer.site)] if optimizer.site else (),
            fix='set group["lr"] to the rate that the new schedule is to start from before you'
            " build it, or build a new optimizer",
            subject=(scheduler.label, optimizer.label),
        )


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=0.01)
