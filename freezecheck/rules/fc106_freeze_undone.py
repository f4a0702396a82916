from __future__ import annotations

from collections.abc import Iterator, Sequence

from freezecheck.account import names
from freezecheck.finding import Finding, Note, Severity, Site
from freezecheck.held import ids, moments
from freezecheck.phases import Phase
from freezecheck.program import (
    ATTRIBUTE,
    BACKWARD,
    ESCAPE,
    FLAG,
    FORWARD,
    STEP,
    Event,
    Optimizer,
    Param,
    World,
)
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot, count, summarise
from freezecheck.story import story
from freezecheck.timeline import Event as Recorded
from freezecheck.timeline import Timeline


class FreezeUndone(Rule):
    """What was frozen is made trainable again before anything is trained.

    ## What it does

    Finds a freeze of a part of a model which a later line undoes before the first step: one
    that sets `requires_grad = True` on more than that part, or that wraps a frozen
    parameter in `nn.Parameter(...)` anew.

    ## Why it matters

    The flag that counts is the last one. A blanket `requires_grad = True` further down, in
    a helper or left over from an experiment, makes the earlier freeze a dead line, and
    `nn.Parameter(...)` makes a new parameter that requires grad by default. The
    part that was to be kept is trained, with the rate of everything else.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for param in model.layer1.parameters():
        param.requires_grad = False
    model.fc = torch.nn.Linear(512, 5)
    for param in model.parameters():
        param.requires_grad = True  # <- FC106
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
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
    for param in model.parameters():
        param.requires_grad = False
    for param in model.layer4.parameters():
        param.requires_grad = True
    model.fc = torch.nn.Linear(512, 5)
    new = list(model.fc.parameters())
    optimizer = torch.optim.SGD(
        [{"params": model.layer4.parameters(), "lr": 1e-4}, {"params": new, "lr": 1e-2}]
    )
    model.eval()

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    First the head is trained, then everything:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    model.eval()
    head = list(model.fc.parameters())
    body = [p for name, p in model.named_parameters() if not name.startswith("fc.")]
    for param in body:
        param.requires_grad = False
    optimizer = torch.optim.SGD(head, lr=1e-2)
    for epoch in range(2):
        if epoch == 1:
            for param in model.parameters():
                param.requires_grad = True
            optimizer.add_param_group({"params": body, "lr": 1e-4})
        loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## How it is found

    From the text: all that the freeze wrote to, and more, is written to by the later line,
    with nothing in between that uses the model, and the optimizer is first used with these
    parameters in it and trainable.

    In a run, the same: both lines are in one file of the user's, no condition is
    decided on the way from one to the other, no module has run before, and the first step
    trains what was frozen.

    ## Limits

    A freeze of exactly what is unfrozen later is taken for a reset, and an unfreeze that
    hangs on a condition of its own for a choice. That a frozen parameter is wrapped anew is
    seen in a text alone.

    ## References

    - [torch.Tensor.requires_grad](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.requires_grad.html)
    - [torch.nn.Parameter](https://docs.pytorch.org/docs/stable/generated/torch.nn.parameter.Parameter.html)
    """

    code = "FC106"
    name = "freeze-undone"
    severity = Severity.ERROR

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        trained = {
            now.path(p.model, p.name): p
            for p in now.trainable
            if any(h.optimizer in now.active for h in p.held)
        }
        told: set[Site | None] = set()
        for undo, undone in _undone(past):
            params = [trained[name] for name in undone if name in trained]
            if not params or undo.site in told:
                continue
            told.add(undo.site)
            labels = dict.fromkeys(
                now.optimizers[h.optimizer].label for p in params for h in p.held
            )
            models = dict.fromkeys(now.models[p.model].label for p in params)
            paths = [now.path(p.model, p.name) for p in params]
            size = count(len(paths), "tensor")
            one = len(paths) == 1
            yield self.finding(
                f"{size} of {summarise([*models])} ({summarise(paths)}) {'was' if one else 'were'}"
                f" frozen on purpose, and {'is' if one else 'are'} made trainable again here before"
                f" the first step: {summarise([*labels])} trains {'it' if one else 'them'}.",
                site=undo.site,
                symbol=paths[0],
                notes=story(past, paths, [*labels]),
                fix=_REMEDY,
                subject=(*models, *labels),
            )

    def stands(self, finding: Finding, phase: Phase, phases: Sequence[Phase]) -> bool:
        """What trains from a later phase on may have been meant to."""
        return phase is phases[0]

    def in_source(self, world: World) -> Iterator[Finding]:
        told: set[Site | None] = set()
        for optimizer in world.optimizers:
            end = next(moments(world, optimizer), None)
            if end is None:
                continue
            for freeze, undo, params in (*_unfrozen(world, end), *_wrapped(world, end)):
                held = [p for p in params if p.id in ids([optimizer], end.index)]
                if held and undo.site not in told:
                    told.add(undo.site)
                    yield self._tell(freeze, undo, held, optimizer)

    def _tell(
        self, freeze: Event, undo: Event, params: list[Param], optimizer: Optimizer
    ) -> Finding:
        model = params[0].module.root.shown
        again = "wrapped anew" if undo.kind == ATTRIBUTE else "made trainable again"
        return self.finding(
            f"{names(params)} of {model} was frozen on purpose, and is {again} here before the"
            f" first step: {optimizer.shown} trains it.",
            site=undo.site,
            symbol=names(params[:1]),
            notes=[Note("frozen here", freeze.site)],
            fix=_REMEDY,
            subject=(model, optimizer.shown),
        )


