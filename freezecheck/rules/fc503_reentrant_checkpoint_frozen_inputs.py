from __future__ import annotations

from collections.abc import Iterator

from freezecheck import account, flow, program
from freezecheck.finding import Finding, Note, Severity
from freezecheck.rule import Rule
from freezecheck.snapshot import Param, Snapshot, count, summarise
from freezecheck.timeline import CHECKPOINT, Event, Timeline


class ReentrantCheckpointFrozenInputs(Rule):
    """A reentrant checkpoint whose inputs need no gradient gives none to what is inside it.

    ## What it does

    Finds trainable parameters without a gradient inside `torch.utils.checkpoint` with
    `use_reentrant=True` (the default where nothing is said) whose inputs do not require
    grad.

    ## Why it matters

    The reentrant variant runs the block under `no_grad` and records one node in its place,
    but only if one of its inputs requires grad. With a frozen embedding or stem before it,
    none does. The block's output then has no history, all its gradients are None, and a
    warning that scrolls by is the only sign.

    ## Bad

    ```python
    import torch
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(8, 8)
            self.block = nn.Linear(8, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            x = self.embed(x)
            x = checkpoint(self.block, x, use_reentrant=True)  # <- FC503
            return self.head(x.relu())

    model = Net()
    model.embed.requires_grad_(False)
    optimizer = torch.optim.SGD([*model.block.parameters(), *model.head.parameters()], lr=0.01)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(8, 8)
            self.block = nn.Linear(8, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            x = self.embed(x)
            x = checkpoint(self.block, x, use_reentrant=False)
            return self.head(x.relu())

    model = Net()
    model.embed.requires_grad_(False)
    optimizer = torch.optim.SGD([*model.block.parameters(), *model.head.parameters()], lr=0.01)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    In a recorded run: a reentrant checkpoint was entered with gradients on and with no
    input that requires grad, and trainable parameters of its module have no gradient.
    Where the checkpointed function does not show its module, those count whose modules ran
    only under `no_grad`.

    In a text: all that goes into a reentrant checkpoint is known not to require grad (batches
    out of a loop, tensors made without it, what comes out of frozen modules that were given
    such), and what ran in it trains and is in an optimizer that steps. An input of which
    nothing is known makes it silent.

    ## Limits

    Blocks whose inputs require grad from the second step on are judged by the first.

    ## References

    - [torch.utils.checkpoint](https://docs.pytorch.org/docs/stable/checkpoint.html)
    """

    code = "FC503"
    name = "reentrant-checkpoint-frozen-inputs"
    severity = Severity.ERROR
    explains = ("FC114",)

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        entered = list(past.of(CHECKPOINT))
        if not entered or not now.after_backward:
            return
        dark = [p for p in now.trainable if p.grad is None and p.called in ("no_grad", "never")]
        for index, model in enumerate(now.models):
            found = [(p, e) for p in dark if p.model == index and (e := _around(now, p, entered))]
            if not found:
                continue
            names = [now.path(index, p.name) for p, _ in found]
            sites = dict.fromkeys(e.site for _, e in found if e.site)
            yield self.finding(
                f"{count(len(found), 'trainable tensor')} ({sum(p.numel for p, _ in found):,}"
                f" parameters) inside a reentrant checkpoint got no gradient: {summarise(names)}."
                " None of the checkpoint's inputs requires grad, so that its output has no"
                " history.",
                site=next(iter(sites), None),
                symbol=names[0],
                notes=[Note("and here", site) for site in list(sites)[1:3]],
                fix="pass use_reentrant=False, or call enable_input_require_grads() /"
                " requires_grad_() on the first input",
                subject=model.label,
            )

    def in_source(self, world: program.World) -> Iterator[Finding]:
        dark = {
            passed.index: event
            for event in world.of(program.CHECKPOINT)
            for passed in event.data.get("lost", ())
        }
        for optimizer in world.optimizers if dark else ():
            told: dict[int, tuple[program.Event, list[program.Param]]] = {}
            for _, _, lost in flow.without_gradient(world, optimizer):
                for param, (passed, site) in lost.items():
                    event = dark.get(passed.index)
                    if event is not None and event.site == site:
                        told.setdefault(event.site.line, (event, []))[1].append(param)
            for event, params in told.values():
                params = list(dict.fromkeys(params))
                names = account.each(params)
                yield self.finding(
                    f"{account.names(params)} of {params[0].module.root.shown}"
                    f" {account.verb(params, 'runs', 'run')} inside a reentrant checkpoint none of"
                    " whose inputs requires grad: its output has no history, and no gradient"
                    " arrives in it.",
                    site=event.site,
                    symbol=names[0],
                    notes=account.story(world, params, [optimizer]),
                    fix="pass use_reentrant=False, or call enable_input_require_grads() /"
                    " requires_grad_() on the first input",
                    subject=params[0].module.root.shown,
                )


def _around(now: Snapshot, param: Param, entered: list[Event]) -> Event | None:
    """The checkpoint that a parameter's module ran in.

    A `forward` that is checkpointed as a bare method never calls its module.
    """
    name = now.path(param.model, param.name)
    for event in entered:
        if event.data.get("module") and event.subject:
            if name.startswith(f"{event.subject}."):
                return event
        elif param.called == "no_grad":
            return event
    return None
