from __future__ import annotations

from collections.abc import Iterator

from freezecheck import modes
from freezecheck.finding import Finding, Note, Severity, Site
from freezecheck.frozen import layers
from freezecheck.modes import Training
from freezecheck.program import Event as Did
from freezecheck.program import Module, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Norm, Snapshot
from freezecheck.timeline import FLAG, GROUP, MODE, OPTIMIZER, Event, Timeline


class BatchnormEvalUndone(Rule):
    """BatchNorm was put in eval mode once, and a later `train()` on the model undid it.

    ## What it does

    Finds norm layers that the user put in eval mode, by themselves or with the frozen part
    that they are in, and that were in train mode again when the training forward ran.

    ## Why it matters

    `model.train()` goes through every module below it. A `freeze_bn(model)` before the loop
    lasts until the loop's first `model.train()`, or until the framework calls it: the
    Trainer of transformers does so at every step. From there on the running statistics
    move as if nothing had been done.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for p in model.parameters():
        p.requires_grad = False
    model.fc = torch.nn.Linear(512, 5)
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.eval()
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)

    for epoch in range(3):
        model.train()  # <- FC402
        loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    The override calls `super().train()` last:

    ```python
    import torch, torchvision
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = torchvision.models.resnet18(weights="DEFAULT").requires_grad_(False)
            self.head = nn.Linear(1000, 5)

        def train(self, mode=True):
            self.backbone.eval()
            return super().train(mode)  # <- FC402

        def forward(self, x):
            return self.head(self.backbone(x))

    model = Classifier().train()
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-3)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4))
    loss.backward()
    optimizer.step()
    ```

    ## Good

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

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    backbone = [m for name, m in model.named_children() if name != "fc"]
    for module in backbone:
        module.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)

    for epoch in range(3):
        model.train()
        for module in backbone:
            module.eval()
        loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## How it is found

    In a recorded run, from the order of the `eval()` and `train()` calls that cover a layer
    and its mode in the training forward. An `eval()` on the whole model is no such call: that
    is a validation. An `eval()` on a part counts for the frozen layers in it, one on a norm
    layer itself for every layer. Layers that were unfrozen after their `eval()` are meant to train;
    so are those whose `eval()` was called again and again and then no more (`if epoch < 5:`).

    On finished objects, before the first backward: frozen layers in eval mode in a model in
    train mode, of which the model's own `train()`, tried on a copy, puts them back. Whether
    the loop will call `eval()` again after it cannot be seen, so this is an info.

    From the text: the newest `eval()` on the layer itself, or on a part that is frozen around it,
    and a `train()` of something around that part before the training forward. Where the `eval()`
    belongs to an earlier pass of the same loop it was not made to last (`if epoch < 5:`), and
    nothing is said; nor where the layers were unfrozen in between.

    ## Limits

    Modes that are written as attributes (`m.training = False`) leave no trace, and the
    layers are then reported as FC401.

    ## References

    - [torch.nn.Module.train](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.train)
    - [pytorch/pytorch#66073: a frozen mode for BatchNorm](https://github.com/pytorch/pytorch/issues/66073)
    """

    code = "FC402"
    name = "batchnorm-eval-undone"
    severity = Severity.ERROR
    explains = ("FC401",)

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if now.recorded:
            yield from self._undone(now, past)
        elif not now.forwarded:
            yield from self._will_be(now)

    def in_source(self, world: World) -> Iterator[Finding]:
        every = modes.trainings(world)
        found: dict[tuple[int, Site | None], list[tuple[Module, Did, Did, Training]]] = {}
        for training in every:
            rest = {norm.id for norm in modes.resting(training, world)}
            for norm in modes.batchnorms(training.module):
                at = training.reached(norm)
                if at is None or norm.learns(at.index) is not True:
                    continue
                pair = _undoing(norm, at, norm.id in rest, every)
                if pair:
                    key = training.root.id, pair[1].site
                    found.setdefault(key, []).append((norm, *pair, training))
        for (_, site), undone in found.items():
            norms = list({norm.id: norm for norm, *_ in undone}.values())
            _, put, back, training = undone[0]
            label = modes.said(training.root)
            yield self.finding(
                f"Put in eval mode, and back in train mode before the training forward:"
                f" {modes.layers(norms)}. Their running mean and variance move at every forward.",
                site=site,
                symbol=f"{label}.{modes.paths(norms)[0]}",
                notes=[
                    Note("put in eval mode here", put.site),
                    Note("put back in train mode here, with everything around", back.site),
                    Note("the training forward runs here", training.forward.site),
                ],
                fix="call eval() on them after every train(), or override train() so that it"
                " keeps them in eval mode",
                subject=label,
            )

    def _undone(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        roots = {now.path(index, "") for index in range(len(now.models))}
        parts = {e.subject for e in past.of(MODE) if _meant(e) and e.subject not in roots}
        if not parts:
            return
        frozen = {id(norm) for norm in now.frozen_norms}
        found: dict[int, list[tuple[Norm, Event, Event]]] = {}
        for norm in now.norms:
            path = now.path(norm.model, norm.path)
            if norm.updates_statistics and (id(norm) in frozen or path in parts):
                wanted = parts if id(norm) in frozen else {path}
                pair = _last_pair(past.modes(path), wanted)
                if not pair or _given_up(past, *pair, frozen=id(norm) in frozen):
                    continue
                if not _unfrozen(past, pair[0], _own(now, norm)):
                    found.setdefault(norm.model, []).append((norm, *pair))
        for index, undone in found.items():
            norms = [norm for norm, _, _ in undone]
            _, put, back = undone[0]
            yield self.finding(
                f"Put in eval mode, and back in train mode before the training forward:"
                f" {layers(now, norms)}. Their running mean and variance move at every forward.",
                site=back.site or put.site,
                symbol=now.path(index, norms[0].path),
                notes=[
                    Note("put in eval mode here", put.site),
                    Note("put back in train mode here, with everything around", back.site),
                ],
                fix="call eval() on them after every train(), or override train() so that it"
                " keeps them in eval mode",
                subject=now.models[index].label,
            )

    def _will_be(self, now: Snapshot) -> Iterator[Finding]:
        for index, model in enumerate(now.models):
            if not model.training:
                continue
            resting = [
                n for n in now.frozen_norms if n.model == index and not n.training and n.reverts
            ]
            if resting:
                yield self.finding(
                    f"In eval mode only until the next train() of the model:"
                    f" {layers(now, resting)}.",
                    symbol=now.path(index, resting[0].path),
                    fix="call eval() on them after every train(), or override train() so that it"
                    " keeps them in eval mode",
                    severity=Severity.INFO,
                    subject=model.label,
                )


def _meant(event: Event) -> bool:
    """An eval() that the user's own line calls."""
    return event.value is False and bool(event.data.get("direct"))


def _last_pair(events: Iterator[Event], parts: set[str]) -> tuple[Event, Event] | None:
    """The last eval() on one of these modules, and the first train() after it."""
    put = back = None
    for event in events:
        if _meant(event) and event.subject in parts:
            put, back = event, None
        elif event.value and put and not back:
            back = event
    return (put, back) if put and back else None


def _given_up(past: Timeline, put: Event, back: Event, *, frozen: bool) -> bool:
    """The layers rested for some steps and were meant to rest no longer: their eval() came
    again and again until then, or, of layers that learn, a new stage of the training began."""
    if put.step == back.step:
        return False
    puts = {e.step for e in past.of(MODE, put.subject) if e.site == put.site and not e.value}
    staged = not frozen and any(
        e.kind in (FLAG, GROUP, OPTIMIZER) and e.step == back.step for e in past.events
    )
    return len(puts) > 1 or staged


def _own(now: Snapshot, norm: Norm) -> set[str]:
    """The names of a layer's own parameters, as events give them."""
    params = now.of_model(norm.model)
    return {now.path(norm.model, p.name) for p in params if p.module == norm.path}


def _unfrozen(past: Timeline, put: Event, names: set[str]) -> bool:
    """Parameters with these names were unfrozen after they were put in eval mode: that they
    train is then meant."""
    events = iter(past.events)
    return any(e is put for e in events) and any(
        e.kind == FLAG and e.value and not names.isdisjoint(e.names) for e in events
    )


def _undoing(
    norm: Module, at: Did, frozen: bool, every: tuple[Training, ...]
) -> tuple[Did, Did] | None:
    """The eval() that was meant to last, and the train() of a module around that ended it."""
    put = back = None
    for event in norm.modes:
        if event.index > at.index:
            break
        if event.value is False and _is_part(event.subject, norm, frozen):
            put, back = event, None
        elif event.value is False:
            put = back = None  # a validation
        elif put is not None and back is None:
            back = event if event.value and event.subject is not put.subject else None
            put = put if back is not None else None
    if put is None or back is None or modes.later_pass(put, at):
        return None
    if frozen:
        return put, back
    # One that learns: it must have learnt when it was put in eval mode, too, and not have
    # had a phase of its own in which it rested.
    rested = any(put.index < t.forward.index < back.index for t in every)
    unfrozen = any(p.trains(put.index) is not True for p in modes.own(norm))
    inside = [loop for loop in back.loops if loop not in put.loops]
    return None if unfrozen or (rested and not inside) else (put, back)


def _is_part(subject: Module, norm: Module, frozen: bool) -> bool:
    """It is the layer itself or a stand-in for such layers; or, of a frozen one, a part around it."""
    if subject.norm == "batch":
        return True
    top = norm.root
    while top.wrapper and len(top.children) == 1:
        (top,) = top.children.values()
    return frozen and subject not in (norm.root, top)
