from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from freezecheck.finding import Finding, Severity
from freezecheck.misplaced import claims as claims_in
from freezecheck.program import Event, Module, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot
from freezecheck.stray import claims
from freezecheck.timeline import Timeline


class ModuleRequiresGradAssignment(Rule):
    """Setting `requires_grad` on a module freezes and unfreezes nothing.

    ## What it does

    Finds modules with an attribute `requires_grad` that their parameters contradict.

    ## Why it matters

    Only tensors have this flag. On an `nn.Module` the assignment makes a new, plain
    attribute that nobody reads, without a word of warning. The layers that were to be
    frozen go on training, or those that were to train stay frozen.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for p in model.parameters():
        p.requires_grad = False
    model.layer4.requires_grad = True  # <- FC101
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.eval()

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    A loop variable called `param` makes no parameter of a layer:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for param in model.children():
        param.requires_grad = False  # <- FC101
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.requires_grad_(False)
    model.layer4.requires_grad_(True)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.eval()

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    A module may keep an option of its own under this name:

    ```python
    import torch
    from torch import nn

    class Features(nn.Module):
        def __init__(self, requires_grad):
            super().__init__()
            self.body = nn.Linear(8, 8)
            self.requires_grad = requires_grad
            if not requires_grad:
                for p in self.parameters():
                    p.requires_grad = False

        def forward(self, x):
            return self.body(x)

    model = nn.Sequential(Features(requires_grad=False), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.01)
    nn.functional.mse_loss(model(torch.randn(4, 8)), torch.randn(4, 2)).backward()
    optimizer.step()
    ```

    ## How it is found

    The attribute is in the module's own dictionary, and the flags of the parameters below
    it say otherwise. An option that the class itself keeps is passed over. In a recorded
    run the line that set it is known, and a later write of the real flags makes it good.

    In a text, what is assigned to must be a module for certain: one that is built there,
    what `modules()` or `children()` gives, or what is used as a model elsewhere in it. Of
    what may as well be a tensor nothing is said.

    ## Limits

    Without a recording, a module some of whose parameters are as claimed is passed over.

    ## References

    - [nn.Module.requires_grad_](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.requires_grad_)
    """

    code = "FC101"
    name = "module-requires-grad-assignment"
    severity = Severity.ERROR
    explains = ("FC110", "FC114", "FC120", "FC203", "FC212", "FC301")

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.strays:
            return
        for claim in claims(now, past, lambda stray: stray.attribute == "requires_grad"):
            yield self.finding(
                f"{claim.words(now)}. A module has no such flag, so nothing happened:"
                f" {claim.truth()}.",
                site=claim.site,
                symbol=claim.symbol(now),
                fix=f"call .requires_grad_({claim.flag}) on the module",
                subject=now.models[claim.model].label,
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        for claim in claims_in(world, _on_module):
            flag = "..." if claim.flag is None else claim.flag
            yield self.finding(
                f"{claim.words()}. A module has no such flag, so nothing happens.",
                site=claim.site,
                symbol=claim.symbol,
                fix=f"call .requires_grad_({flag}) on the module",
                subject=claim.labels,
            )


def _on_module(event: Event, subject: Any) -> bool:
    return isinstance(subject, Module) and event.data["attribute"] == "requires_grad"
