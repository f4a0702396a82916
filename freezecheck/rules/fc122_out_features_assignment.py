from __future__ import annotations

import re
from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.program import ATTRIBUTE, Event, Module, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot
from freezecheck.timeline import Timeline

_LAYERS = {"out_features": r"torch\.nn\.Linear", "out_channels": r"torch\.nn\.Conv[123]d"}


class OutFeaturesAssignment(Rule):
    """A layer's `out_features` was set to another number than its weight has.

    ## What it does

    Finds linear layers and convolutions whose `out_features` or `out_channels` is not the
    number of outputs of their weight.

    ## Why it matters

    The number is a label: it is printed, and nothing computes with it. The layer still has its
    1000 outputs, and a model that `print` shows with 5 classes predicts any of 1000.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc.out_features = 5  # <- FC122
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    model.eval()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    Some rows of the old layer are kept, and the number follows the weight:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc.weight = torch.nn.Parameter(model.fc.weight.detach()[:5].clone())
    model.fc.bias = torch.nn.Parameter(model.fc.bias.detach()[:5].clone())
    model.fc.out_features = 5
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    model.eval()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    By comparing the number with the first dimension of the weight. In a text: the number of
    a layer of a known model is set, and its weight is not.

    ## Limits

    Layers whose weight is no plain parameter (quantised, sharded, computed from others) are
    left alone.

    ## References

    - [torch.nn.Linear](https://docs.pytorch.org/docs/stable/generated/torch.nn.Linear.html)
    """

    code = "FC122"
    name = "out-features-assignment"
    severity = Severity.ERROR

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for label in now.labels:
            path = now.path(label.model, label.path)
            event = past.assigned(path, label.attribute)
            yield self.finding(
                f"{path}.{label.attribute} says {label.claimed:,}, but the layer's weight makes"
                f" {label.real:,} outputs. The number is a label only; nothing computes with it.",
                site=event.site if event else now.built(label.model),
                symbol=f"{path}.{label.attribute}",
                fix=f"replace the layer by a new one with {label.claimed:,} outputs",
                subject=now.models[label.model].label,
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for event in world.of(ATTRIBUTE):
            layer, attribute = event.subject, event.data["attribute"]
            if attribute not in _LAYERS or event.site in told or not isinstance(layer, Module):
                continue
            if not re.fullmatch(_LAYERS[attribute], layer.type) or _has_new_weight(world, event):
                continue
            told.add(event.site)
            path = f"{layer.shown}.{attribute}"
            number = f"{event.value:,} " if isinstance(event.value, int) else ""
            yield self.finding(
                f"{path} is set, and the layer's weight stays as it was made. The number is a"
                " label only; nothing computes with it.",
                site=event.site,
                symbol=path,
                fix=f"replace the layer by a new one with {number}outputs",
                subject=layer.root.shown,
            )


def _has_new_weight(world: World, event: Event) -> bool:
    """Its weight is set too, before or after; or it says what the layer had from the start."""
    layer = event.subject
    if event.value == event.data.get("before") or layer.cls is not None or layer.escaped:
        return True
    weights = [*layer.params.values(), *(p for e in world.of(ATTRIBUTE, layer) for p in e.params)]
    return any(
        other.data["attribute"] == ("weight" if other.subject is layer else "data")
        for other in world.of(ATTRIBUTE)
        if other.subject is layer or other.subject in weights
    )
