from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.misplaced import claims as claims_in
from freezecheck.program import World
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot
from freezecheck.stray import claims
from freezecheck.timeline import Timeline


class RequiresGradMethodOverwritten(Rule):
    """Assigning to `requires_grad_` hides the method and changes no flag.

    ## What it does

    Finds modules and parameters on which `requires_grad_` is a plain value.

    ## Why it matters

    `requires_grad_` is a method, to be called. `x.requires_grad_ = False` puts a value in
    its place on this one object; the flags stay as they were, and a later
    `x.requires_grad_(True)` fails with "'bool' object is not callable".

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for param in model.parameters():
        param.requires_grad_ = False  # <- FC103
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for param in model.parameters():
        param.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.Adam(model.fc.parameters(), lr=1e-3)
    model.eval()

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    The value is in the object's own dictionary, and the real flags say otherwise. In a text,
    from the assignment: nothing but modules and tensors has a method of this name.

    ## Limits

    Where the flags happen to be as claimed, only the method is lost; this is passed over.

    ## References

    - [torch.Tensor.requires_grad_](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.requires_grad_.html)
    """

    code = "FC103"
    name = "requires-grad-method-overwritten"
    severity = Severity.ERROR
    explains = ("FC110", "FC114", "FC120", "FC203", "FC212", "FC301")

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.strays:
            return
        for claim in claims(now, past, lambda stray: stray.attribute == "requires_grad_"):
            yield self.finding(
                f"{claim.words(now)}. This hides the method requires_grad_() and calls nothing:"
                f" {claim.truth()}.",
                site=claim.site,
                symbol=claim.symbol(now),
                fix=f"call it: .requires_grad_({claim.flag})",
                subject=now.models[claim.model].label,
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        for claim in claims_in(world, lambda e, _: e.data["attribute"] == "requires_grad_"):
            if claim.flag is None:
                continue  # a function: the method is replaced on purpose
            yield self.finding(
                f"{claim.words()}. This hides the method requires_grad_() and calls nothing.",
                site=claim.site,
                symbol=claim.symbol,
                fix=f"call it: .requires_grad_({claim.flag})",
                subject=claim.labels,
            )
