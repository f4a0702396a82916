from __future__ import annotations

from collections.abc import Iterator, Sequence

from freezecheck import rates, snapshot, stated_rates
from freezecheck.account import names
from freezecheck.finding import Finding, Note, Severity, Site
from freezecheck.phases import Phase
from freezecheck.program import STEP, Event, Optimizer, Param, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Param as Weight
from freezecheck.snapshot import Snapshot
from freezecheck.timeline import OPTIMIZER, Timeline
from freezecheck.timeline import STEP as STEPPED

_FEW = 2  # single tensors are no part of a network
_TEXT = "Steps of that size can overwrite what they were pretrained for."
_FIX = "give what was unfrozen a rate of its own, at a tenth to a hundredth of the head's"


class RateNotLoweredAfterUnfreeze(Rule):
    """The backbone is unfrozen, and learns at the rate that was right for the head alone.

    ## What it does

    Finds trainings in two phases, a new head first and then pretrained layers with it, where
    the second phase goes on at the first one's rate, and that is several times what pretrained
    layers are tuned with: above 3e-4 for the Adam family, above 0.06 for SGD with momentum
    0.9 (0.6 without).

    ## Why it matters

    The first phase is there so that a random head does not spoil the pretrained layers. A
    second one at the head's rate does it after all: steps of that size move the backbone far
    from what it was pretrained for, most of all with a new Adam, whose first steps are all as
    long as the rate allows. The accuracy falls when the layers are unfrozen, and may never
    come back to that of the head alone.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for p in model.parameters():
        p.requires_grad = False
    model.fc = torch.nn.Linear(512, 5)
    data = torch.utils.data.TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 5)
    loader = torch.utils.data.DataLoader(data, batch_size=4)

    def train(optimizer, epochs):
        for epoch in range(epochs):
            model.eval()
            for images, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()

    train(torch.optim.Adam(model.fc.parameters(), lr=1e-3), epochs=1)
    for p in model.parameters():
        p.requires_grad = True
    train(torch.optim.Adam(model.parameters(), lr=1e-3), epochs=2)  # <- FC303
    ```

    One optimizer for both phases, whose rate nobody lowers:

    ```python source
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    for epoch in range(4):
        model.eval()
        if epoch == 2:
            model.requires_grad_(True)  # <- FC303
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
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
    data = torch.utils.data.TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 5)
    loader = torch.utils.data.DataLoader(data, batch_size=4)

    def train(optimizer, epochs):
        for epoch in range(epochs):
            model.eval()
            for images, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()

    train(torch.optim.Adam(model.fc.parameters(), lr=1e-3), epochs=1)
    for p in model.parameters():
        p.requires_grad = True
    train(torch.optim.Adam(model.parameters(), lr=1e-5), epochs=2)
    ```

    One optimizer, whose rate is lowered:

    ```python source
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    for epoch in range(4):
        model.eval()
        if epoch == 2:
            model.requires_grad_(True)
            for group in optimizer.param_groups:
                group["lr"] = 1e-5
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    ```

    The backbone in a group of its own, with a rate of its own, from the start:

    ```python source
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.requires_grad_(False)
    backbone = [*model.layer3.parameters(), *model.layer4.parameters()]
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.Adam(
        [{"params": backbone, "lr": 1e-5}, {"params": model.fc.parameters(), "lr": 1e-3}]
    )

    for epoch in range(4):
        model.eval()
        if epoch == 2:
            model.layer4.requires_grad_(True)
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    ```

    ## How it is found

    In a recorded run its phases are compared, in a text the order of events: pretrained
    parameters were frozen while a new layer was trained, and train with it later, at a rate that
    is known, high, and not below that of the first phase. Of an optimizer that was built for the second phase, the schedule's peak counts;
    of one that serves both, the rate at the moment of the unfreezing.

    ## Limits

    Nothing is said where a rate comes from the command line or from a file, or where the
    schedule's state at the unfreezing cannot be told. The limits are those of FC301.

    ## References

    - [Howard and Ruder 2018, gradual unfreezing](https://arxiv.org/abs/1801.06146)
    - [Kumar et al. 2022, fine-tuning can distort pretrained features](https://arxiv.org/abs/2202.10054)
    """

    code = "FC303"
    name = "rate-not-lowered-after-unfreeze"
    severity = Severity.WARNING
    explains = ("FC301",)

    def in_phases(self, phases: Sequence[Phase], past: Timeline) -> Iterator[Finding]:
        start = phases[0].snapshot
        for index, model in enumerate(start.models):
            head = rates.fresh_head(start, index)
            first = _fastest(start, head[1]) if head else None
            if head is None or first is None:
                continue
            fresh = {p.name for p in head[1]}
            frozen = {p.name for p in start.of_model(index) if not p.trainable}
            for phase in phases[1:]:
                trained = _learning(phase.snapshot, model.label)
                late = [p for p in trained if p.name in frozen]
                frozen.difference_update(p.name for p in late)
                if len(late) > _FEW and any(p.name in fresh for p in trained):
                    yield from self._woken(phase, past, model.label, min(fresh), first, late)

    def _woken(
        self, phase: Phase, past: Timeline, label: str, head: str, first: float, late: list[Weight]
    ) -> Iterator[Finding]:
        """What was frozen until this phase, if it learns too fast."""
        now = phase.snapshot
        for index in now.active:
            optimizer = now.optimizers[index]
            new = _is_new(past, optimizer.label, phase.first)
            at = rates.tops(now, index) if new else [g.lr for g in optimizer.groups]
            rate = rates.of_params(late, index, at)
            if rate is None or rate < 0.99 * first:
                continue
            places = {h.group for p in late for h in p.held if h.optimizer == index}
            group = optimizer.groups[next(j for j in sorted(places) if at[j] == rate)]
            if not rates.is_high(optimizer, group, rate):
                continue
            unfrozen = past.until(phase.events).written(
                {now.path(p.model, p.name) for p in late}, True
            )
            site = group.site or optimizer.site
            if not new and group.site is None and unfrozen:
                site = unfrozen.site
            yield self.finding(
                f"Pretrained layers of {label} ({snapshot.summarise(_modules(late))}), frozen while"
                f" the new {head.rpartition('.')[0]} was trained at {first:g}, now learn at"
                f" {rate:g} with {optimizer.class_name}. {_TEXT}",
                site=site,
                symbol=optimizer.label,
                notes=[Note("unfrozen here", unfrozen.site)] if unfrozen else (),
                fix=_FIX,
                subject=(label, optimizer.label),
                step=phase.first,
            )
            return

    def in_source(self, world: World) -> Iterator[Finding]:
        told: set[Site | None] = set()
        for step in world.of(STEP):
            finding = self._phase(world, step)
            if finding is not None and finding.site not in told:
                told.add(finding.site)
                yield finding

    def _phase(self, world: World, step: Event) -> Finding | None:
        """A step that begins to move what was frozen when the head was trained."""
        optimizer = step.subject
        trained = stated_rates.learning(optimizer, step)
        fresh = [p for p, _ in trained if p.module.pretrained is False and p.norm is not True]
        body = [
            p
            for p in stated_rates.weights([p for p, _ in trained])
            if p.module.pretrained is True and p.writes and not optimizer.open
        ]
        if not fresh or not stated_rates.is_much(body):
            return None
        before = stated_rates.stepped(world, fresh[0], step.index)
        if before is None or stated_rates.stepped(world, body[0], step.index) is not None:
            return None
        late = [p for p in body if p.trains(before.index) is False]
        if not stated_rates.is_much(late) or late[0].module.root is not fresh[0].module.root:
            return None
        first = self._first(world, before, fresh[0])
        now = self._now(world, optimizer, step, late[0])
        if first is None or now is None or now < 0.99 * first:
            return None
        group = stated_rates.group_of(optimizer, late[0], step.index)
        if group is None or not stated_rates.is_high(world, optimizer, group, now):
            return None
        unfrozen = late[0].written(step.index)
        kept = optimizer is before.subject
        site = unfrozen.site if kept and group.event is optimizer.event and unfrozen else group.site
        root = late[0].module.root
        return self.finding(
            f"Pretrained layers of {root.shown} ({names(late)}), frozen while the new"
            f" {names(fresh)} was trained at {first:g}, now learn at {now:g} with"
            f" {stated_rates.short(optimizer)}. {_TEXT}",
            site=site,
            symbol=optimizer.shown,
            notes=[
                Note("the head alone is trained here", before.site),
                *([Note("unfrozen here", unfrozen.site)] if unfrozen else []),
                Note("the unfrozen layers are trained here", step.site),
            ],
            fix=_FIX,
            subject=(root.shown, optimizer.shown),
        )

    def _first(self, world: World, step: Event, param: Param) -> float | None:
        """The rate of the head in the first phase."""
        group = stated_rates.group_of(step.subject, param, step.index)
        return None if group is None else stated_rates.at(world, step.subject, group, step)

    def _now(self, world: World, optimizer: Optimizer, step: Event, param: Param) -> float | None:
        """The rate of what was unfrozen: at its peak where the optimizer is new."""
        group = stated_rates.group_of(optimizer, param, step.index)
        if group is None:
            return None
        new = next(world.uses(optimizer), None) is step
        look = stated_rates.top if new else stated_rates.at
        return look(world, optimizer, group, step)


def _fastest(now: Snapshot, params: list[Weight]) -> float | None:
    """The rate at which these are trained, at its peak."""
    found = (rates.of_params(params, index, rates.tops(now, index)) for index in now.active)
    return max((rate for rate in found if rate is not None), default=None)


def _learning(now: Snapshot, label: str) -> list[Weight]:
    """What of a model an optimizer trains; without norms and biases, which have rates of
    their own in many recipes."""
    norms = {(n.model, n.path) for n in now.norms}
    return [
        p
        for p in now.trainable
        if now.models[p.model].label == label
        and any(h.optimizer in now.active for h in p.held)
        and (p.model, p.module) not in norms
        and not p.name.endswith("bias")
    ]


def _is_new(past: Timeline, label: str, step: int) -> bool:
    """An optimizer has taken no step before this one."""
    new = True
    for event in past.events:
        if event.subject == label and event.step < step:
            new = event.kind == OPTIMIZER or (new and event.kind != STEPPED)
    return new


def _modules(params: list[Weight]) -> list[str]:
    return list(dict.fromkeys(p.module for p in params))
