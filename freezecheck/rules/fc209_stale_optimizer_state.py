from __future__ import annotations

from collections.abc import Iterator, Sequence

from freezecheck import account, gradients, held, leftover, program
from freezecheck.finding import Finding, Severity, Site
from freezecheck.program import Event, Optimizer, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Param, Snapshot, count, summarise
from freezecheck.story import story
from freezecheck.timeline import FLAG, STEP, Timeline


class StaleOptimizerState(Rule):
    """The optimizer keeps moments of a parameter from before it was frozen.

    ## What it does

    Finds parameters that were trained, frozen and unfrozen again with the moments that the
    optimizer had kept; and, as an info, frozen parameters that still have moments.

    ## Why it matters

    Momentum and Adam's moments wait for as long as the parameter is frozen. The first step
    after it is unfrozen applies them: with Adam at a rate of 0.01, a gradient of almost
    zero still moves the parameter by 0.009, in a direction that was right when it was
    frozen. Adam's step count has stood still as well, so its bias correction is that of
    another time.

    ## Bad

    The encoder rests for one epoch (here, of one batch) and goes on where it was:

    ```python
    import torch
    from torch import nn

    encoder, head, critic = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 1)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-3)
    critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-3)
    x, y = torch.randn(16, 8), torch.arange(16) % 4

    for epoch in range(3):
        if epoch == 1:
            encoder.requires_grad_(False)
        if epoch == 2:
            encoder.requires_grad_(True)  # <- FC209
        optimizer.zero_grad()
        features = encoder(x)
        nn.functional.cross_entropy(head(features), y).backward()
        optimizer.step()
        if epoch == 2:  # the critic joins late
            critic(features.detach()).mean().backward()
            critic_optimizer.step()
    ```

    ## Good

    ```python
    import torch
    from torch import nn

    encoder, head, critic = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 1)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-3)
    critic_optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-3)
    x, y = torch.randn(16, 8), torch.arange(16) % 4

    for epoch in range(3):
        if epoch == 1:
            encoder.requires_grad_(False)
            for p in encoder.parameters():
                optimizer.state.pop(p, None)
        if epoch == 2:
            encoder.requires_grad_(True)
        optimizer.zero_grad()
        features = encoder(x)
        nn.functional.cross_entropy(head(features), y).backward()
        optimizer.step()
        if epoch == 2:
            critic(features.detach()).mean().backward()
            critic_optimizer.step()
    ```

    ## How it is found

    In a recorded run: the optimizer stepped, the flag went off, the optimizer stepped on,
    the flag came back, and the state has seen more steps than there were since then. Frozen
    parameters with moments other than zero are seen in any snapshot.

    In a text, the same order of events, for an optimizer that keeps moments for certain
    (Adam and its kin, SGD with momentum), and that steps again afterwards. It is silent where
    anything is done with `optimizer.state` in between, or the optimizer or the model is
    handed to a call that is not understood.

    ## Limits

    Without a record, a parameter that was unfrozen again looks like one that was unfrozen
    late, whose step count lags for a good reason; nothing is said of either, nor of
    optimizers that count no steps (SGD). Moments of a parameter that stays frozen do no
    harm, so they are an info. The first optimizer step shows neither, unless the state was
    loaded.

    ## References

    - [Optimizer.state_dict: what an optimizer keeps](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.state_dict.html)
    - [torch.optim.Adam: the algorithm](https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html)
    """

    code = "FC209"
    name = "stale-optimizer-state"
    severity = Severity.WARNING
    explains = ("FC212",)

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for index in now.active:
            optimizer = now.optimizers[index]
            if not optimizer.stepped or index in now.paused:
                continue
            resumed = _resumed(past, optimizer.label) if past.events else {}
            if resumed:
                yield from self._resumed(now, past, index, resumed)
            kept = [p for p in now.frozen if _moments(p, index) == "nonzero"]
            if kept:
                yield self._kept(now, past, index, kept)

    def _resumed(
        self, now: Snapshot, past: Timeline, index: int, resumed: dict[str, tuple[Site | None, int]]
    ) -> Iterator[Finding]:
        optimizer = now.optimizers[index]
        stale = []
        for param in now.trainable:
            name = now.path(param.model, param.name)
            # State that was dropped has seen the steps since then alone.
            kept = name in resumed and _steps(param, index) > resumed[name][1]
            if kept and _moments(param, index):
                stale.append((name, param))
        if stale:
            names = [name for name, _ in stale]
            yield self.finding(
                f"{count(len(names), 'tensor')} ({sum(p.numel for _, p in stale):,} parameters) in"
                f" {optimizer.label} were trained, frozen and unfrozen again: {summarise(names)}."
                " The optimizer kept their moments, and applies them as if nothing had happened.",
                site=resumed[names[0]][0],
                symbol=names[0],
                notes=story(past, names, [optimizer.label]),
                fix=_REMEDY,
                subject=(optimizer.label, *_models(now, [p for _, p in stale])),
            )

    def _kept(self, now: Snapshot, past: Timeline, index: int, kept: Sequence[Param]) -> Finding:
        optimizer = now.optimizers[index]
        names = [now.path(p.model, p.name) for p in kept]
        return self.finding(
            f"{count(len(names), 'frozen tensor')} ({sum(p.numel for p in kept):,} parameters) in"
            f" {optimizer.label} {'keeps' if len(names) == 1 else 'keep'} moments from before the"
            f" freeze: {summarise(names)}. Harmless as long as they stay frozen; when they are"
            " unfrozen again, the first step applies them.",
            site=optimizer.site,
            symbol=names[0],
            notes=story(past, names, [optimizer.label]),
            fix="drop their state, optimizer.state.pop(p, None), before you unfreeze them",
            severity=Severity.INFO,
            subject=(optimizer.label, *_models(now, kept)),
        )

    def in_source(self, world: World) -> Iterator[Finding]:
        for optimizer in world.optimizers:
            if not optimizer.type.startswith("torch.optim.") or not leftover.has_moments(optimizer):
                continue
            found: dict[Site | None, list[program.Param]] = {}
            until = None
            theirs = leftover.holdings(world)
            events = [e for e in world.events if e.kind in _KINDS]
            before = {
                step.index: gradients.leading_to(world, optimizer, step) for step in optimizer.steps
            }
            for param in dict.fromkeys(held.members(optimizer)):
                back = _unfrozen_again(events, before, theirs, optimizer, param)
                if back is not None:
                    found.setdefault(back[0].site, []).append(param)
                    until = back[1]
            for site, params in found.items():
                one = account.verb(params) == "is"
                models = dict.fromkeys(p.module.root.shown for p in params)
                yield self.finding(
                    f"{account.names(params)} {'was' if one else 'were'} trained, frozen and"
                    f" unfrozen again. {optimizer.shown} kept {'its' if one else 'their'} moments,"
                    " and applies them as if nothing had happened.",
                    site=site,
                    symbol=optimizer.shown,
                    notes=account.story(world, params, [optimizer], until),
                    fix=_REMEDY,
                    subject=(optimizer.shown, *models),
                )


