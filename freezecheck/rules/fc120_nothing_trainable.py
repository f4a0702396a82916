from __future__ import annotations

from collections.abc import Iterator

from freezecheck import account
from freezecheck.finding import Finding, Severity
from freezecheck.held import moments, was_handed_on
from freezecheck.program import World
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot, count
from freezecheck.story import story
from freezecheck.timeline import Timeline


class NothingTrainable(Rule):
    """No parameter requires grad: there is nothing to train.

    ## What it does

    Finds setups with an optimizer in which no parameter of any model, and no tensor in any
    optimizer, requires grad.

    ## Why it matters

    The first backward then fails with "element 0 of tensors does not require grad". Where the
    loss is made to require grad all the same, or an adversarial input does, nothing fails, and
    every step leaves every weight as it is.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for p in model.parameters():
        p.requires_grad = False  # <- FC120
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    model.eval()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.requires_grad_(True)
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
    for p in model.fc.parameters():
        p.requires_grad = True
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01)

    model.eval()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    The weights are frozen and something outside the model is optimized:

    ```python
    import torch, torchvision

    model = torchvision.models.resnet18(weights="DEFAULT").eval().requires_grad_(False)
    image = torch.randn(1, 3, 64, 64, requires_grad=True)
    optimizer = torch.optim.Adam([image], lr=0.05)
    loss = -model(image)[0, 3]
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    From the flags of every parameter, and of every tensor that an optimizer holds. In a text,
    at the first use of the first optimizer, where all models and all that the optimizers
    hold are known.

    ## Limits

    Nothing is said where gradients are left from an earlier step: the parameters were
    trainable then, and may have been frozen for good.

    ## References

    - [torch.autograd: setting requires_grad](https://docs.pytorch.org/docs/stable/notes/autograd.html#setting-requires-grad)
    """

    code = "FC120"
    name = "nothing-trainable"
    severity = Severity.ERROR
    explains = ("FC113", "FC203", "FC206", "FC212")

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.optimizers or now.trainable or not now.owned or now.after_backward:
            return
        if any(p.trainable for p in now.foreign) or any(u.trainable for u in now.unregistered):
            return
        names = [now.path(p.model, p.name) for p in now.owned]
        flag = past.written(names, False)
        labels = tuple(model.label for model in now.models)
        yield self.finding(
            f"Nothing is trainable: all {count(len(names), 'tensor')} of {', '.join(labels)} are"
            " frozen. No step will change a weight.",
            site=flag.site if flag else now.built(0),
            symbol=labels[0],
            notes=story(past, names, [o.label for o in now.optimizers]),
            fix="set requires_grad = True on the part that is to be trained, after the line that"
            " freezes all",
            subject=(*labels, *(o.label for o in now.optimizers)),
        )

    def in_source(self, world: World) -> Iterator[Finding]:
        first = [next(moments(world, optimizer), None) for optimizer in world.optimizers]
        used = [moment for moment in first if moment is not None]
        moment = min(used, key=lambda event: event.index, default=None)
        if moment is None or any(optimizer.open for optimizer in world.optimizers):
            return
        roots = [
            r for r in world.roots if r.index <= moment.index and any(True for _ in r.parameters())
        ]
        params = [param for root in roots for param in root.parameters()]
        if not params or any(p.trains(moment.index) is not False for p in params):
            return
        if any(was_handed_on(param, moment) for param in params):
            return
        writes = [event for p in params if (event := p.written(moment.index)) is not None]
        flag = max(writes, key=lambda event: event.index, default=None)
        labels = tuple(dict.fromkeys(root.shown for root in roots))
        yield self.finding(
            f"Nothing is trainable: all of {', '.join(labels)} is frozen. No step will change a"
            " weight.",
            site=flag.site if flag else moment.site,
            symbol=labels[0],
            notes=account.story(world, params, world.optimizers, moment),
            fix="set requires_grad = True on the part that is to be trained, after the line that"
            " freezes all",
            subject=(*labels, *(o.shown for o in world.optimizers)),
        )
