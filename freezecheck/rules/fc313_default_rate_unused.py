from __future__ import annotations

import math
from collections.abc import Iterator

from freezecheck import stated_rates
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import GROUP, World
from freezecheck.rule import Rule


class DefaultRateUnused(Rule):
    """Every group brings its own rate, so the constructor's applies to none of them.

    ## What it does

    Points out optimizers that are given a rate which no parameter gets, because each group
    names another one.

    ## Why it matters

    The `lr` of the constructor is for groups that name none. Where all of them do, it is
    without effect, and somebody may have meant it for a part of the model: often for the new
    head, which is in the same group as the slow backbone and learns as slowly.

    ## Bad

    ```python source
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    # The new head should learn at 1e-3.
    optimizer = torch.optim.Adam([{"params": model.parameters(), "lr": 1e-5}], lr=1e-3)  # <- FC313

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
    optimizer = torch.optim.Adam(
        [{"params": backbone, "lr": 1e-5}, {"params": model.fc.parameters()}], lr=1e-3
    )

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    From the text: the constructor names a rate, every group that it is given names one too,
    and none of them is the constructor's.

    ## Limits

    Nothing is said where a rate is not known, or where a group without a rate is added later.

    ## References

    - [torch.optim: per-parameter options](https://docs.pytorch.org/docs/stable/optim.html#per-parameter-options)
    """

    code = "FC313"
    name = "default-rate-unused"
    severity = Severity.INFO

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for optimizer in world.optimizers:
            built = optimizer.event
            if built is None or "lr" not in built.data["named"] or optimizer.site in told:
                continue
            default = stated_rates.number(optimizer.options.get("lr"))
            later = [e.data["group"] for e in world.of(GROUP, optimizer)]
            first = [group for group in optimizer.groups if group not in later]
            if default is None or not first or first[-1].open:
                continue
            if not all("lr" in group.options for group in (*first, *later)):
                continue
            given = [stated_rates.first(optimizer, g, world) for g in (*first, *later)]
            known = [rate for rate in given if rate is not None]
            if len(known) < len(given) or any(math.isclose(rate, default) for rate in known):
                continue
            use = next(world.uses(optimizer), None)
            told.add(optimizer.site)
            own = " and ".join(dict.fromkeys(f"{rate:g}" for rate in known))
            yield self.finding(
                f"No parameter learns at the constructor's rate of {default:g}: every group of"
                f" {optimizer.shown} brings its own ({own}).",
                site=optimizer.site,
                symbol=optimizer.shown,
                notes=[Note(f"{optimizer.shown} is first used here", use.site)] if use else (),
                fix="leave the rate out of the groups that are to learn at the constructor's, or"
                " out of the constructor",
                subject=optimizer.shown,
            )
