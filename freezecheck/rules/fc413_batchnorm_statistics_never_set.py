from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Note, Severity
from freezecheck.frozen import layers
from freezecheck.rule import Rule
from freezecheck.snapshot import Norm, Snapshot
from freezecheck.timeline import LOAD, Event, Timeline


class BatchnormStatisticsNeverSet(Rule):
    """BatchNorm runs in eval mode on the statistics it was built with: no weights were loaded.

    ## What it does

    Finds norm layers in eval mode with mean 0, variance 1, untouched weight and bias and no batch
    tracked, in a frozen part, or in a model all of whose norm layers are so.

    ## Why it matters

    Eval mode is right for a layer whose statistics were learned elsewhere. Here they
    were not: the layer hands its input on as it is, and it will go on doing so. Most often a
    checkpoint was not loaded, or `strict=False` hid that none of its names matched.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    pretrained = torchvision.models.resnet18(weights="DEFAULT").state_dict()
    checkpoint = {f"module.{name}": tensor for name, tensor in pretrained.items()}

    model = torchvision.models.resnet18()
    model.load_state_dict(checkpoint, strict=False)  # <- FC413
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    model.eval()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    pretrained = torchvision.models.resnet18(weights="DEFAULT").state_dict()
    checkpoint = {f"module.{name}": tensor for name, tensor in pretrained.items()}

    model = torchvision.models.resnet18()
    model.load_state_dict({k.removeprefix("module."): v for k, v in checkpoint.items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    model.eval()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    A new head with a BatchNorm of its own, in a model that trains in eval mode on purpose:

    ```python
    import torch, torchvision
    from torch import nn

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.requires_grad_(False)
    model.fc = nn.Sequential(nn.Linear(512, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 5))
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)
    model.eval()
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    From the first few values of each layer in eval mode. Weight and bias are looked at too,
    since weights converted from Caffe carry their statistics in these.

    ## Limits

    Before the first backward, and outside a recorded run, only frozen layers are judged: a
    new model may be in eval mode for a moment. Nothing is said without an optimizer, nor
    of a run in which `--no-weights` left weights out.

    ## References

    - [torch.nn.BatchNorm2d](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html)
    - [torch.nn.Module.load_state_dict, `strict`](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.load_state_dict)
    """

    code = "FC413"
    name = "batchnorm-statistics-never-set"
    severity = Severity.WARNING
    needs_weights = True

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        fresh = [n for n in now.norms if n.fresh]
        if not fresh or not now.optimizers:
            return
        frozen = {id(n) for n in now.frozen_norms}
        for index in range(len(now.models)):
            mine = [n for n in fresh if n.model == index]
            if not (self._all(now, index) and now.forwarded):
                mine = [n for n in mine if id(n) in frozen]
            if mine:
                yield self._finding(now, past, index, mine)

    def _all(self, now: Snapshot, model: int) -> bool:
        """Every norm layer with statistics is as it was built."""
        return all(n.fresh for n in now.norms if n.model == model and n.has_stats)

    def _finding(self, now: Snapshot, past: Timeline, index: int, norms: list[Norm]) -> Finding:
        load = _load(now, past, index)
        notes = []
        if load:
            given, unexpected = load.data["given"], load.data["unexpected"]
            notes.append(
                Note(f"of {given} tensors given here, {given - unexpected} were taken", load.site)
            )
        if norms[0].site:
            notes.append(Note("put in eval mode here", norms[0].site))
        return self.finding(
            f"In eval mode with the statistics they were built with (mean 0, variance 1, no batch"
            f" seen): {layers(now, norms)}. They normalise nothing.",
            site=load.site if load else norms[0].site or now.built(index),
            symbol=now.path(index, norms[0].path),
            notes=notes,
            fix="load the pretrained weights, and look at what load_state_dict() reports as"
            " missing; or train these layers in train mode first",
            subject=now.models[index].label,
        )


def _load(now: Snapshot, past: Timeline, index: int) -> Event | None:
    """The last load of this model's weights in which something did not fit."""
    for event in reversed(list(past.of(LOAD, now.path(index, "")))):
        if event.value == "model" and event.data["unexpected"]:
            return event
    return None
