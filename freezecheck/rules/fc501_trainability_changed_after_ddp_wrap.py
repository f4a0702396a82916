from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import dropwhile

from freezecheck import account, snapshot, timeline
from freezecheck.finding import Finding, Note, Severity, Site
from freezecheck.program import BACKWARD, WRAP, Event, Param, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot, count, summarise
from freezecheck.timeline import FLAG, REPLACE, STEP, Timeline

_DDP = "DistributedDataParallel"


class TrainabilityChangedAfterDdpWrap(Rule):
    """Parameters are frozen or unfrozen after DistributedDataParallel took them.

    ## What it does

    Finds flags that are changed on the parameters of a model behind its
    `DistributedDataParallel` wrapper, before the model is trained.

    ## Why it matters

    The wrapper looks once, when it is built, at which parameters require grad, and
    averages the gradients of these over the processes. One that is unfrozen later gets a
    gradient in each process and is stepped with it, never averaged: the copies of the model
    drift apart, in silence, and the checkpoint is that of one process. One that is frozen later is
    waited for: the second step raises.

    ## Bad

    ```python source
    import torch, torchvision
    from torch.nn.parallel import DistributedDataParallel as DDP

    model = torchvision.models.resnet18(weights="DEFAULT").cuda()
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5).cuda()
    model = DDP(model, device_ids=[0])
    for epoch in range(10):
        if epoch == 5:
            for p in model.module.layer4.parameters():
                p.requires_grad = True  # <- FC501
        optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.01)
        model.eval()
        for x, y in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    ```

    The same in two processes:

    ```python ranks=2
    import torch
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel as DDP

    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    model[0].requires_grad_(False)
    ddp = DDP(model)
    for step in range(4):
        if step == 2:
            model[0].requires_grad_(True)  # <- FC501
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        ddp(torch.randn(4, 16)).square().mean().backward()
        optimizer.step()
    ```

    Frozen behind the wrapper:

    ```python source
    import torch, torchvision

    model = torchvision.models.vit_b_16(weights="DEFAULT").cuda()
    model.heads = torch.nn.Linear(768, 5)
    ddp = torch.nn.parallel.DistributedDataParallel(model.cuda())
    model.encoder.requires_grad_(False)  # <- FC501
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.01)
    ddp.train()
    model.encoder.eval()
    for x, y in loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(ddp(x), y).backward()
        optimizer.step()
    ```

    ## Good

    Flags first, the wrapper last; wrapped again when they change:

    ```python source
    import torch, torchvision
    from torch.nn.parallel import DistributedDataParallel as DDP

    model = torchvision.models.resnet18(weights="DEFAULT").cuda()
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5).cuda()
    for epoch in range(10):
        if epoch in (0, 5):
            model.layer4.requires_grad_(epoch == 5)
            ddp = DDP(model, device_ids=[0])
            optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.01)
        ddp.eval()
        for x, y in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(ddp(x), y).backward()
            optimizer.step()
    ```

    A discriminator that is frozen as a whole while the generator is stepped, and a wrapper
    that looks for unused parameters, can do with it:

    ```python source
    import torch
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel as DDP

    G, D = DDP(nn.Linear(8, 8)), DDP(nn.Linear(8, 1))
    opt_g = torch.optim.Adam(G.parameters(), lr=1e-4)
    opt_d = torch.optim.Adam(D.parameters(), lr=1e-4)
    for x in loader:
        D.requires_grad_(False)
        opt_g.zero_grad()
        D(G(x)).mean().backward()
        opt_g.step()
        D.requires_grad_(True)
        opt_d.zero_grad()
        (D(x).mean() - D(G(x).detach()).mean()).backward()
        opt_d.step()
    ```

    ## How it is found

    In a run: which parameters required grad when the wrapper was built, and which do at
    the step. Of those that the wrapper does not know, a finding names the ones that got a gradient
    and are in an optimizer. Of finished objects: the wrapper is asked how many it took.

    In a text: which parameters require grad is known where the wrapper is built, and known to
    be otherwise at a `backward()` before the model is wrapped again. A freeze counts only if
    other parameters behind the same wrapper still train, and if the wrapper was not told to
    look for unused parameters. With `static_graph=True` it looks once, at the first step.

    ## Limits

    In a text, wrappers that a framework puts around a model are not seen.

    ## References

    - [torch.nn.parallel.DistributedDataParallel](https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html)
    - [Distributed Data Parallel: internal design](https://docs.pytorch.org/docs/stable/notes/ddp.html#internal-design)
    """

    code = "FC501"
    name = "trainability-changed-after-ddp-wrap"
    severity = Severity.ERROR
    explains = ("FC505",)

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        wraps = {event.subject: event for event in past.of(timeline.WRAP) if event.value == _DDP}
        if not wraps:
            yield from self._counted(now)
        for wrap in wraps.values():
            behind = _behind(now, wrap)
            late = [p for p in behind if p.trainable and p.held and p.grad is not None]
            late = [p for p in late if _symbol(now, p) not in wrap.names]
            for site, params in _by_line(now, past, wrap, late, True).items():
                yield self._unfrozen(now, past, wrap, site, params)
            gone = [p for p in behind if not p.trainable and _symbol(now, p) in wrap.names]
            going = any(p.trainable and _symbol(now, p) in wrap.names for p in behind)
            if going and not wrap.data["unused"]:
                for site, params in _by_line(now, past, wrap, gone, False).items():
                    if site is not None or not wrap.data["static"]:
                        yield self._frozen(now, wrap, site, params)

    def _counted(self, now: Snapshot) -> Iterator[Finding]:
        """Nobody saw the wrapper being built; it knows how many tensors it then took."""
        for part in now.shared:
            names = set(part.names)
            behind = [p for p in now.owned if p.model == part.model and p.name in names]
            trainable = [p for p in behind if p.trainable]
            moving = [p for p in trainable if p.held and (p.grad or not now.after_backward)]
            if part.taken is None or not moving:
                continue
            before = f"{_DDP} was built when {count(part.taken, 'tensor')} required grad;"
            if len(moving) > part.taken:
                what = (
                    f"{before} {len(moving):,} train now, and the gradients of"
                    f" {len(moving) - part.taken:,} of them are not averaged over the processes,"
                    " whose copies drift apart."
                )
            elif len(trainable) < part.taken and not part.spares:
                what = (
                    f"{before} {len(trainable):,} do now. It waits for the gradients of the others,"
                    " averages none, and the second step raises."
                )
            else:
                continue
            yield self.finding(
                what,
                fix="freeze and unfreeze before the model is wrapped, or wrap it again",
                subject=now.models[part.model].label,
                severity=Severity.WARNING if len(part.ranks) == 1 else None,
            )

    def _unfrozen(
        self,
        now: Snapshot,
        past: Timeline,
        wrap: timeline.Event,
        site: Site | None,
        params: Sequence[snapshot.Param],
    ) -> Finding:
        names = [_symbol(now, p) for p in params]
        model = now.models[params[0].model]
        alone = wrap.data["processes"] == 1
        framed = any(event.value == "lightning-finetuning" for event in past.of(timeline.FACT))
        return self.finding(
            f"{summarise(names)} {_verb(names, 'trains', 'train')} behind DistributedDataParallel,"
            f" which was built when {_verb(names, 'it', 'they')} did not:"
            f" {_verb(names, 'its gradient is', 'their gradients are')} not averaged over the"
            " processes, whose copies drift apart."
            + (" (One process alone takes part here: nothing drifts yet.)" if alone else ""),
            site=site or wrap.site,
            symbol=names[0],
            notes=[Note("wrapped here", wrap.site)],
            fix="train what comes after the unfreezing in another fit(), which wraps the model anew"
            if framed
            else "unfreeze before the model is wrapped, or wrap it again after this",
            subject=model.label,
            severity=Severity.WARNING if alone else None,
        )

    def _frozen(
        self,
        now: Snapshot,
        wrap: timeline.Event,
        site: Site | None,
        params: Sequence[snapshot.Param],
    ) -> Finding:
        names = [_symbol(now, p) for p in params]
        return self.finding(
            f"{summarise(names)} {_verb(names, 'is', 'are')} frozen since DistributedDataParallel was"
            f" built: it waits for {_verb(names, 'its gradient', 'their gradients')}, averages none"
            " at this step, and the next one raises.",
            site=site or wrap.site,
            symbol=names[0],
            notes=[Note("wrapped here", wrap.site)],
            fix="freeze before the model is wrapped",
            subject=now.models[params[0].model].label,
        )

    def in_source(self, world: World) -> Iterator[Finding]:
        told: set[object] = set()
        for wrap in world.of(WRAP):
            if wrap.value != "DistributedDataParallel" or wrap.subject.escaped is not None:
                continue
            for backward in world.since(wrap, BACKWARD):
                if any(e.index < backward.index for e in world.since(wrap, WRAP, wrap.subject)):
                    break
                for flag, params in _changed(wrap, backward):
                    if flag.site not in told:
                        told.add(flag.site)
                        yield self._judge(world, wrap, flag, params)

    def _judge(self, world: World, wrap: Event, flag: Event, params: list[Param]) -> Finding:
        model = wrap.subject.root.shown
        names = account.names(params)
        be, its = account.verb(params), account.verb(params, "its", "their")
        if flag.value:
            what = (
                f"{names} of {model} {be} unfrozen here, after DistributedDataParallel was built:"
                f" {its} gradients are not averaged over the processes, whose copies drift apart."
            )
            fix = "unfreeze before the model is wrapped, or wrap it again after this"
        else:
            what = (
                f"{names} of {model} {be} frozen here, after DistributedDataParallel was built: the"
                f" wrapper waits for {its} gradients, and the second step raises."
            )
            fix = "freeze before the model is wrapped"
        return self.finding(
            what,
            site=flag.site,
            symbol=account.each(params)[0],
            notes=[Note("wrapped here", wrap.site)],
            fix=fix,
            subject=model,
        )


