from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from freezecheck import account, gradients, held, leftover, program
from freezecheck.finding import Finding, Severity, Site
from freezecheck.phases import Phase
from freezecheck.program import Event, World
from freezecheck.rule import Rule
from freezecheck.snapshot import FOREIGN, Optimizer, Param, Snapshot, count, summarise
from freezecheck.story import story
from freezecheck.timeline import Timeline

_TURNS = 2  # rests of a single step each that are no schedule any more


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

    In a recorded run of some steps: the optimizer trained the parameter in one phase, others
    while it was frozen in a later one, and holds state for it when it comes back. Frozen
    parameters with moments other than zero are seen in any snapshot, and told of in a run if
    they stay frozen to its end.

    In a text, the same order of events, for an optimizer that keeps moments for certain
    (Adam and its kin, SGD with momentum), and that steps again afterwards. It is silent where
    anything is done with `optimizer.state` in between, or the optimizer or the model is
    handed to a call that is not understood.

    ## Limits

    Without a record, a parameter that was unfrozen again looks like one that was unfrozen
    late, whose step count lags for a good reason; nothing is said of either. Moments of a
    parameter that stays frozen do no harm, so they are an info. The first optimizer step
    shows neither, unless the state was loaded. Parts that take turns, step by step, are left
    alone.

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
            if not now.optimizers[index].stepped or index in now.paused:
                continue
            kept = [p for p in now.frozen if _moments(p, index) == "nonzero"]
            if kept:
                yield self._kept(now, past, index, kept)

    def stands(self, finding: Finding, phase: Phase, phases: Sequence[Phase]) -> bool:
        """Moments that are kept are worth telling of what is frozen once, for good."""
        label, name = finding.subject[0], finding.symbol
        flags = [flag for flag, _ in _histories(phases, label).get(name or "", ())]
        return not any(now and not before for before, now in pairwise(flags))

    def in_phases(self, phases: Sequence[Phase], past: Timeline) -> Iterator[Finding]:
        told: set[str] = set()
        places: set[object] = set()  # a line that brings back one stage after the other is one
        labels = {o.label for phase in phases for o in phase.snapshot.optimizers}
        histories = {label: _histories(phases, label) for label in labels}
        for phase in phases:
            now = phase.snapshot
            for index in now.active:
                known = histories[now.optimizers[index].label]
                resumed = [
                    (name, param)
                    for name, param in _trained(now, index).items()
                    if name not in told
                    and _is_kept(param, index, now.optimizers[index])
                    and _rested(known.get(name, ()), phase)
                ]
                if not resumed:
                    continue
                told.update(name for name, _ in resumed)
                finding = self._resumed(phase, past.until(phase.events), index, resumed)
                if (finding.site, finding.subject) not in places:
                    places.add((finding.site, finding.subject))
                    yield finding

    def _resumed(
        self, phase: Phase, past: Timeline, index: int, resumed: Sequence[tuple[str, Param]]
    ) -> Finding:
        optimizer = phase.snapshot.optimizers[index]
        names, params = [name for name, _ in resumed], [param for _, param in resumed]
        flag = past.written(names, True)
        return self.finding(
            f"{count(len(names), 'tensor')} ({sum(p.numel for p in params):,} parameters) in"
            f" {optimizer.label} {'was' if len(names) == 1 else 'were'} trained, frozen and unfrozen"
            f" again: {summarise(names)}. The optimizer kept"
            f" {'its' if len(names) == 1 else 'their'} moments, and applies them as if nothing had"
            " happened.",
            site=flag.site if flag else optimizer.site,
            symbol=names[0],
            notes=story(past, names, [optimizer.label]),
            fix=_REMEDY,
            subject=(optimizer.label, *_models(phase.snapshot, params)),
            step=phase.first,
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
    optimizer: program.Optimizer,
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


def _trained(now: Snapshot, index: int) -> dict[str, Param]:
    """The parameters of a model that an optimizer trains, by name."""
    return {
        now.path(p.model, p.name): p
        for p in now.of_optimizer(index)
        if p.trainable and p.model != FOREIGN
    }


def _is_kept(param: Param, index: int, optimizer: Optimizer) -> bool:
    """Its state is older than the phase, which has just begun."""
    held = next(h for h in param.held if h.optimizer == index)
    if held.moments in (None, "zero"):
        return False
    taken = optimizer.turns + optimizer.closure
    return held.step > taken if held.step else not taken


def _rested(flags: Sequence[tuple[bool, Phase]], phase: Phase) -> bool:
    """The optimizer trained this parameter before the phase, and then others while it was
    frozen. What rests for single steps, again and again, takes turns with others."""
    rests = [p for (was, _), (flag, p) in pairwise(flags) if was and not flag]
    in_turn = len(rests) > _TURNS and all(p.first == p.last for p in rests)
    before = [flag for flag, p in flags if p.first < phase.first]
    return True in before and not before[-1] and not in_turn


def _histories(phases: Sequence[Phase], label: str) -> dict[str, list[tuple[bool, Phase]]]:
    """Of each parameter whether it was trainable in the phases in which the optimizer trained
    something."""
    found: dict[str, list[tuple[bool, Phase]]] = {}
    for phase in phases:
        now = phase.snapshot
        at = next((i for i in now.active if now.optimizers[i].label == label), None)
        if at is not None and at not in now.paused:
            for param in now.of_optimizer(at):
                name = now.path(param.model, param.name)
                found.setdefault(name, []).append((param.trainable, phase))
    return found


def _moments(param: Param, optimizer: int) -> str | None:
    return next((h.moments for h in param.held if h.optimizer == optimizer), None)


def _models(now: Snapshot, params: Sequence[Param]) -> dict[str, None]:
    return dict.fromkeys(now.models[p.model].label for p in params)
