from __future__ import annotations

import re
from collections.abc import Iterator

from freezecheck import account
from freezecheck.finding import Finding, Severity
from freezecheck.held import members, moments, was_handed_on
from freezecheck.program import REPLACE, STEP, Event, Module, Optimizer, World
from freezecheck.program import Param as Leaf
from freezecheck.rule import Rule
from freezecheck.snapshot import Param, Snapshot, count
from freezecheck.story import story
from freezecheck.timeline import Timeline

_HEADS = re.compile(r"fc|heads?|classif\w*|last_linear|logits|score|output_?\w*|\w+_(?:fc|head)")


class HeadFrozenWithBackbone(Rule):
    """The new head was frozen together with the backbone and keeps its random values.

    ## What it does

    Finds models whose last layer is new and frozen, like most of the backbone before it.

    ## Why it matters

    A loop over `model.parameters()` that freezes all freezes the head too, if the head is
    put in place before it. What else is trainable then learns to please a random
    projection; or nothing is trainable at all.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    for p in model.parameters():
        p.requires_grad = False  # <- FC110
    for p in model.layer4.parameters():
        p.requires_grad = True
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    model.eval()

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for p in model.parameters():
        p.requires_grad = False
    model.fc = torch.nn.Linear(512, 5)
    for p in model.layer4.parameters():
        p.requires_grad = True
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    model.eval()

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    The head was trained before, and the biases alone go on:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for name, p in model.named_parameters():
        p.requires_grad = name.endswith("bias") and not name.startswith("fc")
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    model.eval()

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    All of the last stage is frozen, its layer looks as its constructor drew it, and most of
    the rest (by tensors or by parameters) is frozen and not seen to be untrained. In a run, a
    head that was there for some steps before it was frozen has been trained.

    In a text: a new layer is put in the place of the head of a pretrained model, a later
    line freezes it together with pretrained layers, and it is still frozen when the
    optimizer of that model is first used.

    ## Limits

    A head without a bias whose first values follow no known scheme cannot be told from a
    trained one. A frozen random head on a backbone that trains as a whole is a method of
    its own, and passed over; so is one half of a GAN in the other half's step.

    ## References

    - [PyTorch tutorial: transfer learning, ConvNet as fixed feature extractor](https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html)
    """

    code = "FC110"
    name = "head-frozen-with-backbone"
    severity = Severity.ERROR
    explains = ("FC120", "FC203", "FC212")

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.frozen or not now.optimizers:
            return
        for index, model in enumerate(now.models):
            if model.head is None or not model.head.fresh or model.pretrained is False:
                continue
            head = _frozen_head(now, index)
            if not head or _resting(now, index, head):
                continue
            names = [now.path(index, p.name) for p in head]
            flag = past.written(names, False)
            if flag is not None and flag.step > _placed(past, names):
                continue  # there were steps in which it may have been trained
            path = now.path(index, model.head.path)
            yield self.finding(
                f"The head {path} ({count(_size(head), 'parameter')}) is new and"
                " frozen, like the backbone: its random values will never change.",
                site=flag.site if flag else now.built(index),
                symbol=path,
                notes=story(past, names, [o.label for o in now.optimizers]),
                fix=f"put the new head in place after the line that freezes all,"
                f" or call {path}.requires_grad_(True) and give it to the optimizer",
                subject=(model.label, *(o.label for o in now.optimizers)),
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for optimizer in world.optimizers:
            moment = next(moments(world, optimizer), None)
            if moment is None:
                continue
            for placed in world.of(REPLACE):
                freeze = _freeze_after(placed, moment)
                if freeze is None or freeze.site in told:
                    continue
                head = placed.data["new"]
                if not _trains_with(world, head, optimizer, moment):
                    continue
                told.add(freeze.site)
                yield self.finding(
                    f"The head {head.shown} is new and frozen, like the backbone: its random"
                    " values will never change.",
                    site=freeze.site,
                    symbol=head.path,
                    notes=account.story(world, list(head.parameters()), [optimizer], moment),
                    fix="put the new head in place after the line that freezes all,"
                    f" or call {head.shown}.requires_grad_(True) and give it to the optimizer",
                    subject=(head.root.shown, *(o.shown for o in world.optimizers)),
                )


def _placed(past: Timeline, names: list[str]) -> int:
    """The steps that had begun when the last of these parameters was put in its place."""
    chosen = set(names)
    return max((e.step for e in past.of(REPLACE) if not chosen.isdisjoint(e.names)), default=0)


def _freeze_after(placed: Event, moment: Event) -> Event | None:
    """The line that freezes the new head together with pretrained parts, if it stays so."""
    head = placed.data["new"]
    if placed.index > moment.index or not isinstance(head, Module) or not _is_head(placed, head):
        return None
    params = list(head.parameters())
    if not params or head.pretrained is not False or head.detached or not _is_fresh(params):
        return None
    freezes = {param.written(moment.index) for param in params}
    freeze = freezes.pop()
    if freezes or freeze is None or freeze.value is not False or freeze.index < placed.index:
        return None
    rest = [p for p in freeze.params if p.module.pretrained and p not in params]
    frozen = [p for p in rest if p.trains(moment.index) is False]
    if not rest or 2 * len(frozen) < len(rest) or was_handed_on(params[0], moment):
        return None
    return freeze


def _is_fresh(params: list[Leaf]) -> bool:
    return all(param.module.pretrained is False for param in params)


def _is_head(placed: Event, head: Module) -> bool:
    """It bears a head's name, or is the last of the parts of its model."""
    if head.parent is None or _HEADS.fullmatch(placed.data["name"]):
        return head.parent is not None
    while head.parent is not None and list(head.parent.children.values())[-1] is head:
        head = head.parent
    return head.parent is None and not head.open


def _trains_with(world: World, head: Module, optimizer: Optimizer, moment: Event) -> bool:
    """The optimizer is there for the model of this head, which was not trained before."""
    mine, held = set(head.root.parameters()), set(members(optimizer, moment.index))
    training = {param for param in held if param.trains(moment.index) is not False}
    if not mine & held or (training and not mine & training):
        return False
    params = set(head.parameters())
    return not any(
        p.trains(step.index)
        for step in world.of(STEP)
        if step.index < moment.index
        for p in params & set(members(step.subject, step.index))
    )


def _frozen_head(now: Snapshot, index: int) -> list[Param]:
    """The parameters of the last stage, if it and most of the rest are frozen."""
    last = len(now.models[index].stages) - 1
    if last < 1 or now.models[index].stages[last].kind != "head":
        return []
    head = now.by_stage[index, last]
    if not head or any(p.trainable or p.grad is not None for p in head):
        return []
    rest = [p for stage in range(last) for p in now.by_stage[index, stage]]
    frozen = [p for p in rest if not p.trainable]
    most = 2 * len(frozen) > len(rest) or 2 * _size(frozen) > _size(rest)
    return head if most else []


def _size(params: list[Param]) -> int:
    return sum(p.numel for p in params)


def _resting(now: Snapshot, index: int, head: list[Param]) -> bool:
    """Frozen for the moment (it has been stepped, or its optimizer pauses), or a part of the
    setup that is not trained at all, such as a loss network."""
    if any(h.step or h.optimizer in now.paused for p in head for h in p.held):
        return True
    elsewhere = any(p.trainable for p in now.params)
    mine = any(p.trainable for p in now.of_model(index))
    return elsewhere and not mine
