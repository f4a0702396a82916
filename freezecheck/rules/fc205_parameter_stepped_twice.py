from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from freezecheck import account, held, program
from freezecheck.finding import Finding, Severity
from freezecheck.program import World
from freezecheck.rule import Rule
from freezecheck.snapshot import Param, Snapshot, count, summarise
from freezecheck.story import story
from freezecheck.timeline import STEP, Timeline


class ParameterSteppedTwice(Rule):
    """A parameter is stepped twice at every iteration.

    ## What it does

    Finds parameters that two optimizers hold and step on the same gradient, and
    parameters that are listed twice in one group.

    ## Why it matters

    PyTorch refuses a parameter in two groups of one optimizer, but knows nothing of a
    second optimizer, and only warns of a tensor listed twice in a group. Each entry is a
    step: at twice the rate, with weight decay applied twice, and momentum that is fed
    twice.

    ## Bad

    The head is in both optimizers:

    ```python
    import torch
    from torch import nn

    model = nn.Sequential()
    model.backbone = nn.Linear(8, 16)
    model.head = nn.Linear(16, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    head_optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-3)  # <- FC205
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 4).backward()
    optimizer.step()
    head_optimizer.step()
    ```

    An embedding that two modules share:

    ```python
    import torch
    from torch import nn

    encoder, decoder = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
    decoder.weight = encoder.weight
    optimizer = torch.optim.SGD([*encoder.parameters(), *decoder.parameters()], lr=0.1)  # <- FC205
    tokens = torch.arange(10)
    nn.functional.cross_entropy(decoder(encoder(tokens)), tokens.roll(1)).backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch
    from torch import nn

    model = nn.Sequential()
    model.backbone = nn.Linear(8, 16)
    model.head = nn.Linear(16, 4)
    optimizer = torch.optim.AdamW(model.backbone.parameters(), lr=1e-5)
    head_optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-3)
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 4).backward()
    optimizer.step()
    head_optimizer.step()
    ```

    Two losses, each with a backward and an optimizer of its own for the shared encoder:

    ```python
    import torch
    from torch import nn

    encoder, decoder, critic = nn.Linear(8, 4), nn.Linear(4, 8), nn.Linear(4, 1)
    reconstruction = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    adversarial = torch.optim.Adam([*encoder.parameters(), *critic.parameters()], lr=1e-4)
    x = torch.randn(16, 8)
    nn.functional.mse_loss(decoder(encoder(x)), x).backward()
    reconstruction.step()
    encoder.zero_grad()
    critic(encoder(x)).mean().backward()
    adversarial.step()
    ```

    ## How it is found

    By identity. In a recorded run, two optimizers count if both step after the same
    backward; an optimizer inside another one (SAM, Lookahead, ZeRO) is a part of it.

    In a text likewise: both have to hold the parameter for certain, and to step with no
    backward and no `zero_grad` between them; an optimizer whose groups are another one's
    is left alone.

    ## Limits

    Without a record of the run, two optimizers that are used in turn look the same as two
    that step together. Only if one of them holds state and the other one none, they are
    taken for two phases.

    ## References

    - [torch.optim.Optimizer.add_param_group](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.add_param_group.html)
    """

    code = "FC205"
    name = "parameter-stepped-twice"
    severity = Severity.WARNING

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for index in now.active:
            for number, group in enumerate(now.optimizers[index].groups):
                if group.duplicates:
                    yield self._listed_twice(now, past, index, number)
        if len(now.active) > 1:
            yield from self._shared(now, past)

    def _listed_twice(self, now: Snapshot, past: Timeline, index: int, number: int) -> Finding:
        optimizer = now.optimizers[index]
        group = optimizer.groups[number]
        symbol = f"{optimizer.label}.param_groups[{number}]"
        return self.finding(
            f"{symbol} lists {count(group.duplicates, 'tensor')} more than once. Each entry is a"
            " step: they move twice at every iteration.",
            site=group.site or optimizer.site,
            symbol=symbol,
            notes=story(past, (), [optimizer.label]),
            fix=_ONCE,
            subject=optimizer.label,
        )

    def _shared(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        active = set(now.active)
        shared: dict[tuple[int, ...], list[Param]] = {}
        for param in now.params:
            if len(param.held) > 1 and param.trainable:
                places = tuple(sorted({h.optimizer for h in param.held} & active))
                if len(places) > 1 and (param.grad is not None or not now.after_backward):
                    shared.setdefault(places, []).append(param)
        for places, params in shared.items():
            if not _together(now, past, places):
                continue
            labels = [now.optimizers[i].label for i in places]
            names = [now.path(p.model, p.name) for p in params]
            times = "twice" if len(places) == 2 else f"{len(places)} times"
            yield self.finding(
                f"{count(len(names), 'tensor')} ({sum(p.numel for p in params):,} parameters)"
                f" {'is' if len(names) == 1 else 'are'} in {' and '.join(labels)}:"
                f" {summarise(names)}. Each of these steps them, so they move {times} at every iteration.",
                site=now.optimizers[places[-1]].site,
                symbol=names[0],
                notes=story(past, (), labels),
                fix=_ONE_OWNER,
                subject=tuple(labels),
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        for optimizer in world.optimizers:
            for index, group in enumerate(optimizer.groups):
                twice = _repeated(group.params)
                if twice:
                    symbol = f"{optimizer.shown}.param_groups[{index}]"
                    yield self.finding(
                        f"{symbol} lists {account.names(twice)} more than once. Each entry is a"
                        f" step: {account.verb(twice, 'it moves', 'they move')} twice at every"
                        " iteration.",
                        site=group.site or optimizer.site,
                        symbol=symbol,
                        notes=account.story(world, (), [optimizer]),
                        fix=_ONCE,
                        subject=optimizer.shown,
                    )
        for places, params in _shared(world).items():
            labels = [o.shown for o in places]
            what, one = account.names(params), account.verb(params)
            times = "twice" if len(places) == 2 else f"{len(places)} times"
            yield self.finding(
                f"{what} {one} in {' and '.join(labels)}. Each of these steps"
                f" {'it, so it moves' if one == 'is' else 'them, so they move'} {times} at every"
                " iteration.",
                site=max((o.site for o in places if o.site), key=lambda s: s.line, default=None),
                symbol=account.each(params)[0],
                notes=account.story(world, (), list(places)),
                fix=_ONE_OWNER,
                subject=tuple(labels),
            )


_ONCE = "list each parameter once: list(dict.fromkeys(parameters))"
_ONE_OWNER = "give every parameter to one optimizer; use groups for different rates"


def _repeated(params: Sequence[program.Param]) -> list[program.Param]:
    times = Counter(param.id for param in params)
    return list(dict.fromkeys(param for param in params if times[param.id] > 1))


def _shared(world: World) -> dict[tuple[program.Optimizer, ...], list[program.Param]]:
    """Optimizers that step the same trainable parameters on the same gradient."""
    found: dict[tuple[program.Optimizer, ...], list[program.Param]] = {}
    told: set[int] = set()
    since: list[program.Event] = []  # steps since the last backward
    for event in world.events:
        if event.kind in (program.BACKWARD, program.ZERO_GRAD, program.ESCAPE):
            since = []
        elif event.kind == program.STEP:
            since.append(event)
            together = list(dict.fromkeys(e.subject for e in since))
            if len(together) < 2 or _are_nested(together):
                continue
            owners: dict[int, list[program.Optimizer]] = {}
            params: dict[int, program.Param] = {}
            for optimizer in together:
                for param in dict.fromkeys(held.members(optimizer, event.index)):
                    owners.setdefault(param.id, []).append(optimizer)
                    params[param.id] = param
            for key, places in owners.items():
                if len(places) > 1 and key not in told and params[key].trains(event.index):
                    told.add(key)
                    found.setdefault(tuple(places), []).append(params[key])
    return found


def _are_nested(optimizers: Sequence[program.Optimizer]) -> bool:
    """One is made of another one's groups."""
    groups = [id(group) for optimizer in optimizers for group in optimizer.groups]
    return len(set(groups)) < len(groups)


def _together(now: Snapshot, past: Timeline, places: tuple[int, ...]) -> bool:
    """The optimizers step on the same gradient, as far as can be told."""
    if not past.events:
        return len({now.optimizers[i].stepped for i in places}) == 1
    after: list[set[int]] = [
        {e.data.get("backwards", 0) for e in past.of(STEP, now.optimizers[i].label)} for i in places
    ]
    return bool(set.intersection(*after))
