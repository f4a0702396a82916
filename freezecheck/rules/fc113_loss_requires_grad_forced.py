from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from freezecheck.finding import Finding, Severity
from freezecheck.program import ATTRIBUTE, BACKWARD, Event, World
from freezecheck.rule import Rule

_FORCED = {
    "requires_grad_()": "requires_grad_(True) on the loss",
    "requires_grad": "requires_grad = True on the loss",
    "Variable": "Variable(loss, requires_grad=True)",
}


class LossRequiresGradForced(Rule):
    """The loss is made to require grad: backward then succeeds, and reaches nothing.

    ## What it does

    Finds `loss.requires_grad_(True)`, `loss.requires_grad = True` and
    `Variable(loss, requires_grad=True)`.

    ## Why it matters

    A loss that was computed from trainable parameters requires grad by itself. Where
    `backward()` fails with "element 0 of tensors does not require grad", the graph was cut
    on the way: by `no_grad`, `detach`, `.item()`, or because everything is frozen. Forcing
    the flag silences the error and mends nothing: no parameter gets a gradient, and every
    step leaves every weight as it is. `Variable(...)` even cuts a graph that was whole.

    ## Bad

    ```python source
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    for images, labels in loader:
        with torch.no_grad():
            output = model(images)
        loss = F.cross_entropy(output, labels)
        loss.requires_grad_(True)  # <- FC113
        loss.backward()  # <- FC114
        optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)
    model.eval()

    with torch.no_grad():
        features = torch.nn.Sequential(*list(model.children())[:-1])(torch.randn(4, 3, 32, 32))
    loss = F.cross_entropy(model.fc(features.flatten(1)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    An input may require grad, for attributions or adversarial examples:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    image = torch.randn(1, 3, 64, 64)
    image.requires_grad_(True)
    loss = F.cross_entropy(model(image), torch.tensor([3]))
    loss.backward()
    saliency = image.grad.abs().amax(1)
    ```

    ## How it is found

    From the text: the flag of what a loss function gives, or of what `backward()` is called
    on, is set to True. Where the loss requires grad without that, the line is without
    effect so far, and it is a warning. A `detach()` of a loss on which `backward()` was
    called before is meant so.

    ## Limits

    A loss that reaches `backward()` by way of other functions is recognised only if a loss
    function of torch made it.

    ## References

    - [torch.autograd: setting requires_grad](https://docs.pytorch.org/docs/stable/notes/autograd.html#setting-requires-grad)
    """

    code = "FC113"
    name = "loss-requires-grad-forced"
    severity = Severity.ERROR

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for event in world.of(ATTRIBUTE):
            how = event.data["attribute"]
            if how not in _FORCED or event.value is not True or event.site in told:
                continue
            if not _is_loss(world, event) or _is_spent(world, event):
                continue
            told.add(event.site)
            whole = event.data.get("before") is True and how != "Variable"
            yield self.finding(
                f"{_FORCED[how]} does not connect it to the model: "
                + (
                    "it has a graph now; where it has none, this hides the error."
                    if whole
                    else "where its graph was cut, backward() now succeeds and gives no parameter"
                    " a gradient."
                ),
                site=event.site,
                fix="remove the line; if backward() then fails, find out where the graph is cut",
                severity=Severity.WARNING if whole else None,
                subject=_models(event.subject),
            )


def _is_loss(world: World, event: Event) -> bool:
    if getattr(event.subject, "loss", False):
        return True
    same = {_identity(event.subject), _identity(event.data.get("result"))} - {None}
    return any(_identity(later.data.get("of")) in same for later in world.since(event, BACKWARD))


def _is_spent(world: World, event: Event) -> bool:
    """It is a copy on purpose, behind a backward that was called: gradients are kept by hand."""
    return getattr(event.subject, "copy", "") == "detach" and any(
        e.index < event.index
        and _is_around(event.stack, e.stack)
        and _is_around(event.loops, e.loops)
        for e in world.of(BACKWARD)
    )


def _is_around(outer: tuple[Any, ...], inner: tuple[Any, ...]) -> bool:
    return inner[: len(outer)] == outer


def _identity(value: Any) -> object:
    """What tells one value from another; an unknown one has a key."""
    return None if value is None else getattr(value, "key", id(value))


def _models(tensor: Any) -> tuple[str, ...]:
    """The labels of the models that it came out of."""
    return tuple(dict.fromkeys(module.root.shown for module in getattr(tensor, "through", ())))
