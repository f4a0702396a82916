from __future__ import annotations

from collections.abc import Iterator

from freezecheck import modes
from freezecheck.finding import Finding, Note, Severity
from freezecheck.frozen import layers
from freezecheck.program import Module, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Norm, Snapshot, summarise
from freezecheck.timeline import Timeline


class BatchnormTypeCheckTooNarrow(Rule):
    """Some frozen BatchNorm layers were put in eval mode; those of another class were missed.

    ## What it does

    Finds models in which all frozen norm layers of one class were put in eval mode one by one,
    and frozen ones of another class stay in train mode.

    ## Why it matters

    `isinstance(m, nn.BatchNorm2d)` is not true of BatchNorm1d, BatchNorm3d and
    SyncBatchNorm, and `type(m) is nn.BatchNorm2d` of no subclass. The layers that the test
    misses keep on moving their running statistics, though the code looks as if it froze all.

    ## Bad

    ```python
    import torch, torchvision
    from torch import nn

    class ReID(nn.Module):
        def __init__(self, people):
            super().__init__()
            self.backbone = torchvision.models.resnet18(weights="DEFAULT")
            self.backbone.fc = nn.Identity()
            self.neck = nn.BatchNorm1d(512)
            self.classifier = nn.Linear(512, people)

        def forward(self, x):
            return self.classifier(self.neck(self.backbone(x)))

    def freeze_bn(module):
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # <- FC406

    model = ReID(people=5)
    for name, p in model.named_parameters():
        p.requires_grad = name.startswith("classifier")
    optimizer = torch.optim.AdamW(model.classifier.parameters(), lr=1e-3)

    for epoch in range(3):
        model.train()
        model.apply(freeze_bn)
        loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch import nn

    class ReID(nn.Module):
        def __init__(self, people):
            super().__init__()
            self.backbone = torchvision.models.resnet18(weights="DEFAULT")
            self.backbone.fc = nn.Identity()
            self.neck = nn.BatchNorm1d(512)
            self.classifier = nn.Linear(512, people)

        def forward(self, x):
            return self.classifier(self.neck(self.backbone(x)))

    def freeze_bn(module):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()

    model = ReID(people=5)
    model.backbone.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [*model.neck.parameters(), *model.classifier.parameters()], lr=1e-3
    )

    for epoch in range(3):
        model.train()
        model.backbone.apply(freeze_bn)
        loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## How it is found

    By class: layers in eval mode while the module around them is in train mode were put
    there one by one. If these are all the frozen ones of their classes, and frozen ones of other
    classes are in train mode, the test was on the class.

    From the text: the same, with the classes that the layers are built of;
    `convert_sync_batchnorm` makes them SyncBatchNorm.

    ## Limits

    Where the test matches nothing at all (every layer is a SyncBatchNorm), the layers are
    reported as FC401.

    ## References

    - [torch.nn.SyncBatchNorm](https://docs.pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html)
    """

    code = "FC406"
    name = "batchnorm-type-check-too-narrow"
    severity = Severity.WARNING
    explains = ("FC401",)

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not any(n.training for n in now.frozen_norms):
            return
        for index, model in enumerate(now.models):
            norms = [n for n in now.frozen_norms if n.model == index]
            kept = [n for n in norms if not n.training and n.apart]
            missed = [n for n in norms if n.updates_statistics and not n.reverts]
            if not kept or not missed or _types(kept) & _types(n for n in norms if n.training):
                continue
            yield self.finding(
                f"Only {_names(kept)} layers were put in eval mode; frozen and still in train"
                f" mode: {layers(now, missed)}, of class {_names(missed)}. Their running mean and"
                " variance move at every forward.",
                site=next((n.site for n in (*kept, *missed) if n.site), None),
                symbol=now.path(index, missed[0].path),
                notes=[Note("put in eval mode here", kept[0].site)] if kept[0].site else (),
                fix="test for torch.nn.modules.batchnorm._BatchNorm, the base class of all",
                subject=model.label,
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        told: set[object] = set()
        for training in modes.trainings(world):
            index = training.forward.index
            norms = modes.resting(training, world)
            kept = [n for n in norms if n.learns(index) is False and _apart(n, index)]
            missed = [n for n in norms if n.learns(index) is True]
            if not kept or not missed:
                continue
            awake = {n.type for n in norms if n.learns(index) is not False}
            put = kept[0].moded(index)
            if {n.type for n in kept} & awake or put is None or put.site in told:
                continue
            told.add(put.site)
            label = modes.said(training.root)
            yield self.finding(
                f"Only {_classes(kept)} layers were put in eval mode; frozen and still in train"
                f" mode: {modes.layers(missed)}, of class {_classes(missed)}. Their running mean"
                " and variance move at every forward.",
                site=put.site,
                symbol=f"{label}.{modes.paths(missed)[0]}",
                notes=[
                    Note("put in eval mode here", put.site),
                    Note("the training forward runs here", training.forward.site),
                ],
                fix="test for torch.nn.modules.batchnorm._BatchNorm, the base class of all",
                subject=label,
            )


def _apart(norm: Module, index: int) -> bool:
    """It was put in eval mode by itself."""
    event = norm.moded(index)
    return event is not None and event.subject is norm


def _classes(norms: list[Module]) -> str:
    return summarise(sorted({norm.builder for norm in norms}))


def _types(norms: Iterator[Norm] | list[Norm]) -> set[str]:
    return {norm.type for norm in norms}


def _names(norms: list[Norm]) -> str:
    return summarise(sorted(_types(norms)))
