from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Note, Severity
from freezecheck.frozen import copies
from freezecheck.rule import Rule
from freezecheck.snapshot import Param, Snapshot, count
from freezecheck.timeline import LOAD, Event, Timeline


class FrozenRandomBackbone(Rule):
    """The frozen backbone has never been trained: a head learns on random features.

    ## What it does

    Finds models whose backbone is frozen, whose head is in the optimizer, and whose norm
    layers all have the weights and biases they were built with.

    ## Why it matters

    `weights=None` is torchvision's default, and `load_state_dict(..., strict=False)` is silent
    where none of a checkpoint's names match. The backbone then stays as it was drawn at
    random, for ever, and the head does what it can. The loss falls and the accuracy is
    poor, as with a hard data set.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18()
    for p in model.parameters():
        p.requires_grad = False  # <- FC119
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)

    model.eval()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    A checkpoint that was saved from a wrapped model:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    pretrained = torch.nn.DataParallel(torchvision.models.resnet18(weights="DEFAULT"))
    checkpoint = pretrained.state_dict()

    model = torchvision.models.resnet18()
    model.load_state_dict(checkpoint, strict=False)  # <- FC119
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)

    model.eval()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    pretrained = torch.nn.DataParallel(torchvision.models.resnet18(weights="DEFAULT"))
    checkpoint = pretrained.state_dict()

    model = torchvision.models.resnet18()
    model.load_state_dict({k.removeprefix("module."): v for k, v in checkpoint.items()})
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)

    model.eval()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    From scratch, with everything trainable:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(num_classes=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    The weights of norm layers start at exactly 1 and their biases at 0, and the first steps
    of any training move them for ever. A few values of a few layers are looked at.

    ## Limits

    A backbone without norm layers that have weights cannot be judged, and nothing is said. A
    frozen stem alone, or a smaller part of the model, may be random on purpose, and a stage
    with adapters in it is not frozen. Before the first backward it is a warning: weights
    may still be loaded.

    ## References

    - [torchvision: models and pretrained weights](https://docs.pytorch.org/vision/stable/models.html)
    - [torch.nn.Module.load_state_dict, `strict`](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.load_state_dict)
    """

    code = "FC119"
    name = "frozen-random-backbone"
    severity = Severity.ERROR
    explains = ("FC401", "FC402", "FC406", "FC413")

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.frozen or not now.optimizers:
            return
        for index, model in enumerate(now.models):
            if model.pretrained is not False or not self._trains_head(now, index):
                continue
            frozen = self._frozen_backbone(now, index)
            if not frozen:
                continue
            names = [now.path(index, p.name) for p in frozen]
            load, flag = _unmatched(now, past, index), past.written(names, False)
            yield self.finding(
                f"The frozen part of {model.label} was never trained:"
                f" {count(len(frozen), 'tensor')} ({sum(p.numel for p in frozen):,} parameters)"
                " stay as they were drawn at random, and the rest learns on random features."
                " Every norm layer looked at has weight 1 and bias 0.",
                site=next((e.site for e in (load, flag) if e), now.built(index)),
                symbol=names[0],
                notes=_story(load, flag),
                fix="load pretrained weights before freezing"
                + (', such as weights="DEFAULT"' if "torchvision" in model.type else ""),
                severity=None if now.recorded or now.after_backward else Severity.WARNING,
                subject=model.label,
            )

    def _trains_head(self, now: Snapshot, model: int) -> bool:
        last = len(now.models[model].stages) - 1
        return (
            last > 0
            and now.models[model].stages[last].kind == "head"
            and any(p.trainable and p.held for p in now.by_stage[model, last])
        )

    def _frozen_backbone(self, now: Snapshot, model: int) -> list[Param]:
        """The stages before the head that are frozen as a whole, if they are most of it."""
        last = len(now.models[model].stages) - 1
        stages = [now.by_stage[model, stage] for stage in range(last)]
        frozen = [p for ps in stages if not any(p.trainable for p in ps) for p in ps]
        if 2 * sum(p.numel for p in frozen) < sum(p.numel for ps in stages for p in ps):
            return []
        besides = copies(now, model)
        if any(p.name.startswith(besides) for p in frozen):
            return []  # a target network
        if any(p.grad is not None or now.paused & {h.optimizer for h in p.held} for p in frozen):
            return []  # a GAN's other half, frozen for the moment
        flags = [
            n.trainable
            for n in now.norms
            if n.model == model and n.stage != last and n.trainable is not None
        ]
        return frozen if flags and 2 * flags.count(False) >= len(flags) else []


def _unmatched(now: Snapshot, past: Timeline, model: int) -> Event | None:
    """The last load of the model's weights of which nothing fitted."""
    for event in reversed(list(past.of(LOAD, now.path(model, "")))):
        if event.value == "model" and event.data["given"] == event.data["unexpected"] > 0:
            return event
    return None


def _story(load: Event | None, flag: Event | None) -> Iterator[Note]:
    if load:
        yield Note(f"none of the {load.data['given']} tensors given here was taken", load.site)
    if flag:
        yield Note("frozen here", flag.site)