_REMEDY = "freeze after this line, or leave the frozen part out of it"


def _undone(past: Timeline) -> Iterator[tuple[Recorded, tuple[str, ...]]]:
    """Lines that unfreeze more than an earlier one froze, before a module has run, and what
    that one froze, if nothing wrote to it later."""
    flags = [e for e in past.of(FLAG) if not e.step]
    for place, undo in enumerate(flags):
        if undo.value is not True or undo.data["ran"] is not False or not undo.data["direct"]:
            continue
        later = {name for event in flags[place + 1 :] for name in event.names}
        for freeze in flags[:place]:
            names = set(freeze.names)
            if (
                freeze.value is False
                and names < set(undo.names)
                and names
                and later.isdisjoint(names)
                and _one_way(freeze, undo)
            ):
                yield undo, freeze.names


def _one_way(freeze: Recorded, undo: Recorded) -> bool:
    """The user's own lines of one file, with no condition decided between them."""
    if not freeze.data["direct"] or not freeze.site or not undo.site:
        return False
    same = freeze.site.path == undo.site.path
    return same and set(undo.data["choices"]) <= set(freeze.data["choices"])


def _unfrozen(world: World, end: Event) -> Iterator[tuple[Event, Event, list[Param]]]:
    """A freeze, the line that undoes it, and what both are about."""
    flags = [e for e in world.of(FLAG) if e.index < end.index and e.data.get("via") != "escape"]
    for undo in flags:
        every = {p.id for p in undo.params} if undo.value is True else set()
        for freeze in flags if every else ():
            if freeze.index >= undo.index or freeze.value is not False:
                continue
            still = _still(freeze.params)
            if not still or not {p.id for p in still} < every:
                continue
            last = all(p.written(end.index) is undo for p in still)
            if last and not _is_choice(world, freeze, undo) and not _between(world, freeze, undo):
                yield freeze, undo, still


def _wrapped(world: World, end: Event) -> Iterator[tuple[Event, Event, list[Param]]]:
    """The same for `nn.Parameter(frozen)`."""
    sources = {
        e.subject.id: e
        for e in world.of(ATTRIBUTE)
        if e.data["attribute"] == "Parameter" and e.value is True
    }
    for event in world.of(ATTRIBUTE):
        old = event.data.get("old")
        if not isinstance(old, Param) or old.id not in sources or event.index > end.index:
            continue
        freeze = old.written(event.index)
        if freeze is None or freeze.value is not False or not event.params:
            continue
        new = event.params[0]
        if new.trains(end.index) and not _between(world, freeze, event):
            yield freeze, event, [new]


def _still(params: tuple[Param, ...]) -> list[Param]:
    """Those that are still in their model."""
    roots = {id(p.module.root): {q.id for q in p.module.root.parameters()} for p in params}
    return [p for p in params if p.id in roots[id(p.module.root)]]


def _between(world: World, freeze: Event, undo: Event) -> bool:
    """Something uses a model between the two."""
    return any(
        e.index < undo.index
        for kind in (FORWARD, BACKWARD, STEP, ESCAPE)
        for e in world.since(freeze, kind)
    )


def _is_choice(world: World, freeze: Event, undo: Event) -> bool:
    """A condition was decided on the way from one to the other."""
    return any(freeze.index < index <= undo.index for index in world.chosen)
