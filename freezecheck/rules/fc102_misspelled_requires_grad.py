from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from freezecheck.finding import Finding, Severity
from freezecheck.misplaced import MISSPELLINGS
from freezecheck.misplaced import claims as claims_in
from freezecheck.program import Event, Module, Param, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot
from freezecheck.stray import claims
from freezecheck.timeline import Timeline

# What people call a tensor or a layer.
_TENSOR = re.compile(
    r"(?:^|[._])(?:p|params?|parameters?|weights?|bias|layer|child|module|tensor)$"
)


class MisspelledRequiresGrad(Rule):
    """A misspelt `requires_grad` is stored and read by no one.

    ## What it does

    Finds parameters and modules with an attribute such as `require_grad` or
    `requires_grads` whose claim the real flags contradict.

    ## Why it matters

    Tensors take any attribute, so the wrong name raises nothing. The flag that autograd
    and the optimizer look at stays as it was.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for param in model.parameters():
        param.require_grad = False  # <- FC102
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
        param.requires_grad = False
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.Adam(model.fc.parameters(), lr=1e-3)
    model.eval()

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    An option of one's own may be called what one likes:

    ```python
    import argparse

    import torch
    from torch import nn

    class Perceptual(nn.Module):
        def __init__(self, requires_grads=False):
            super().__init__()
            self.body = nn.Linear(8, 8)
            self.requires_grads = requires_grads
            self.body.requires_grad_(requires_grads)

        def forward(self, x):
            return self.body(x)

    parser = argparse.ArgumentParser()
    parser.add_argument("--requires_grads", action="store_true")
    args = parser.parse_args([])
    args.requires_grads = True
    model = Perceptual(requires_grads=args.requires_grads)
    ```

    ## How it is found

    The attribute is in the object's own dictionary, under one of the misspellings that
    occur in practice, and the real flags say otherwise. An option that a module's class
    itself keeps under such a name is passed over. In a text, an assignment of True or
    False to a module or a parameter; or, where that is not known, to what is called one
    (`p`, `param`, `layer`, `x.weight`).

    ## Limits

    Only known misspellings are looked for.

    ## References

    - [torch.Tensor.requires_grad](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.requires_grad.html)
    """

    code = "FC102"
    name = "misspelled-requires-grad"
    severity = Severity.ERROR
    explains = ("FC110", "FC114", "FC120", "FC203", "FC212", "FC301")

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.strays:
            return
        right = ("requires_grad", "requires_grad_")
        for claim in claims(now, past, lambda stray: stray.attribute not in right):
            module = claim.on == "module"
            yield self.finding(
                f"{claim.words(now)}. The flag is called requires_grad, so nothing happened:"
                f" {claim.truth()}.",
                site=claim.site,
                symbol=claim.symbol(now),
                fix=f"call .requires_grad_({claim.flag}) on the module"
                if module
                else f"write .requires_grad = {claim.flag}",
                subject=now.models[claim.model].label,
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        for claim in claims_in(world, _misspelt):
            module = isinstance(claim.subjects[0], Module)
            flag = "..." if claim.flag is None else claim.flag
            yield self.finding(
                f"{claim.words()}. The flag is called requires_grad, so nothing happens.",
                site=claim.site,
                symbol=claim.symbol,
                fix=f"call .requires_grad_({flag}) on the module"
                if module
                else f"write .requires_grad = {flag}",
                subject=claim.labels,
            )


def _misspelt(event: Event, subject: Any) -> bool:
    """On something that has the flag, or is surely meant to have it."""
    if event.data["attribute"] not in MISSPELLINGS:
        return False
    if isinstance(subject, (Module, Param)):
        return True
    return isinstance(event.value, bool) and bool(_TENSOR.search(event.data.get("on", "")))
