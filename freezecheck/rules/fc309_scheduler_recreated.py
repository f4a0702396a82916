from __future__ import annotations

import math
from collections.abc import Iterator

from freezecheck import rates, stated_rates
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import LOAD as LOADED
from freezecheck.program import RATE, World
from freezecheck.program import Optimizer as Built
from freezecheck.program import Scheduler as Schedule
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

    From the text: a known rate is assigned between two schedulers on one optimizer, without its
    `initial_lr`; or the first cosine is stepped exactly `T_max` times before the second is built.

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

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for scheduler in world.schedulers:
            optimizer, built = scheduler.optimizer, scheduler.event
            if optimizer is None or built is None or scheduler.site in told:
                continue
            earlier = [
                s for s in world.schedulers if s.optimizer is optimizer and s is not scheduler
            ]
            earlier = [s for s in earlier if s.event and s.event.index < built.index]
            loaded = any(e.index < built.index for e in world.of(LOADED, optimizer))
            if not earlier or loaded or optimizer.escaped:
                continue
            found = self._by_hand(world, scheduler, earlier[0], optimizer)
            if found is None and len(earlier) == 1:
                found = self._ended(world, scheduler, earlier[0], optimizer)
            if found is not None:
                told.add(scheduler.site)
                yield found

    def _by_hand(
        self, world: World, scheduler: Schedule, first: Schedule, optimizer: Built
    ) -> Finding | None:
        """A rate that is set between the two, and replaced by the first one's."""
        kind = stated_rates.short(scheduler)
        one, two = first.event, scheduler.event
        if one is None or two is None:
            return None
        if kind not in _FROM_INITIAL and not kind.startswith("get_"):
            return None
        sets = [e for e in world.of(RATE, optimizer) if one.index < e.index < two.index]
        if any(e.data["option"] == "initial_lr" for e in sets):
            return None
        for event in reversed([e for e in sets if e.data["option"] == "lr"]):
            group, hand = event.data["group"], stated_rates.number(event.value)
            start = stated_rates.first(optimizer, group, world)
            known = optimizer.groups[: one.data["groups"]]
            if hand is None or start is None or _near(hand, start) or group not in known:
                continue
            return self.finding(
                f"{kind} starts from {start:g}, which an earlier scheduler left in the groups of"
                f" {optimizer.shown} as initial_lr. The rate that is set in between, {hand:g}, is"
                " overwritten.",
                site=scheduler.site,
                symbol=scheduler.label,
                notes=[
                    Note("the earlier scheduler is built here", first.site),
                    Note(f"{hand:g} is set here", event.site),
                ],
                fix='set group["initial_lr"] together with group["lr"], or build a new optimizer'
                " for the new phase",
                subject=(scheduler.label, optimizer.shown),
            )
        return None

    def _ended(
        self, world: World, scheduler: Schedule, first: Schedule, optimizer: Built
    ) -> Finding | None:
        """A cosine that begins where the one before it ended."""
        built = scheduler.event
        kinds = {stated_rates.short(s) for s in (scheduler, first)}
        end, floor = first.options.get("T_max"), first.options.get("eta_min")
        if built is None or kinds != {"CosineAnnealingLR"} or not isinstance(end, int):
            return None
        if floor != scheduler.options.get("eta_min") or stated_rates.number(floor) is None:
            return None
        if any(e.index < built.index for e in world.of(RATE, optimizer)):
            return None
        if stated_rates.times(world, first.steps, first.event, built) != end:
            return None
        return self.finding(
            f"CosineAnnealingLR is built where an earlier schedule on {optimizer.shown} has ended,"
            f" at {floor:g}. It computes each rate from the one before, so it never comes back.",
            site=scheduler.site,
            symbol=scheduler.label,
            notes=[
                Note("the earlier scheduler is built here", first.site),
                Note("its last step is taken here", first.steps[-1].site),
            ],
            fix='set group["lr"] to the rate that the new schedule is to start from before you'
            " build it, or build a new optimizer",
            subject=(scheduler.label, optimizer.shown),
        )

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
