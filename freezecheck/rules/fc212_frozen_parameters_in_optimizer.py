from __future__ import annotations

from collections.abc import Iterator, Sequence

from freezecheck import account, held, program
from freezecheck.finding import Finding, Severity
from freezecheck.phases import Phase
from freezecheck.program import Optimizer, World
from freezecheck.rule import Rule
from freezecheck.snapshot import FOREIGN, Param, Snapshot, count, summarise
from freezecheck.story import story
from freezecheck.timeline import Timeline


class FrozenParametersInOptimizer(Rule):
    """The optimizer holds frozen parameters, which is harmless as things are.

    ## What it does

    Tells of frozen parameters in an optimizer that also holds others, as an info.

    ## Why it matters

    PyTorch's optimizers pass over a parameter whose gradient is None: no step, no weight
    decay, no state. So a frozen parameter in the optimizer stays as it is, and an
    optimizer that holds everything is ready for a later unfreeze. It would move if a
    gradient were left on it: frozen after a backward with no `zero_grad` in between, or
    cleared with `zero_grad(set_to_none=False)`. Optimizers of other libraries may take None
    for zero, and decay it.

    ## Bad

    ```python
    import torch
    from torch import nn

    model = nn.Sequential()
    model.backbone = nn.Linear(8, 16)
    model.head = nn.Linear(16, 4)
    model.backbone.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)  # <- FC212
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 4).backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch
    from torch import nn

    model = nn.Sequential()
    model.backbone = nn.Linear(8, 16)
    model.head = nn.Linear(16, 4)
    model.backbone.requires_grad_(False)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 4).backward()
    optimizer.step()
    ```

    ## How it is found

    From the flags of the tensors in each group. Where a gradient is left on one of them,
    FC206 says what moves. An optimizer of which something is frozen or unfrozen in the course of
    the run holds it for that, and is left alone. In a text likewise: they are frozen at every step of the optimizer, beside
    others that train, and nothing in it is unfrozen later.

    ## Limits

    An optimizer with nothing but frozen tensors is FC203.

    ## References

    - [Optimizer.zero_grad: set_to_none](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html)
    """

    code = "FC212"
    name = "frozen-parameters-in-optimizer"
    severity = Severity.INFO

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.frozen_held:
            return
        for index in now.active:
            frozen = [p for p in now.frozen_held if any(h.optimizer == index for h in p.held)]
            groups = now.optimizers[index].groups
            owned = [p for p in frozen if p.model != FOREIGN and p.grad != "unknown"]
            if owned and len(frozen) < sum(g.tensors - g.duplicates for g in groups):
                yield self._about(now, past, index, owned)

    def stands(self, finding: Finding, phase: Phase, phases: Sequence[Phase]) -> bool:
        """Not where it holds them for a later phase, or still holds what an earlier one trained."""
        flags: dict[str, set[bool]] = {}
        for now in (p.snapshot for p in phases):
            for index, optimizer in enumerate(now.optimizers):
                if optimizer.label in finding.subject:
                    for param in now.of_optimizer(index):
                        flags.setdefault(now.path(param.model, param.name), set()).add(
                            param.trainable
                        )
        return all(len(seen) == 1 for seen in flags.values())

    def _about(self, now: Snapshot, past: Timeline, index: int, frozen: Sequence[Param]) -> Finding:
        optimizer = now.optimizers[index]
        names = [now.path(p.model, p.name) for p in frozen]
        harm = _harm(optimizer.builtin, optimizer.class_name)
        return self.finding(
            f"{count(len(names), 'frozen tensor')} ({sum(p.numel for p in frozen):,} parameters)"
            f" {'is' if len(names) == 1 else 'are'} in {optimizer.label}: {summarise(names)}. {harm}",
            site=optimizer.site,
            symbol=names[0],
            notes=story(past, names, [optimizer.label]),
            fix=_REMEDY,
            subject=(optimizer.label, *dict.fromkeys(now.models[p.model].label for p in frozen)),
        )

    def in_source(self, world: World) -> Iterator[Finding]:
        for optimizer in world.optimizers:
            params = _always_frozen(world, optimizer)
            if not params:
                continue
            builtin = optimizer.type.startswith("torch.optim.")
            models = dict.fromkeys(p.module.root.shown for p in params)
            yield self.finding(
                f"{optimizer.shown} holds {account.names(params)} of {summarise(list(models))},"
                f" which {account.verb(params)} frozen."
                f" {_harm(builtin, optimizer.type.rpartition('.')[2])}",
                site=optimizer.site,
                symbol=account.names(params),
                notes=account.story(world, params, [optimizer]),
                fix=_REMEDY,
                subject=(optimizer.shown, *models),
            )


_REMEDY = (
    "build the optimizer from the parameters that require grad, unless the others"
    " are to be unfrozen later"
)


def _harm(builtin: bool, kind: str) -> str:
    if builtin:
        return (
            "Harmless while their gradient is None: the step passes over them. A gradient left"
            " from before the freeze, or set to zero instead of None, would let weight decay"
            " and momentum move them."
        )
    return (
        f"Whether {kind} passes over tensors whose gradient is None, as"
        " PyTorch's own optimizers do, or decays them, depends on its step()."
    )


def _always_frozen(world: World, optimizer: Optimizer) -> list[program.Param]:
    """What it holds and never trains, beside others that it does; nothing where something
    that it holds is unfrozen later."""
    uses = [use.index for use in held.moments(world, optimizer)]
    first = optimizer.event is not None and not any(number for _, number in optimizer.event.loops)
    if not uses or not first:
        return []  # in later passes of a loop, not all of the loops inside is gone through
    own = [*held.members(optimizer, uses[0])]
    flags = {p.id: {p.trains(use) for use in uses} for p in own}
    if any(flags[p.id] == {True, False} for p in own) or not any(
        flags[p.id] == {True} for p in own
    ):
        return []
    last = world.events[uses[-1]]
    return [p for p in own if flags[p.id] == {False} and not held.is_gone(world, p, last)]
