from __future__ import annotations

from collections.abc import Iterator

from freezecheck import modes
from freezecheck.finding import Finding, Note, Severity, Site
from freezecheck.frozen import layers, probes
from freezecheck.modes import Training
from freezecheck.program import Module, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Norm, Snapshot
from freezecheck.timeline import Event, Timeline


class FrozenBatchnormInTrainMode(Rule):
    """A BatchNorm layer is frozen but in train mode, so its running statistics still move.

    ## What it does

    Finds norm layers with running statistics whose weight and bias do not require grad
    (or that have none, in a stage that is frozen), and that are in train mode.

    ## Why it matters

    `requires_grad=False` stops the optimizer, not the layer. In train mode it normalises
    with the mean and variance of each batch, which the frozen weights after it were not
    trained for, and moves its running mean and variance at every forward, under
    `torch.no_grad()` too. What was meant to stay as it was pretrained drifts with the new
    data, and eval mode then uses what the statistics have become. In a linear probe the
    head learns on features that no evaluation will ever show it.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for p in model.parameters():
        p.requires_grad = False
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)

    for epoch in range(3):
        model.train()  # <- FC401
        loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    A new model is in train mode without any call:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for stage in (model.conv1, model.bn1, model.layer1, model.layer2):
        stage.requires_grad_(False)  # <- FC401
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-4)

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    Eval mode again after every `train()`:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    def freeze_bn(module):
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()

    model = torchvision.models.resnet18(weights="DEFAULT")
    for p in model.parameters():
        p.requires_grad = False
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)

    for epoch in range(3):
        model.train()
        model.apply(freeze_bn)
        loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    A `train()` that keeps the frozen part in eval mode:

    ```python
    import torch, torchvision
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = torchvision.models.resnet18(weights="DEFAULT").requires_grad_(False)
            self.head = nn.Linear(1000, 5)

        def train(self, mode=True):
            super().train(mode)
            self.backbone.eval()
            return self

        def forward(self, x):
            return self.head(self.backbone(x))

    model = Classifier().train()
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-3)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4))
    loss.backward()
    optimizer.step()
    ```

    Test-time adaptation wants the batch's statistics, and trains weight and bias:

    ```python
    import torch, torchvision

    model = torchvision.models.resnet18(weights="DEFAULT").train().requires_grad_(False)
    params = []
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.requires_grad_(True)
            params += [m.weight, m.bias]
    optimizer = torch.optim.Adam(params, lr=1e-3)

    probs = model(torch.randn(4, 3, 32, 32)).softmax(1)
    entropy = -(probs * probs.log()).sum(1).mean()
    entropy.backward()
    optimizer.step()
    ```

    The frozen part is put in eval mode at each forward:

    ```python
    import torch, torchvision
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = torchvision.models.resnet18(weights="DEFAULT").requires_grad_(False)
            self.head = nn.Linear(1000, 5)

        def forward(self, x):
            self.backbone.eval()
            return self.head(self.backbone(x))

    model = Classifier().train()
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-3)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4))
    loss.backward()
    optimizer.step()
    ```

    Its `train()` is switched off, so that it stays in eval mode:

    ```python
    import torch, torchvision
    from torch import nn

    def disabled_train(mode=True):
        return None

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = torchvision.models.resnet18(weights="DEFAULT").requires_grad_(False)
            self.backbone.eval()
            self.backbone.train = disabled_train
            self.head = nn.Linear(1000, 5)

        def forward(self, x):
            return self.head(self.backbone(x))

    model = Classifier().train()
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-3)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4))
    loss.backward()
    optimizer.step()
    ```

    A momentum encoder follows the one that trains, and is not frozen for good; a discriminator
    is, for the generator's step alone:

    ```python source
    import torch, torchvision
    from torch import nn

    class Contrast(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder_q = torchvision.models.resnet18(num_classes=128)
            self.encoder_k = torchvision.models.resnet18(num_classes=128)
            for p in self.encoder_k.parameters():
                p.requires_grad = False

        def forward(self, query, key):
            with torch.no_grad():
                k = self.encoder_k(key)
            return (self.encoder_q(query) * k).sum(1)

    model = Contrast()
    optimizer = torch.optim.SGD(model.encoder_q.parameters(), lr=0.03)
    for query, key in loader:
        optimizer.zero_grad()
        (-model(query, key).mean()).backward()
        optimizer.step()
        for p, q in zip(model.encoder_k.parameters(), model.encoder_q.parameters()):
            p.data = p.data * 0.999 + q.data * 0.001
    ```

    ```python source
    import torch
    from torch import nn

    class GAN(nn.Module):
        def __init__(self):
            super().__init__()
            self.g = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 2))
            self.d = nn.Sequential(nn.Linear(2, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 1))

    gan = GAN()
    g_optimizer = torch.optim.Adam(gan.g.parameters(), lr=2e-4)
    d_optimizer = torch.optim.Adam(gan.d.parameters(), lr=2e-4)
    for real in loader:
        fake = gan.g(torch.randn(64, 8))
        gan.d.requires_grad_(True)
        d_optimizer.zero_grad()
        (gan.d(fake.detach()).mean() - gan.d(real).mean()).backward()
        d_optimizer.step()
        gan.d.requires_grad_(False)
        g_optimizer.zero_grad()
        (-gan.d(fake).mean()).backward()
        g_optimizer.step()
    ```

    ## How it is found

    In a recorded run, the mode is that of the training forward. On finished objects, it is
    the mode of the moment; where the model's own `train()` would put the layer in eval mode
    (tried on a copy of the tree, never on the model), nothing is said.

    It is an error where everything but the head is frozen, and a warning otherwise or
    where no training forward has been seen yet.

    From the text: a gradient goes back through a forward and an optimizer steps, and at that
    forward the layer's parameters are definitely frozen and its mode is definitely train. The
    layers must be known to be there: models of torchvision, timm and transformers, and classes
    whose constructor can be read. A `train()` of the model's own is run as it is written.
    Anything that was handed to code that cannot be read is left alone.

    ## Limits

    A model of which nothing is trainable is left alone: a teacher, or a discriminator during
    the generator's step. So is a frozen part that is built like one that trains beside it (a
    momentum encoder), and a backbone that is a model of its own, beside the head.
    Before the first forward, a loop that will call `eval()` on these layers cannot be seen.
    Layers with momentum 0 do not drift and are left out.

    ## References

    - [torch.nn.BatchNorm2d](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html)
    - [pytorch/pytorch#86590: freezing running_mean and running_var](https://github.com/pytorch/pytorch/issues/86590)
    """

    code = "FC401"
    name = "frozen-batchnorm-in-train-mode"
    severity = Severity.WARNING

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        drifting = [n for n in now.frozen_norms if n.updates_statistics and not n.reverts]
        for index, model in enumerate(now.models):
            mine = [n for n in drifting if n.model == index]
            if not mine:
                continue
            frozen, train = self._causes(now, past, mine[0])
            yield self.finding(
                f"Frozen but in train mode: {layers(now, mine)}. Each forward normalises with the"
                " batch's own statistics, and moves the running mean and variance that eval mode"
                " uses.",
                site=next((e.site for e in (train, frozen) if e), now.built(index)),
                symbol=now.path(index, mine[0].path),
                notes=self._story(now, frozen, train),
                fix="put them in eval mode after every model.train(), or override train() so that"
                " it keeps them there",
                severity=Severity.ERROR if now.forwarded and probes(now, index) else None,
                subject=model.label,
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        found: dict[tuple[int, Site | None], list[tuple[Module, Training]]] = {}
        for training in modes.trainings(world):
            for norm in modes.resting(training, world):
                event = training.reached(norm)
                if event is not None and norm.learns(event.index) is True:
                    site = _blamed(norm, event.index)
                    found.setdefault((training.root.id, site), []).append((norm, training))
        told: set[int] = set()  # what one line does to a layer, another one may do again
        for (_, site), pairs in found.items():
            norms = {norm.id: norm for norm, _ in pairs}
            if not norms.keys() <= told:
                told |= norms.keys()
                yield self._written(site, list(norms.values()), *pairs[0])

    def _written(
        self, site: Site | None, norms: list[Module], first: Module, training: Training
    ) -> Finding:
        index = training.forward.index
        frozen, train = modes.own(first)[0].written(index), first.moded(index)
        notes = [Note("frozen here", frozen.site)] if frozen else []
        if train:
            notes.append(Note("put in train mode here", train.site))
        notes.append(Note("the training forward runs here", training.forward.site))
        if not train:
            notes.append(Note("a new module is in train mode, and nothing put these in eval mode"))
        return self.finding(
            f"Frozen but in train mode: {modes.layers(norms)}. Each forward normalises with the"
            " batch's own statistics, and moves the running mean and variance that eval mode"
            " uses.",
            site=site,
            symbol=f"{modes.said(training.root)}.{modes.paths(norms)[0]}",
            notes=notes,
            fix="put them in eval mode after every model.train(), or override train() so that"
            " it keeps them there",
            severity=Severity.ERROR if modes.probes(training.root, index) else None,
            subject=modes.said(training.root),
        )

    def _causes(
        self, now: Snapshot, past: Timeline, norm: Norm
    ) -> tuple[Event | None, Event | None]:
        """The write that froze a layer, and the call that put it in train mode."""
        path = now.path(norm.model, norm.path)
        train = None
        for event in past.modes(path):
            if event.value:
                train = event
        return past.written((f"{path}.weight", f"{path}.bias"), False), train

    def _story(self, now: Snapshot, frozen: Event | None, train: Event | None) -> Iterator[Note]:
        if frozen:
            yield Note("frozen here", frozen.site)
        if train:
            yield Note("put in train mode here", train.site)
        elif now.recorded:
            yield Note("a new module is in train mode, and nothing put these in eval mode")


def _blamed(norm: Module, index: int) -> Site | None:
    """The line that put a layer in train mode, else the one that froze it."""
    train = norm.moded(index)
    frozen = modes.own(norm)[0].written(index)
    return next((e.site for e in (train, frozen) if e is not None and e.site), norm.root.site)
