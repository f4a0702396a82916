from __future__ import annotations

from collections.abc import Iterator, Sequence

from freezecheck import account, leftover
from freezecheck.finding import Finding, Severity, Site
from freezecheck.moves import DECAY, MOMENTUM, NOT_FINITE, STALE, in_one
from freezecheck.program import World
from freezecheck.rule import Rule
from freezecheck.snapshot import FOREIGN, Param, Snapshot, count, summarise
from freezecheck.story import story
from freezecheck.timeline import FLAG, Timeline

_CAUSES = {
    STALE: "a gradient from before the freeze is left on {it}",
    MOMENTUM: "the gradient left on {it} is zero, and momentum carries on",
    DECAY: "the gradient left on {it} is zero, and weight decay shrinks {it}",
    NOT_FINITE: "the gradient left on {it} is not finite",
}


class FrozenParameterStillMoves(Rule):
    """A frozen parameter is moved by the optimizer all the same.

    ## What it does

    Finds frozen parameters that the next `optimizer.step()` will change.

    ## Why it matters

    `requires_grad = False` stops new gradients. The optimizer does not look at that flag,
    only at `.grad`: where a gradient is left from before the freeze, it steps. Nobody
    clears it if `zero_grad` is called for other parameters alone, and
    `zero_grad(set_to_none=False)` turns it into zeros, with which momentum, Adam's moments
    and weight decay move the parameter for ever.

    ## Bad

    The gradients of a first, exploratory backward are still there:

    ```python
    import torch
    from torch import nn

    model = nn.Sequential()
    model.backbone = nn.Linear(8, 16)
    model.head = nn.Linear(16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(16, 8), torch.arange(16) % 4
    nn.functional.cross_entropy(model(x), y).backward()
    print("norm of the gradient", nn.utils.clip_grad_norm_(model.parameters(), 1e9))

    model.backbone.requires_grad_(False)  # <- FC206
    model.head.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    ```

    Zeros are a gradient, and AdamW decays what has one:

    ```python
    import torch
    from torch import nn

    model = nn.Sequential()
    model.backbone = nn.Linear(8, 16)
    model.head = nn.Linear(16, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    x, y = torch.randn(16, 8), torch.arange(16) % 4
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.zero_grad(set_to_none=False)

    for p in model.backbone.parameters():
        p.requires_grad = False  # <- FC206
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch
    from torch import nn

    model = nn.Sequential()
    model.backbone = nn.Linear(8, 16)
    model.head = nn.Linear(16, 4)
    x, y = torch.randn(16, 8), torch.arange(16) % 4
    nn.functional.cross_entropy(model(x), y).backward()

    model.backbone.requires_grad_(False)
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    ```

    ## How it is found

    By the forecast of the next step (`freezecheck.forecast`), which weighs the gradient,
    momentum, weight decay and the rate as the optimizer's own `step()` does.

    In a text, the gradient of each parameter in an optimizer of PyTorch's is followed: it
    is there after a backward that gets to the parameter, gone after a `zero_grad()` of an
    optimizer or a module that it is in (or `p.grad = None`), and zero with
    `set_to_none=False`. A step moves what is frozen if a gradient is there for certain, or
    if it is zero and momentum or weight decay are known to be at work.

    In a run, the forecast is made at each step at which the setup has changed.

    ## Limits

    Of an optimizer with a `step()` of its own nothing is said. Outside of a recorded run a
    gradient that is not zero may still be cleared before the step; it is then a warning.

    ## References

    - [Optimizer.zero_grad: set_to_none](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html)
    - [Autograd mechanics: setting requires_grad](https://docs.pytorch.org/docs/stable/notes/autograd.html#setting-requires-grad)
    """

    code = "FC206"
    name = "frozen-parameter-still-moves"
    severity = Severity.ERROR
    explains = ("FC209", "FC212")

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if all(p.grad is None for p in now.frozen_held):
            return
        for index in now.active:
            if not now.recorded and index in now.paused:
                continue
            mine = [
                (param, why)
                for param in now.frozen_held
                if param.model != FOREIGN
                for moves, why in _verdicts(now, index, param)
                if moves
            ]
            if mine:
                yield self._moved(now, past, index, [p for p, _ in mine], {w for _, w in mine})

    def _moved(
        self, now: Snapshot, past: Timeline, index: int, params: Sequence[Param], whys: set[str]
    ) -> Finding:
        optimizer = now.optimizers[index]
        names = [now.path(p.model, p.name) for p in params]
        one = len(names) == 1
        causes = [text for why, text in _CAUSES.items() if why in whys]
        # What is zero has been through zero_grad(); the rest may have it still before it.
        certain = now.recorded or any(p.grad == "zero" for p in params)
        return self.finding(
            f"{count(len(names), 'frozen tensor')} ({sum(p.numel for p in params):,} parameters) in"
            f" {optimizer.label} {'moves' if one else 'move'} at the next step all the same:"
            f" {summarise(names)}. The optimizer looks at .grad, not at requires_grad, and"
            f" {'; '.join(causes).format(it='it' if one else 'them')}."
            + ("" if certain else " Unless zero_grad() comes first."),
            site=_frozen_at(past, names) or optimizer.site,
            symbol=names[0],
            notes=story(past, names, [optimizer.label]),
            fix=_REMEDY,
            severity=Severity.ERROR if certain else Severity.WARNING,
            subject=(optimizer.label, *dict.fromkeys(now.models[p.model].label for p in params)),
        )

    def in_source(self, world: World) -> Iterator[Finding]:
        for optimizer in world.optimizers:
            for found in leftover.moved(world, optimizer):
                params, one = found.params, account.verb(found.params) == "is"
                models = dict.fromkeys(p.module.root.shown for p in params)
                yield self.finding(
                    f"{account.names(params)} {'is' if one else 'are'} frozen, and"
                    f" {'moves' if one else 'move'} at the next step of {optimizer.shown} all the"
                    " same. The optimizer looks at .grad, not at requires_grad, and"
                    f" {found.why.format(it='it' if one else 'them')}.",
                    site=found.freeze.site,
                    symbol=optimizer.shown,
                    notes=account.story(world, params, [optimizer], found.step),
                    fix=_REMEDY,
                    subject=(optimizer.shown, *models),
                )


_REMEDY = "set p.grad = None where you freeze, or leave them out of the optimizer"


def _verdicts(now: Snapshot, index: int, param: Param) -> Iterator[tuple[bool | None, str]]:
    """What the next step of one optimizer does to a parameter that it holds."""
    if param.numel:
        optimizer = now.optimizers[index]
        yield from (
            in_one(optimizer, param, held) for held in param.held if held.optimizer == index
        )


def _frozen_at(past: Timeline, names: Sequence[str]) -> Site | None:
    """The last line that froze one of them."""
    chosen = set(names)
    events = [e for e in past.of(FLAG) if not e.value and not chosen.isdisjoint(e.names)]
    return events[-1].site if events else None
