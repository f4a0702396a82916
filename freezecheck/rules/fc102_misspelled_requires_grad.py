from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot
from freezecheck.stray import claims
from freezecheck.timeline import Timeline


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

    ## How it is found

    The attribute is in the object's own dictionary, under one of the misspellings that
    occur in practice, and the real flags say otherwise. An option that a module's class
    itself keeps under such a name is passed over.

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
