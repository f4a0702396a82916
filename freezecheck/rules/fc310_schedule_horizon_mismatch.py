from __future__ import annotations

from collections.abc import Iterator

from freezecheck import stated_rates
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import SCHEDULE, Scheduler, World
from freezecheck.rule import Rule
from freezecheck.timeline import OVERRUN, SCHEDULER, Event, Timeline

_CLEARLY = 1.2  # times as many steps: by then the rate is back at a tenth of its peak
_CLIMBED = 0.05  # of the way back


class ScheduleHorizonMismatch(Rule):
    """A cosine schedule is stepped past its `T_max`, and climbs back to the full rate.

    ## What it does

    Finds `CosineAnnealingLR` schedules that are stepped more often than their `T_max` says:
    with `T_max` in epochs and a step for every batch, or for more epochs than it was made for.

    ## Why it matters

    `CosineAnnealingLR` does not stop at its end. It follows the cosine on, so that after
    another `T_max` steps the rate is at its full height again, and so on up and down. Stepped
    once a batch with `T_max=epochs`, it swings from full to zero and back many times in every
    epoch, and the rate that the training ends with is an accident.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    EPOCHS = 3
    data = torch.utils.data.TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 5)
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)  # <- FC310

    for epoch in range(EPOCHS):
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            scheduler.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    EPOCHS = 3
    data = torch.utils.data.TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 5)
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)

    for epoch in range(EPOCHS):
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        scheduler.step()
    ```

    A step for every batch, and a `T_max` that counts batches:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    EPOCHS = 3
    data = torch.utils.data.TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 5)
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))

    for epoch in range(EPOCHS):
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            scheduler.step()
    ```

    ## How it is found

    In a recorded run: the schedule is stepped for the 1.2-fold of its `T_max`, and the rate is on
    its way up. Where the epochs are cut short (`--fast-forward`), a horizon that does not follow
    the length of the loaders is never reached, and nothing is said.

    From the text: the passes of the loops around `scheduler.step()` are multiplied, and must
    be clearly more than `T_max`. A loop over `range(args.epochs)` inside or outside of
    which another one runs is recognised by its text. A loop over a loader is taken to have more
    than one pass.

    ## Limits

    A schedule that is meant to swing up and down looks the same; `CosineAnnealingWarmRestarts`
    says that better. In a text, steps under a condition are not counted, and nothing is said about
    them. In a run whose epochs are cut short nothing is said where gradients are accumulated, since
    the number of steps in an epoch is then rounded.

    ## References

    - [torch.optim.lr_scheduler.CosineAnnealingLR](https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.CosineAnnealingLR.html)
    """

    code = "FC310"
    name = "schedule-horizon-mismatch"
    severity = Severity.WARNING

    def in_timeline(self, timeline: Timeline) -> Iterator[Finding]:
        for event in timeline.of(OVERRUN):
            label, end = event.subject, event.data["end"]
            if _climbs(event) and not (event.data["cut"] and event.data["accumulates"]):
                built = timeline.last(SCHEDULER, label)
                yield self.finding(
                    f"CosineAnnealingLR with T_max={end:g} is in its step {event.value}, and its rate"
                    f" is back at {event.data['rate']:g}. Past T_max it climbs to the full rate, and"
                    " swings up and down from there on.",
                    site=(built.site if built else None) or event.site,
                    symbol=label,
                    notes=[Note("stepped here", event.site)],
                    fix=_FIX,
                    subject=label,
                    step=event.step,
                )

    def in_source(self, world: World) -> Iterator[Finding]:
        parts = {part.id for scheduler in world.schedulers for part in scheduler.parts}
        told = set()
        for scheduler in world.schedulers:
            if stated_rates.short(scheduler) != "CosineAnnealingLR" or scheduler.id in parts:
                continue
            steps = list(world.of(SCHEDULE, scheduler))
            excess = _excess(world, scheduler) if steps else ""
            if excess and scheduler.site not in told:
                told.add(scheduler.site)
                end = scheduler.options["T_max"]
                end = getattr(end, "key", end)
                yield self.finding(
                    f"CosineAnnealingLR with T_max={end} is stepped {excess}. Past T_max it climbs"
                    " back to the full rate, and swings up and down from there on.",
                    site=scheduler.site,
                    symbol=scheduler.label,
                    notes=[Note("stepped here", steps[-1].site)],
                    fix=_FIX,
                    subject=scheduler.label,
                )


_FIX = (
    "make T_max the number of scheduler steps (epochs, or epochs * len(loader) where it is stepped"
    " for every batch)"
)


def _climbs(event: Event) -> bool:
    """The rate has left its floor: it was not held there, or set by hand."""
    low, top = event.data["low"], event.data["top"]
    return bool(event.data["rate"] - low > _CLIMBED * (top - low) > 0)


def _excess(world: World, scheduler: Scheduler) -> str:
    """How it is stepped more often than it was made for; "" if it may not be."""
    end = scheduler.options.get("T_max")
    count = stated_rates.times(world, scheduler.steps, scheduler.event)
    if isinstance(end, int) and count is not None:
        return f"{count} times" if count > _CLEARLY * end else ""
    end = getattr(end, "key", end)
    around = scheduler.event.loops if scheduler.event is not None else ()
    places = {(e.site, tuple(line for line, _ in e.loops)) for e in scheduler.steps}
    if len(places) != 1 or isinstance(end, bool) or not isinstance(end, (int, str)):
        return ""
    if any(e.loops[: len(around)] != around for e in scheduler.steps):
        return ""
    ((_, lines),) = places
    lengths = [world.lengths.get(line) for line in lines[len(around) :]]
    if end not in lengths or not stated_rates.always(world, scheduler.steps, len(around)):
        return ""
    lengths.remove(end)
    return "in two loops, of which one alone is that long" if lengths and 1 not in lengths else ""