_REMEDY = (
    "drop their state when you freeze, optimizer.state.pop(p, None), or build a"
    " new optimizer when you unfreeze"
)


_KINDS = (program.ESCAPE, program.LOAD, program.ATTRIBUTE, program.STEP)


def _unfrozen_again(
    events: list[Event],
    before: dict[int, list[Event]],
    theirs: leftover.Holdings,
    optimizer: Optimizer,
    param: program.Param,
) -> tuple[Event, Event] | None:
    """The line that unfreezes a parameter again, with steps of the optimizer on it before it was
    frozen and steps on others since then; and the first step afterwards."""
    if len(param.writes) < 2:
        return None
    trained = rested = False
    since = theirs[optimizer.id][param.id]
    for event in events:
        if event.kind == program.ESCAPE and leftover.concerns(event, param, theirs):
            return None
        if event.kind == program.LOAD and event.subject is optimizer:
            return None
        if event.kind == program.ATTRIBUTE and event.subject is optimizer:
            trained = rested = False
        if event.kind != program.STEP or event.subject is not optimizer:
            continue
        flag = param.trains(event.index)
        if flag is None or event.index < since:
            return None
        if flag and rested:
            line = param.written(event.index)
            return (line, event) if line is not None else None
        if flag and not trained:
            trained = gradients.arrives(before[event.index], param) is True
        rested = rested or (trained and not flag)
    return None


def _resumed(past: Timeline, label: str) -> dict[str, tuple[Site | None, int]]:
    """Parameters that were frozen and unfrozen again, with steps of the optimizer before and
    between: the line that unfroze them, and the steps since then."""
    steps = 0
    frozen: dict[str, int] = {}  # name -> steps taken when it was frozen
    found: dict[str, tuple[Site | None, int]] = {}
    for event in past.events:
        if event.kind == STEP and event.subject == label:
            steps += 1
        elif event.kind == FLAG and not event.value:
            for name in event.names:
                frozen.setdefault(name, steps)
        elif event.kind == FLAG:
            for name in event.names:
                if 0 < frozen.pop(name, steps) < steps:
                    found[name] = (event.site, steps)
    return {name: (site, steps - then) for name, (site, then) in found.items()}


def _moments(param: Param, optimizer: int) -> str | None:
    return next((h.moments for h in param.held if h.optimizer == optimizer), None)


def _steps(param: Param, optimizer: int) -> float:
    """Steps that its state has seen; 0 where none are counted, as in SGD."""
    return next((h.step for h in param.held if h.optimizer == optimizer and h.step), 0)


def _models(now: Snapshot, params: Sequence[Param]) -> dict[str, None]:
    return dict.fromkeys(now.models[p.model].label for p in params)
