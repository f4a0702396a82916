from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.frozen import layers
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot
from freezecheck.timeline import Timeline


class CheckpointingDoublesBatchnormUpdates(Rule):
    """BatchNorm inside a checkpoint runs twice a step, and its statistics move twice as fast.

    ## What it does

    Points out BatchNorm layers in train mode whose forward is run again in the backward pass.

    ## Why it matters

    A checkpoint keeps no activations; it runs its part of the model a second time when the gradient
    comes by. To BatchNorm that is one more batch: the running mean and variance move twice for
    each step, with the same data. With momentum 0.1 the effect is that of 0.19, so that the
    statistics remember half as many batches and are noisier in evaluation.

    ## Bad

    ```python
    import torch, torchvision
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = torchvision.models.resnet18(weights="DEFAULT")

        def forward(self, x):
            return checkpoint(self.backbone, x, use_reentrant=False)

    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    model.train()  # <- FC410
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    Half of the way in each of the two runs:

    ```python
    import torch, torchvision
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = torchvision.models.resnet18(weights="DEFAULT")
            for m in self.backbone.modules():
                if isinstance(m, nn.BatchNorm2d):
                    m.momentum = 1 - (1 - m.momentum) ** 0.5

        def forward(self, x):
            return checkpoint(self.backbone, x, use_reentrant=False)

    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    model.train()
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    In a recorded run: the layer's forward is called while a backward pass is running.

    ## Limits

    Layers whose momentum is not the default of 0.1 are left alone: it may have been adapted.

    ## References

    - [torch.utils.checkpoint](https://docs.pytorch.org/docs/stable/checkpoint.html)
    - [torch.nn.BatchNorm2d](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html)
    """

    code = "FC410"
    name = "checkpointing-doubles-batchnorm-updates"
    severity = Severity.INFO

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for index, model in enumerate(now.models):
            twice = [
                n for n in now.norms if n.model == index and n.recomputed and n.updates_statistics
            ]
            if twice:
                yield self.finding(
                    f"Run twice in each step: {layers(now, twice)}. The checkpoint around them runs"
                    " its part again in the backward pass, and their running mean and variance move"
                    " twice.",
                    site=twice[0].site or now.built(index),
                    symbol=now.path(index, twice[0].path),
                    fix="set their momentum to 1 - (1 - momentum) ** 0.5, or keep them outside of"
                    " the checkpoint",
                    subject=model.label,
                )
