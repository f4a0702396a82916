from __future__ import annotations

from collections.abc import Iterator

from freezecheck import rates, stated_rates
from freezecheck.account import names
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import RATE, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot, count
from freezecheck.timeline import Timeline


class ZeroRateAsFreeze(Rule):
    """A group of trainable parameters is held still by a rate of 0.

    ## What it does

    Points out groups at `lr=0`, now and for the whole schedule, beside groups that learn.

    ## Why it matters

    The weights do stay. But gradients are computed and moments are kept for them, the
    BatchNorm statistics among them go on moving, and the first scheduler that writes its
    own rates (`OneCycleLR`, `CyclicLR`, a cosine with `eta_min`) sets them free.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    backbone = [p for name, p in model.named_parameters() if not name.startswith("fc.")]
    optimizer = torch.optim.AdamW(  # <- FC312
        [
            {"params": backbone, "lr": 0.0},
            {"params": model.fc.parameters(), "lr": 1e-3},
        ]
    )

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    A warm-up that begins at 0 is no freeze:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 100))

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    scheduler.step()
    ```

    ## How it is found

    A group has a rate of exactly 0 and holds trainable parameters, another one has not.
    With a scheduler, its peak must be 0 as well; where the schedule cannot be foreseen,
    nothing is said.

    From the text: the rate is written as 0, no line assigns rates later, and every scheduler is of
    a kind that multiplies.

    ## Limits

    A schedule by hand that starts one group later than the others looks the same.

    ## References

    - [torch.optim: per-parameter options](https://docs.pytorch.org/docs/stable/optim.html#per-parameter-options)
    """

    code = "FC312"
    name = "zero-rate-as-freeze"
    severity = Severity.INFO

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for index, optimizer in enumerate(now.optimizers):
            still = [j for j, g in enumerate(optimizer.groups) if g.options.get("lr") == 0]
            if not still or len(still) == len(optimizer.groups) or optimizer.idle:
                continue
            for j in still:
                if self._stays(now, index, j):
                    yield from self._judge(now, index, j)

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for optimizer in world.optimizers:
            use = stated_rates.first_use(world, optimizer)
            if use is None or any(world.of(RATE, optimizer)):
                continue
            tops = [stated_rates.top(world, optimizer, g, use) for g in optimizer.groups]
            for j, (group, top) in enumerate(zip(optimizer.groups, tops)):
                learning = [param for param in group.params if param.trains(use.index) is True]
                alone = not any(other is not None and other > 0 for other in tops)
                if top != 0 or alone or not learning or group.site in told:
                    continue
                told.add(group.site)
                yield self.finding(
                    f"param_groups[{j}] of {optimizer.shown} holds trainable parameters"
                    f" ({names(learning)}) at a rate of 0. They stay, but gradients are computed"
                    " and state is kept for them, and a scheduler that sets rates of its own would"
                    " set them free.",
                    site=group.site or optimizer.site,
                    symbol=f"{optimizer.shown}.param_groups[{j}]",
                    notes=[Note(f"{optimizer.shown} is first used here", use.site)],
                    fix="freeze them with requires_grad_(False) and leave them out of the optimizer",
                    subject=optimizer.shown,
                )

    def _stays(self, now: Snapshot, index: int, group: int) -> bool:
        """Nothing will raise the rate."""
        schedulers = rates.driving(now, index)
        if schedulers:
            return all(s.peaks[group : group + 1] == (0.0,) for s in schedulers)
        # A scheduler that was not given leaves the rate of its base behind.
        return not now.optimizers[index].groups[group].options.get("initial_lr")

    def _judge(self, now: Snapshot, index: int, group: int) -> Iterator[Finding]:
        held = [p for p in now.by_group[index, group] if p.trainable]
        if not held:
            return
        optimizer = now.optimizers[index]
        size = sum(p.numel for p in held)
        yield self.finding(
            f"param_groups[{group}] of {optimizer.label} holds {count(len(held), 'trainable tensor')}"
            f" ({size:,} parameters) at a rate of 0. They stay, but gradients are computed and"
            " state is kept for them, and a scheduler that sets rates of its own would set"
            " them free.",
            site=optimizer.groups[group].site or optimizer.site,
            symbol=f"{optimizer.label}.param_groups[{group}]",
            fix="freeze them with requires_grad_(False) and leave them out of the optimizer",
            subject=optimizer.label,
        )
