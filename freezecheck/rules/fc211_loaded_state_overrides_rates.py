from __future__ import annotations

import re
from collections.abc import Iterator

from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import LOAD, RATE, SCHEDULER, STEP, Event, Optimizer, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot
from freezecheck.story import story
from freezecheck.timeline import GROUP, OPTIMIZER, Timeline
from freezecheck.timeline import Event as Recorded

_OPTIONS = ("lr", "weight_decay", "momentum")


class LoadedStateOverridesRates(Rule):
    """Loading the optimizer's state brings back its old rates.

    ## What it does

    Finds `optimizer.load_state_dict` after a rate (or weight decay, or momentum) was set
    that the loaded state overwrites.

    ## Why it matters

    An optimizer's state holds its parameter groups, with `lr`, `weight_decay` and all other
    options, and loading takes them from there. Who builds a new optimizer with a lower
    rate for the second phase, and loads the old one's state for the sake of its moments,
    trains on at the old rate. Nothing tells.

    ## Bad

    The rate is set by hand, and then overwritten:

    ```python source
    import torch, torchvision

    model = torchvision.models.resnet18(num_classes=5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for group in optimizer.param_groups:
        group["lr"] = 1e-5
    checkpoint = torch.load("phase1.pt")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])  # <- FC211
    for images, labels in loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    ```

    The new optimizer takes over the moments of the old one, and its rate:

    ```python
    import torch
    from torch import nn

    model = nn.Linear(8, 4)
    x, y = torch.randn(16, 8), torch.arange(16) % 4
    old = torch.optim.Adam(model.parameters(), lr=1e-3)
    new = torch.optim.Adam(model.parameters(), lr=1e-5)
    new.load_state_dict(old.state_dict())  # <- FC211
    nn.functional.cross_entropy(model(x), y).backward()
    new.step()
    ```

    ## Good

    Loaded first, set afterwards:

    ```python source
    import torch, torchvision

    model = torchvision.models.resnet18(num_classes=5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    checkpoint = torch.load("phase1.pt")
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    for group in optimizer.param_groups:
        group["lr"] = 1e-5
    for images, labels in loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    ```

    A true resume wants the old rates:

    ```python source
    import torch, torchvision

    model = torchvision.models.resnet18(num_classes=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30)
    if args.resume:
        checkpoint = torch.load(args.resume)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        scheduler.load_state_dict(checkpoint["scheduler"])
    for epoch in range(checkpoint["epoch"], 90):
        for images, labels in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        scheduler.step()
    ```

    ## How it is found

    In a text: an option of a group is set by a line of its own, and state is loaded
    before the next step; or the state is that of another optimizer of the same text
    whose rate is known to differ from the one that the new optimizer was built with. It
    is silent where the option is set again after the loading, where a scheduler is built then,
    and about a rate that is given to the constructor alone when the state comes from a
    file: that is how training is resumed.

    In a run, the same two stories, with the rates as they were before and after the loading
    and as they are at the next step. State of another optimizer counts if that one was built with another
    rate: if with the same, its schedule has come further, and training goes on from there.

    ## Limits

    In a text, state that comes from a file is taken to have other rates than the one that was
    set. In a run, a state that was copied on its way from one optimizer to the other counts as
    that of a file.

    ## References

    - [Optimizer.load_state_dict](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.load_state_dict.html)
    """

    code = "FC211"
    name = "loaded-state-overrides-rates"
    severity = Severity.WARNING

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for index in now.active:
            optimizer = now.optimizers[index]
            load = past.last(LOAD, optimizer.label)
            if load is None or not load.data.get("before") or not load.data.get("after"):
                continue
            after = past.events[past.order(load) + 1 :]
            groups = [(g.lr, g.weight_decay) for g in optimizer.groups]
            loaded = [(g["lr"], g["weight_decay"] or 0.0) for g in load.data["after"]]
            if groups != loaded or any(e.kind == SCHEDULER for e in after):
                continue  # set again since
            lost = _lost(past, load)
            if lost is not None:
                option, was, becomes, whose = lost
                yield self.finding(
                    f"The {option} of {was:g} becomes {becomes:g}{whose}: the state that"
                    f" {optimizer.label} loads brings its own rates.",
                    site=load.site,
                    symbol=optimizer.label,
                    notes=story(past, (), [optimizer.label]),
                    fix=_REMEDY,
                    subject=optimizer.label,
                )

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for event in world.of(LOAD):
            optimizer = event.subject
            if not isinstance(optimizer, Optimizer) or event.site in told:
                continue
            if not optimizer.open and _is_final(world, event):
                for finding in (self._set_by_hand(world, event), self._of_another(world, event)):
                    if finding is not None:
                        told.add(event.site)
                        yield finding
                        break

    def _set_by_hand(self, world: World, load: Event) -> Finding | None:
        if _source(world, load) is load.subject:
            return None
        last = None
        for event in world.events[: load.index]:
            if event.kind == STEP and event.subject is load.subject:
                last = None
            elif event.kind == RATE and event.subject is load.subject:
                last = event if event.data["option"] in _OPTIONS else last
        if last is None:
            return None
        option = last.data["option"]
        value = "" if last.value is None else f" to {last.value:g}"
        return self._finding(
            load,
            f"The {option} that was set{value} is lost",
            Note(f"{option} is set here", last.site),
        )

    def _of_another(self, world: World, load: Event) -> Finding | None:
        other, mine = _source(world, load), load.subject
        if other is None or other is mine or len(other.groups) != len(mine.groups):
            return None
        for old, new in zip(other.groups, mine.groups):
            was, given = other.lr(old), mine.lr(new)
            if was is not None and given is not None and was != given:
                note = Note(f"{mine.shown} is built here with lr {given:g}", mine.site)
                return self._finding(
                    load, f"The lr of {given:g} becomes {was:g}, that of {other.shown}", note
                )
        return None

    def _finding(self, load: Event, what: str, note: Note) -> Finding:
        label = load.subject.shown
        return self.finding(
            f"{what}: the state that {label} loads brings its own rates.",
            site=load.site,
            symbol=label,
            notes=[note],
            fix=_REMEDY,
            subject=label,
        )