def _changed(wrap: Event, backward: Event) -> Iterator[tuple[Event, list[Param]]]:
    """The flags set since the wrapper was built that hold at a backward, and on what."""
    every = list(wrap.subject.parameters())
    taken = [p for p in every if p.trains(wrap.index) is True]
    going = any(p.trains(backward.index) is True for p in taken)
    unused = wrap.data["wrapper"].options.get("find_unused_parameters", False)
    found: dict[int, tuple[Event, list[Param]]] = {}
    for param in every:
        flag, before = param.written(backward.index), param.trains(wrap.index)
        now = param.trains(backward.index)
        if flag is None or flag.index < wrap.index or None in (before, now) or before is now:
            continue
        if now or (going and unused is False):
            found.setdefault(flag.index, (flag, []))[1].append(param)
    yield from found.values()


def _behind(now: Snapshot, wrap: timeline.Event) -> list[snapshot.Param]:
    """The parameters of the module that was wrapped, but for those to be left alone."""
    prefix = f"{wrap.subject}." if wrap.subject else ""
    ignored = {prefix + name for name in wrap.data["ignored"]}
    found = [p for p in now.owned if _symbol(now, p).startswith(prefix)]
    roots = [now.models[index] for index in {p.model for p in found}]
    if wrap.subject in ("", *(root.label for root in roots)) and not any(
        _DDP in wrapper for root in roots for wrapper in root.wrappers
    ):
        return []  # the wrapper is gone
    return [p for p in found if ignored.isdisjoint((_symbol(now, p),))]


def _by_line(
    now: Snapshot,
    past: Timeline,
    wrap: timeline.Event,
    params: Sequence[snapshot.Param],
    value: bool,
) -> dict[Site | None, list[snapshot.Param]]:
    """Parameters by the line that changed them, the last one since the wrapper took them:
    when it was built, or at the first step, where the graph was said to be static."""
    since = past.events[past.order(wrap) + 1 :]
    if wrap.data["static"] and not value:
        since = tuple(dropwhile(lambda event: event.kind != STEP, since))
    lines: dict[str, Site | None] = {}
    for event in since:
        if (event.kind == FLAG and event.value is value) or (event.kind == REPLACE and value):
            lines.update(dict.fromkeys(event.names, event.site))
    found: dict[Site | None, list[snapshot.Param]] = defaultdict(list)
    for param in params:
        found[lines.get(_symbol(now, param))].append(param)
    return found


def _symbol(now: Snapshot, param: snapshot.Param) -> str:
    return now.path(param.model, param.name)


def _verb(names: Sequence[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several
