from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.frozen import copies
from freezecheck.rule import Rule
from freezecheck.snapshot import Dropout, Snapshot, count, summarise
from freezecheck.timeline import Timeline


class FrozenPartStochastic(Rule):
    """Dropout is active in a part of the model that is frozen.

    ## What it does

    Finds dropout and stochastic-depth layers with p > 0 in train mode, inside a frozen part
    at the beginning of the model.

    ## Why it matters

    Dropout regularises the weights that learn. Where none do, it only adds noise to the
    features: the head sees different ones for the same input at every epoch, and others again
    in evaluation. Features that could be computed once cannot be cached.

    ## Bad

    ```python
    import torch
    from torch import nn

    encoder = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 64))
    head = nn.Sequential(nn.ReLU(), nn.Linear(64, 5))
    model = nn.Sequential(encoder, head)
    encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)

    model.train()  # <- FC409
    loss = nn.functional.cross_entropy(model(torch.randn(8, 32)), torch.arange(8) % 5)
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch
    from torch import nn

    encoder = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 64))
    head = nn.Sequential(nn.ReLU(), nn.Linear(64, 5))
    model = nn.Sequential(encoder, head)
    encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)

    model.train()
    encoder.eval()
    loss = nn.functional.cross_entropy(model(torch.randn(8, 32)), torch.arange(8) % 5)
    loss.backward()
    optimizer.step()
    ```

    Dropout before a new head regularises that head:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.squeezenet1_1(weights="DEFAULT")
    model.features.requires_grad_(False)
    model.classifier[1] = torch.nn.Conv2d(512, 5, kernel_size=1)
    optimizer = torch.optim.AdamW(model.classifier.parameters(), lr=1e-3)
    model.train()
    loss = F.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    By stage: every parameter of its stage, and of all stages before it, is frozen. A
    dropout between two stages belongs to the one that it feeds.

    ## Limits

    Dropout in a frozen part behind something that trains (a prompt, an adapter, a first layer)
    is left alone, since gradients pass through it; so are models of PEFT, and a frozen copy of
    a part that trains (a momentum encoder). Dropout that is
    a function call, and power iterations of a spectral norm, are not seen.

    ## References

    - [torch.nn.Dropout](https://docs.pytorch.org/docs/stable/generated/torch.nn.Dropout.html)
    """

    code = "FC409"
    name = "frozen-part-stochastic"
    severity = Severity.INFO

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        active = [d for d in now.dropouts if d.training and d.p > 0]
        if not active or not now.frozen or not now.trainable:
            return
        for index, model in enumerate(now.models):
            mine = [d for d in active if d.model == index]
            if not mine or "peft" in model.frameworks:
                continue
            frozen = self._frozen_stages(now, index)
            noisy = [d for d in mine if d.stage < frozen]
            if noisy:
                besides = copies(now, index)
                noisy = [d for d in noisy if not d.path.startswith(besides)]
            if noisy:
                yield self._noisy(now, past, index, noisy)

    def _frozen_stages(self, now: Snapshot, model: int) -> int:
        """How many stages, from the first on, are frozen; 0 where nothing trains after them."""
        for stage in range(len(now.models[model].stages)):
            params = now.by_stage[model, stage]
            if any(p.trainable or p.grad is not None for p in params):
                return stage
        return 0

    def _noisy(self, now: Snapshot, past: Timeline, index: int, noisy: list[Dropout]) -> Finding:
        model = now.models[index]
        train = [e for e in past.modes(now.path(index, noisy[0].path)) if e.value]
        return self.finding(
            f"{count(len(noisy), 'dropout layer')} active in the frozen part of {model.label}:"
            f" {summarise([d.path for d in noisy])}. The features that it gives are noisy, and"
            " nothing in it learns.",
            site=train[-1].site if train else now.built(index),
            symbol=now.path(index, noisy[0].path),
            fix="put the frozen part in eval mode after model.train()",
            subject=model.label,
        )