_REMEDY = "set the rates after the state is loaded"


def _lost(past: Timeline, load: Recorded) -> tuple[str, float, float, str] | None:
    """An option that was chosen and is overwritten: its name, both values, whose the new one is."""
    pairs = [*zip(load.data["before"], load.data["after"])]
    if load.data["origin"] == "other":
        for before, after in pairs:
            if (was := before["weight_decay"]) is not None and was != after["weight_decay"]:
                return "weight_decay", was, after["weight_decay"], ", that of another optimizer"
        # Built with the same rates, the other one has only gone on with its schedule.
        chosen = load.data["built"]
    elif load.data["origin"] is None:
        chosen = _built(past, load)  # what differs from this was set by hand
    else:
        return None
    if chosen is None or len(chosen) != len(pairs):
        return None
    for (before, after), rate in zip(pairs, chosen):
        if before["lr"] not in (rate, after["lr"]):
            other = ", that of another optimizer" if load.data["origin"] else ""
            return "lr", before["lr"], after["lr"], other
    return None


def _built(past: Timeline, load: Recorded) -> list[float] | None:
    """The rates that the groups of an optimizer were given when they were made; None where a
    schedule or a step may have changed them before the load."""
    rates: list[float] | None = None
    for event in past.events[: past.order(load)]:
        if event.kind == OPTIMIZER and event.subject == load.subject:
            rates = list(event.data["rates"])
        elif event.kind == GROUP and event.subject == load.subject and rates is not None:
            rates.append(event.data["lr"])
        elif event.kind == SCHEDULER or (event.kind == STEP and event.subject == load.subject):
            rates = None
    return rates


def _is_final(world: World, load: Event) -> bool:
    """It steps with what was loaded: no rate is set and no scheduler is built before."""
    for event in world.since(load, RATE, load.subject):
        if not any(load.index < step.index < event.index for step in load.subject.steps):
            return False
    if any(e.data.get("optimizer") in (load.subject, None) for e in world.since(load, SCHEDULER)):
        return False
    return any(step.index > load.index for step in load.subject.steps)


def _source(world: World, load: Event) -> Optimizer | None:
    """The optimizer of the text whose state is loaded; None where it is not one of them."""
    state = getattr(load.data.get("state"), "key", "")
    found = re.match(r"<optimizer (\d+)>\.state_dict", state)
    return next((o for o in world.optimizers if found and o.id == int(found[1])), None)
