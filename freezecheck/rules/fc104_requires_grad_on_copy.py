from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from freezecheck.finding import Finding, Severity
from freezecheck.misplaced import claims
from freezecheck.program import Event, World
from freezecheck.rule import Rule

_COPIES = {
    "data": ".data makes a new tensor",
    "detach": ".detach() makes a new tensor",
    "state_dict": "a state_dict() holds detached tensors",
}


class RequiresGradOnCopy(Rule):
    """The flag is set on a copy of the parameter, which is thrown away.

    ## What it does

    Finds `requires_grad` set on `param.data`, on `param.detach()` and on the values of
    `model.state_dict()`.

    ## Why it matters

    Each of these is a new tensor that shares the parameter's numbers and not its flag. The
    parameter itself stays as it was: what was to be frozen trains on.

    ## Bad

    ```python source
    import torch, torchvision

    model = torchvision.models.resnet18(weights="DEFAULT")
    for param in model.parameters():
        param.data.requires_grad = False  # <- FC104
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    ```

    ```python source
    import torch, torchvision

    model = torchvision.models.resnet18(weights="DEFAULT")
    for name, value in model.state_dict().items():
        if "layer4" not in name:
            value.requires_grad = False  # <- FC104
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
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

    A copy that is kept and trained in place of the parameter:

    ```python
    import torch

    model = torch.nn.Linear(8, 2)
    masters = [param.detach().clone().float() for param in model.parameters()]
    for master in masters:
        master.requires_grad = True
    optimizer = torch.optim.SGD(masters, lr=0.1)
    weight = model.weight.detach().requires_grad_(True)
    torch.nn.functional.linear(torch.randn(4, 8), weight).sum().backward()
    ```

    ## How it is found

    From the text: what the flag is set on is such a copy of a parameter of a known module,
    and nothing else holds it. A copy that has a name is passed over, except for values of a
    `state_dict()` whose flag is set to False, which it is anyway.

    ## Limits

    Where the flag is as claimed, or a later line sets it on the parameter, nothing is said.

    ## References

    - [torch.Tensor.detach](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.detach.html)
    - [nn.Module.state_dict](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.state_dict)
    """

    code = "FC104"
    name = "requires-grad-on-copy"
    severity = Severity.ERROR
    explains = ("FC110", "FC114", "FC120", "FC203", "FC212", "FC301")

    def in_source(self, world: World) -> Iterator[Finding]:
        for claim in claims(world, _on_copy):
            how = _COPIES[claim.subjects[0].copy]
            flag = "..." if claim.flag is None else claim.flag
            yield self.finding(
                f"requires_grad is set on a copy: {how}, and the flag of the parameter stays as"
                " it is.",
                site=claim.site,
                symbol=claim.symbol,
                fix=f"set it on the parameter itself: param.requires_grad = {flag}",
                subject=claim.labels,
            )


def _on_copy(event: Event, subject: Any) -> bool:
    copy = getattr(subject, "copy", "")
    if event.data["attribute"] not in ("requires_grad", "requires_grad_()") or not copy:
        return False
    if copy == "state_dict" and event.value is False:
        return True
    return copy in _COPIES and bool(event.data.get("passing"))
