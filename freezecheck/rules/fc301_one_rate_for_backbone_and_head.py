from __future__ import annotations

import math
from collections.abc import Iterator

from freezecheck import rates, stated_rates
from freezecheck.account import names
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import Event, Module, Optimizer, World
from freezecheck.program import Param as Leaf
from freezecheck.rule import Rule
from freezecheck.snapshot import Param, Snapshot, millions
from freezecheck.timeline import Timeline


class OneRateForBackboneAndHead(Rule):
    """A new head and the pretrained backbone learn at one rate, and it is a new layer's.

    ## What it does

    Finds optimizers that train a newly drawn head and a pretrained backbone at the same
    rate, where that rate is several times what pretrained layers are tuned with: above
    3e-4 for the Adam family, above 0.06 for SGD with momentum 0.9 (0.6 without).

    ## Why it matters

    A new head needs large steps, and its first gradients are random. Steps of that size
    through the backbone can undo what it was pretrained for before the head has learnt
    anything. The loss still falls, so that nothing looks wrong; the result is that of
    training from scratch on little data.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)  # <- FC301

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    The rate that counts is the schedule's peak, not the one it starts with:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)  # <- FC301
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=1000)

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    scheduler.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    backbone = [p for name, p in model.named_parameters() if not name.startswith("fc.")]
    optimizer = torch.optim.Adam(
        [
            {"params": backbone, "lr": 1e-5},
            {"params": model.fc.parameters(), "lr": 1e-3},
        ]
    )

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    One rate for all is fine where it is a small one:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    A head counts as new if its values look as the constructor drew them, a stage of the
    backbone as pretrained if its norm layers have left their first values, and as trained
    if more than half of it is. All of these stages must be at the head's own rate; where
    a schedule drives the optimizer, its peak counts.

    From the text: pretrained and new layers are told apart by what builds them, and what the
    optimizer trains is taken at its first step, or where it is handed to code that cannot be
    read. Every rate must be a known number, and nothing but norms and biases may have another one.
    A head that was trained before is left to FC303.

    ## Limits

    Networks without norm layers do not show whether they are pretrained, and nothing is
    said about them; nor about optimizers other than SGD and the Adam family, or ones that
    have stepped already. The limits are those of practice with large networks. Small ones,
    and large batches, stand more: a four-layer digit classifier with a new head kept 99% of
    its old task under Adam at 1e-3, 58% at 1e-2, and 72% under SGD at 0.1, in 40 steps.

    ## References

    - [torch.optim: per-parameter options](https://docs.pytorch.org/docs/stable/optim.html#per-parameter-options)
    - [Howard and Ruder 2018, discriminative fine-tuning](https://arxiv.org/abs/1801.06146)
    """

    code = "FC301"
    name = "one-rate-for-backbone-and-head"
    severity = Severity.WARNING

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for model in range(len(now.models)):
            head = rates.fresh_head(now, model)
            if head is not None:
                for optimizer, record in enumerate(now.optimizers):
                    if not record.stepped and not record.idle:
                        yield from self._judge(now, model, optimizer, *head)

    def in_source(self, world: World) -> Iterator[Finding]:
        for optimizer in world.optimizers:
            use = stated_rates.first_use(world, optimizer)
            if use is None or optimizer.open:
                continue
            trained = stated_rates.learning(optimizer, use)
            for root in dict.fromkeys(param.module.root for param, _ in trained):
                mine = [param for param, _ in trained if param.module.root is root]
                head = [p for p in stated_rates.weights(mine) if p.module.pretrained is False]
                body = [p for p in stated_rates.weights(mine) if p.module.pretrained is True]
                if (
                    head
                    and stated_rates.is_much(body)
                    and stated_rates.stepped(world, head[0], use.index) is None
                ):
                    yield from self._compare(world, optimizer, use, root, head, body)

    def _compare(
        self,
        world: World,
        optimizer: Optimizer,
        use: Event,
        root: Module,
        head: list[Leaf],
        body: list[Leaf],
    ) -> Iterator[Finding]:
        held = [stated_rates.group_of(optimizer, p, use.index) for p in (*head, *body)]
        groups = list({id(group): group for group in held if group is not None}.values())
        tops = [stated_rates.top(world, optimizer, group, use) for group in groups]
        rate, first = tops[0], groups[0]
        if rate is None or any(t is None or not math.isclose(t, rate) for t in tops):
            return
        if not stated_rates.is_high(world, optimizer, first, rate):
            return
        start = optimizer.lr(first)
        peak = "" if start is not None and math.isclose(rate, start) else " at the schedule's peak"
        notes = [Note(f"the new part is put in place here: {names(head)}", head[0].module.site)]
        if peak:
            notes += [
                Note("the schedule sets the rates here", s.site)
                for s in stated_rates.drivers(world, optimizer)
            ]
        yield self.finding(
            f"The new part of {root.shown} ({names(head)}) and the pretrained backbone both learn"
            f" at {rate:g}{peak} with {stated_rates.short(optimizer)}. That is a rate for a new"
            " layer: in the first steps, while the head is still random, it can overwrite what"
            " the backbone has learnt.",
            site=first.site,
            symbol=optimizer.shown,
            notes=[*notes, Note(f"{optimizer.shown} is first used here", use.site)],
            fix="give the backbone a group of its own, at a tenth to a hundredth of the head's"
            " rate",
            subject=(root.shown, optimizer.shown),
        )

    def _judge(
        self, now: Snapshot, model: int, optimizer: int, last: int, head: list[Param]
    ) -> Iterator[Finding]:
        record, whole = now.optimizers[optimizer], now.models[model]
        tops = rates.tops(now, optimizer)
        rate = rates.of_params(head, optimizer, tops)
        if rate is None:
            return
        group = next(h.group for h in head[0].held if h.optimizer == optimizer)
        if not rates.is_high(record, record.groups[group], rate):
            return
        trained = {
            stage: other
            for stage, other in rates.of_stages(now, optimizer, model, tops).items()
            if stage != last and whole.stages[stage].pretrained
        }
        if not trained or not all(math.isclose(rate, other) for other in trained.values()):
            return
        size = sum(p.numel for s in trained for p in now.by_stage[model, s] if p.trainable)
        name = now.path(model, whole.head.path if whole.head else "")
        peak = "" if math.isclose(rate, record.groups[group].lr) else " at the schedule's peak"
        yield self.finding(
            f"The new layer {name} and the pretrained backbone ({millions(size)} parameters) both"
            f" learn at {rate:g}{peak} with {record.class_name}. That is a rate for a new layer:"
            " in the first steps, while the head is still random, it can overwrite what the"
            " backbone has learnt.",
            site=record.groups[group].site or record.site,
            symbol=record.label,
            notes=[
                Note(f"{s.label} sets the rates here", s.site)
                for s in rates.driving(now, optimizer)
                if s.site and peak
            ],
            fix="give the backbone a group of its own, at a tenth to a hundredth of the head's"
            " rate",
            subject=(whole.label, record.label),
        )
