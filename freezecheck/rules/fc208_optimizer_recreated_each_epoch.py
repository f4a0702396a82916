from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from freezecheck import account, held, leftover, timeline
from freezecheck.finding import Finding, Severity, Site
from freezecheck.phases import Phase
from freezecheck.program import ESCAPE, FLAG, LOAD, OPTIMIZER, REPLACE, Event, Optimizer, World
from freezecheck.rule import Rule
from freezecheck.story import story
from freezecheck.timeline import Timeline

_REMEDY = "build the optimizer once, before the loop"


class OptimizerRecreatedEachEpoch(Rule):
    """The optimizer is built anew in every epoch, and its moments are lost each time.

    ## What it does

    Finds optimizers that keep moments and are built again, with the same parameters and
    the same options, in each pass of the loop over the epochs.

    ## Why it matters

    Momentum and Adam's moments are the optimizer's memory of past gradients. A new
    optimizer starts without: the first steps of each epoch are taken on single, noisy
    gradients, which Adam, whose bias correction starts over as well, turns into steps
    of full size. A scheduler that was made for the first optimizer no longer has an
    effect.

    ## Bad

    ```python source
    import torch, torchvision
    from torch import nn

    model = torchvision.models.resnet18(num_classes=5)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(10):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)  # <- FC208
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
    ```

    In a function that is called for each epoch:

    ```python source
    import torch, torchvision
    from torch import nn

    def train_one_epoch(model, loader, criterion):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)  # <- FC208
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()

    model = torchvision.models.resnet18(num_classes=5)
    for epoch in range(10):
        train_one_epoch(model, loader, nn.CrossEntropyLoss())
    ```

    ## Good

    ```python source
    import torch, torchvision
    from torch import nn

    model = torchvision.models.resnet18(num_classes=5)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(10):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
    ```

    One for each stage that is unfrozen, and one for each fold with its model:

    ```python source
    import torch, torchvision
    from torch import nn

    criterion = nn.CrossEntropyLoss()
    for fold in range(5):
        model = torchvision.models.resnet18(num_classes=5)
        model.requires_grad_(False)
        for stage in (model.fc, model.layer4, model.layer3):
            stage.requires_grad_(True)
            trained = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.Adam(trained, lr=1e-4)
            model.eval()
            for images, labels in loader:
                optimizer.zero_grad()
                criterion(model(images), labels).backward()
                optimizer.step()
    ```

    ## How it is found

    In a text: one line builds an optimizer in successive passes of a loop, with the same
    parameters and options, and each steps in a loop directly inside of that one. Nothing
    was frozen, unfrozen, replaced or loaded between the two. Plain SGD keeps no
    moments, so it is left alone.

    In a run whose epochs are told by its loader (`inspect --fast-forward`): the line builds an
    optimizer from the very same tensors, with the same options, in three epochs that follow
    each other, and again nothing else happened to the model in between.

    ## Limits

    A loop over tasks, trials or rounds that has epochs inside is left alone: a fresh
    optimizer may be what is meant there. So is a rate that changes from epoch to epoch.

    ## References

    - [torch.optim.Adam: the algorithm](https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html)
    - [Optimizer.state_dict: what an optimizer keeps](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.state_dict.html)
    """

    code = "FC208"
    name = "optimizer-recreated-each-epoch"
    severity = Severity.INFO

    def in_phases(self, phases: Sequence[Phase], past: Timeline) -> Iterator[Finding]:
        times: Counter[Site | None] = Counter()
        for before, phase in pairwise(phases):
            built = _built_anew(before, phase, past)
            if built is None:
                continue
            times[built.site] += 1
            if times[built.site] == _TWICE:
                yield self.finding(
                    f"{built.subject} is built anew in each epoch, with the same parameters and"
                    " options: its moments are lost each time.",
                    site=built.site,
                    symbol=built.subject,
                    notes=story(past, (), [built.subject]),
                    fix=_REMEDY,
                    subject=(built.subject, *(m.label for m in phase.snapshot.models)),
                    step=before.first,
                )

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        built = list(world.of(OPTIMIZER))
        for place, event in enumerate(built):
            again = next((e for e in built[place + 1 :] if _is_next_pass(event, e)), None)
            if again is None or event.site in told or not _is_same(world, event, again):
                continue
            told.add(event.site)
            optimizer: Optimizer = event.subject
            models = dict.fromkeys(p.module.root.shown for p in event.params)
            yield self.finding(
                f"{optimizer.shown} is built anew in each pass of the loop in line"
                f" {event.loops[-1][0]}, with the same parameters: its moments are lost each time.",
                site=event.site,
                symbol=optimizer.shown,
                notes=account.story(world, (), [optimizer]),
                fix=_REMEDY,
                subject=(optimizer.shown, *models),
            )


_TWICE = 2  # epochs in a row that begin with a new one


def _built_anew(before: Phase, phase: Phase, past: Timeline) -> timeline.Event | None:
    """The event that built the optimizer of one epoch like that of the epoch before, with
    nothing between them that asks for a new one."""
    if phase.epoch is None or phase.epoch != (before.epoch or 1) + 1:
        return None
    between = past.events[before.events : phase.events]
    built = next((e for e in between if e.kind == OPTIMIZER), None)
    if built is None or not built.data.get("again") or not _keeps_moments(built):
        return None
    asked = any(
        e.kind in (REPLACE, LOAD) or (e.kind == FLAG and not set(built.names).isdisjoint(e.names))
        for e in between
    )
    return None if asked else built


def _keeps_moments(built: timeline.Event) -> bool:
    groups = built.data["options"]
    return any(g.get("momentum") or (g.get("betas") or (0,))[0] for g in groups)


def _is_next_pass(one: Event, other: Event) -> bool:
    """The same line, reached in the same way, in the next pass of the innermost loop."""
    if not one.loops or one.site != other.site or one.stack != other.stack:
        return False
    *outer, (line, number) = one.loops
    return other.loops == (*outer, (line, number + 1))


def _is_same(world: World, one: Event, other: Event) -> bool:
    """Both hold the same, keep moments, and step in a loop of their own; nothing that asks
    for a new optimizer happens between them."""
    first, second = one.subject, other.subject
    if first.open or not leftover.has_moments(first) or first.escaped:
        return False
    ids = [param.id for param in held.members(first)]
    if not ids or ids != [param.id for param in held.members(second)]:
        return False
    if first.options != second.options or [g.options for g in first.groups] != [
        g.options for g in second.groups
    ]:
        return False
    steps = [step for step in first.steps if step.index < other.index]
    inside = len(one.loops) + 1
    if not steps or any(len(step.loops) != inside for step in steps):
        return False
    between = world.events[one.index + 1 : other.index]
    chosen = set(ids)
    return not any(
        event.kind in (REPLACE, LOAD, ESCAPE)
        or (event.kind == FLAG and any(param.id in chosen for param in event.params))
        for event in between
    )
