from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from freezecheck import account, held
from freezecheck.finding import Finding, Severity
from freezecheck.program import STEP, Event, Optimizer, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot, count, summarise
from freezecheck.story import story
from freezecheck.timeline import Timeline


class OptimizerOnlyFrozen(Rule):
    """Everything in the optimizer is frozen, so its steps train nothing.

    ## What it does

    Finds optimizers that hold no parameter with `requires_grad=True`.

    ## Why it matters

    Frozen parameters get no gradient, and the optimizer passes over them. Where the part
    that is meant to train is elsewhere, the loop runs, the loss is computed and even has
    gradients, and nothing is learned.

    ## Bad

    The new head is made after the optimizer, which is left with what was frozen:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for p in model.parameters():
        p.requires_grad = False
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)  # <- FC203
    model.fc = torch.nn.Linear(512, 5)
    model.eval()

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    The condition is the wrong way round:

    ```python
    import torch
    from torch import nn

    model = nn.Sequential()
    model.backbone = nn.Linear(8, 16)
    model.head = nn.Linear(16, 4)
    model.backbone.requires_grad_(False)
    optimizer = torch.optim.SGD(  # <- FC203
        [p for name, p in model.named_parameters() if not name.startswith("head")], lr=0.1
    )
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 4).backward()
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
    optimizer = torch.optim.Adam(model.fc.parameters(), lr=1e-3)
    model.eval()

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    A GAN freezes each half while the other one steps:

    ```python
    import torch
    from torch import nn

    generator, critic = nn.Linear(4, 8), nn.Linear(8, 1)
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4)
    optimizer_d = torch.optim.Adam(critic.parameters(), lr=2e-4)

    critic.requires_grad_(True)
    fake = generator(torch.randn(16, 4))
    (critic(fake.detach()).mean() - critic(torch.randn(16, 8)).mean()).backward()
    optimizer_d.step()

    critic.requires_grad_(False)
    (-critic(fake).mean()).backward()
    optimizer_g.step()
    ```

    ## How it is found

    From the flags of the tensors in each optimizer; in a recorded run, as they are when
    that optimizer steps.

    In a text, at each step of an optimizer, and where it is handed to a call that is not
    understood. Everything in it has to be frozen for certain, and no optimizer may hold
    anything that is, or may be, trainable.

    ## Limits

    Where another optimizer does train something, an optimizer that steps nothing but
    frozen tensors may be there for a later phase: it is then an info, and only in a run.

    ## References

    - [torch.optim: constructing an optimizer](https://docs.pytorch.org/docs/stable/optim.html#constructing-it)
    - [Autograd mechanics: setting requires_grad](https://docs.pytorch.org/docs/stable/notes/autograd.html#setting-requires-grad)
    """

    code = "FC203"
    name = "optimizer-only-frozen"
    severity = Severity.ERROR
    explains = ("FC201", "FC212")

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.frozen_held:
            return
        frozen = Counter(h.optimizer for p in now.frozen_held for h in p.held)
        for index in now.active:
            groups = now.optimizers[index].groups
            if frozen[index] and frozen[index] == sum(g.tensors - g.duplicates for g in groups):
                if not any(p.trainable and p.held for p in now.params):
                    yield self._alone(now, past, index, frozen[index])
                elif now.recorded:
                    yield self._beside_others(now, past, index, frozen[index])

    def _alone(self, now: Snapshot, past: Timeline, index: int, tensors: int) -> Finding:
        optimizer = now.optimizers[index]
        names = [now.path(p.model, p.name) for p in now.lost]
        message = (
            f"{_all(tensors)} in {optimizer.label} {_are(tensors)} frozen: its steps train nothing."
        )
        if names:
            message += (
                f" {count(len(names), 'trainable tensor')} {_are(len(names))} in no optimizer:"
                f" {summarise(names)}."
            )
        frozen = [p for p in now.frozen_held if any(h.optimizer == index for h in p.held)]
        models = dict.fromkeys(p.model for p in (*frozen, *now.lost) if p.model >= 0)
        return self.finding(
            message,
            site=optimizer.site,
            symbol=optimizer.label,
            notes=story(
                past, [*names, *(now.path(p.model, p.name) for p in frozen)], [optimizer.label]
            ),
            fix=_REMEDY,
            subject=(optimizer.label, *(now.models[m].label for m in models)),
        )

    def _beside_others(self, now: Snapshot, past: Timeline, index: int, tensors: int) -> Finding:
        optimizer = now.optimizers[index]
        return self.finding(
            f"{_all(tensors)} in {optimizer.label} {_are(tensors)} frozen: it steps and changes"
            " nothing, while another optimizer trains.",
            site=optimizer.site,
            symbol=optimizer.label,
            notes=story(past, (), [optimizer.label]),
            fix="unfreeze what it is to train, or do not step it",
            severity=Severity.INFO,
        )

    def in_source(self, world: World) -> Iterator[Finding]:
        if any(optimizer.open for optimizer in world.optimizers):
            return
        for optimizer in world.optimizers:
            for moment in held.moments(world, optimizer):
                if _is_idle(world, optimizer, moment):
                    yield self._idle(world, optimizer, moment)
                    break

    def _idle(self, world: World, optimizer: Optimizer, moment: Event) -> Finding:
        label, params = optimizer.shown, held.members(optimizer, moment.index)
        models = dict.fromkeys(p.module.root.shown for p in params)
        what, one = account.names(params), account.verb(params)
        steps = "its steps train nothing" if moment.kind == STEP else "it has nothing to train"
        return self.finding(
            f"Everything in {label} is frozen: {steps}. It holds {what}"
            f"{'' if what in models else f' of {summarise(list(models))}'}, which {one} frozen.",
            site=optimizer.site,
            symbol=label,
            notes=account.story(world, params, [optimizer], moment),
            fix=_REMEDY,
            subject=(label, *models),
        )


_REMEDY = (
    "build the optimizer from the parameters that are to train, once they are"
    " unfrozen and in their place"
)


def _is_idle(world: World, optimizer: Optimizer, moment: Event) -> bool:
    """All that it holds is frozen for certain, and no optimizer may train anything."""
    own = held.members(optimizer, moment.index)
    if not own or any(p.trains(moment.index) is not False for p in own):
        return False
    there = [p for o in held.current(world, moment) for p in held.members(o)]
    return not any(
        p.trains(moment.index) is not False or held.was_handed_on(p, moment) for p in there
    )


def _all(tensors: int) -> str:
    return {1: "The only tensor", 2: "Both tensors"}.get(tensors, f"All {tensors:,} tensors")


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
