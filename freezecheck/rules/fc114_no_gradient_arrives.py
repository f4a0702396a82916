from __future__ import annotations

from collections.abc import Iterator

from freezecheck import account, flow
from freezecheck.finding import Finding, Note, Severity, Site
from freezecheck.program import Optimizer, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Param, Snapshot, count, summarise
from freezecheck.timeline import BACKWARD, Timeline

_CAUSES = {
    "no_grad": "their modules ran under torch.no_grad()",
    "before": "something on the way to the loss cuts the graph: detach(), .data, .item(), no_grad()",
}


class NoGradientArrives(Rule):
    """A trainable parameter is in the optimizer, but no gradient reaches it.

    ## What it does

    Finds parameters that require grad and are in the optimizer that is stepped, and
    have `grad is None` when it is.

    ## Why it matters

    The optimizer passes over a parameter without a gradient. A `torch.no_grad()` left
    around the backbone, a `detach()` on the features or a forgotten branch leaves it as
    it is, at the full cost of what looks like fine-tuning.

    ## Bad

    The `no_grad` of the linear probe was left in when the backbone was unfrozen:

    ```python
    import torch, torchvision
    from torch import nn

    backbone = torchvision.models.resnet18(weights="DEFAULT")
    backbone.fc = nn.Identity()
    head = nn.Linear(512, 5)
    model = nn.Sequential(backbone, head)
    optimizer = torch.optim.AdamW(
        [{"params": backbone.parameters(), "lr": 1e-5}, {"params": head.parameters(), "lr": 1e-3}]
    )
    model.train()
    with torch.no_grad():
        features = backbone(torch.randn(8, 3, 32, 32))
    loss = nn.functional.cross_entropy(head(features), torch.arange(8) % 5)
    loss.backward()  # <- FC114
    optimizer.step()
    ```

    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(8, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.encoder(x).relu().detach())

    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0]))
    loss.backward()  # <- FC114
    optimizer.step()
    ```

    ## Good

    A linear probe whose optimizer holds the head alone:

    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(8, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            with torch.no_grad():
                x = self.encoder(x)
            return self.head(x)

    model = Net()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.01)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    In a recorded run it is the user's own backward that counts. The order in which the
    modules ran tells a graph that was cut (everything before the cut is without gradient)
    from a branch that the loss does not use.

    In a text, each tensor is followed from the module that it comes out of to the loss on
    which `backward()` is called, through `no_grad` blocks, `detach()`, `.data`, `.item()` and
    `numpy()`. What an optimizer holds that trains is reported if, since the step before, all
    of its forward passes lie behind such a cut. A loss that is not known to come out of them,
    a method of a library that may run them too, gradients that the program sets itself, and a
    model that is a copy of another (a teacher, a target that follows by averaging) make it
    silent.

    ## Limits

    A text does not show that a branch is left out of a loss. A branch that takes no part in this step's loss (a pooler, an expert that was not
    routed to) is often meant so, and is an info.

    ## References

    - [torch.autograd: locally disabling gradient computation](https://docs.pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradient-computation)
    """

    code = "FC114"
    name = "no-gradient-arrives"
    severity = Severity.ERROR

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        backward = past.last(BACKWARD)
        if backward is None:
            return
        for index in range(len(now.models)):
            without = [
                p
                for p in now.trainable
                if p.model == index and p.grad is None and p.called is not None and _stepped(now, p)
            ]
            for cause in ("no_grad", "before"):
                cut = [p for p in without if p.called == cause]
                if cut:
                    yield self._cut(now, index, cut, cause, past)
            unused = [p for p in without if p.called in ("beside", "never")]
            if unused:
                yield self._unused(now, index, unused, past)

    def in_source(self, world: World) -> Iterator[Finding]:
        for optimizer in world.optimizers:
            told: dict[tuple[Site | None, Site], flow.Lost] = {}
            for backward, _, lost in flow.without_gradient(world, optimizer):
                for param, (passed, site) in lost.items():
                    told.setdefault((backward.site, site), {})[param] = (passed, site)
            for (place, site), lost in told.items():
                yield self._behind(world, optimizer, place, site, lost)

    def _behind(
        self, world: World, optimizer: Optimizer, place: Site | None, site: Site, lost: flow.Lost
    ) -> Finding:
        params = list(lost)
        where = params[0].module.root.shown
        quiet = any(not passed.grad for passed, _ in lost.values())
        cause = f"{account.verb(params, 'it runs', 'they run')} under no_grad()"
        return self.finding(
            f"{account.names(params)} of {where} {account.verb(params)} trainable and in"
            f" {optimizer.shown}, but no gradient arrives:"
            f" {cause if quiet else 'the graph is cut on the way to the loss'}."
            f" The optimizer passes over {account.verb(params, 'it', 'them')}.",
            site=place,
            symbol=account.each(params)[0],
            notes=[
                *account.story(world, params, [optimizer]),
                Note("no gradient gets past here", site),
            ],
            fix="remove what cuts the graph, or, if they are meant to stay, freeze them and"
            " leave them out of the optimizer",
            subject=where,
        )

    def _cut(
        self, now: Snapshot, model: int, cut: list[Param], cause: str, past: Timeline
    ) -> Finding:
        names = [now.path(model, p.name) for p in cut]
        return self.finding(
            f"{count(len(cut), 'trainable tensor')} ({sum(p.numel for p in cut):,} parameters) in the"
            f" optimizer got no gradient: {summarise(names)}. {_CAUSES[cause].capitalize()}."
            " The optimizer passes over them.",
            site=_site(past),
            symbol=names[0],
            notes=_story(now),
            fix="remove what cuts the graph, or, if they are meant to stay, freeze them and"
            " leave them out of the optimizer",
            subject=now.models[model].label,
        )

    def _unused(self, now: Snapshot, model: int, unused: list[Param], past: Timeline) -> Finding:
        names = [now.path(model, p.name) for p in unused]
        return self.finding(
            f"{count(len(unused), 'trainable tensor')} ({sum(p.numel for p in unused):,} parameters)"
            f" took no part in this step's loss: {summarise(names)}.",
            site=_site(past),
            symbol=names[0],
            notes=_story(now),
            fix="if they should train, use their output in the loss; otherwise freeze them",
            severity=Severity.INFO,
            subject=now.models[model].label,
        )


def _stepped(now: Snapshot, param: Param) -> bool:
    return any(not now.optimizers[held.optimizer].idle for held in param.held)


def _site(past: Timeline) -> Site | None:
    event = past.last(BACKWARD)
    return event.site if event else None


def _story(now: Snapshot) -> Iterator[Note]:
    for optimizer in now.optimizers:
        if optimizer.site and not optimizer.idle:
            yield Note("the optimizer took them here", optimizer.site)
