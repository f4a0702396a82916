from __future__ import annotations

from collections.abc import Iterator

from freezecheck import account, held, program
from freezecheck.finding import Finding, Severity
from freezecheck.program import World
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot, count, summarise
from freezecheck.story import changed_since, story
from freezecheck.timeline import CLIP, Timeline


class EmptyParameterGroup(Rule):
    """A generator of parameters was used up before the optimizer, or the clipping, got it.

    ## What it does

    Finds parameter groups without parameters while trainable parameters are in no
    optimizer, and, in a recorded run, gradient clipping of an iterator that has nothing
    left.

    ## Why it matters

    `model.parameters()`, `filter(...)` and generator expressions can be gone through once.
    Count the parameters or print their names, and nothing is left for the optimizer. It
    complains of an empty generator, but not of an empty generator *in a group*; and
    `clip_grad_norm_` of an empty `filter` returns 0.0 and clips nothing.

    ## Bad

    Counted first, given to the optimizer afterwards:

    ```python
    import torch
    from torch import nn

    model = nn.Sequential()
    model.backbone = nn.Linear(8, 16)
    model.head = nn.Linear(16, 4)
    backbone = filter(lambda p: p.requires_grad, model.backbone.parameters())
    print("training", sum(p.numel() for p in backbone), "parameters of the backbone")
    optimizer = torch.optim.AdamW(  # <- FC204
        [{"params": backbone, "lr": 1e-5}, {"params": model.head.parameters(), "lr": 1e-3}]
    )
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 4).backward()
    optimizer.step()
    ```

    Used up by the optimizer, and nothing left to clip:

    ```python
    import torch
    from torch import nn

    model = nn.Linear(8, 4)
    params = filter(lambda p: p.requires_grad, model.parameters())
    optimizer = torch.optim.SGD(params, lr=0.1)
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 4).backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0)  # <- FC204
    optimizer.step()
    ```

    ## Good

    ```python
    import torch
    from torch import nn

    model = nn.Sequential()
    model.backbone = nn.Linear(8, 16)
    model.head = nn.Linear(16, 4)
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    print("training", sum(p.numel() for p in backbone), "parameters of the backbone")
    optimizer = torch.optim.AdamW(
        [{"params": backbone, "lr": 1e-5}, {"params": model.head.parameters(), "lr": 1e-3}]
    )
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 4).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    ```

    A group without weight decay for norms and biases may well be empty:

    ```python
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 4, bias=False))
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.01},
            {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=1e-3,
    )
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 4).backward()
    optimizer.step()
    ```

    ## How it is found

    A group without tensors counts only if trainable parameters are in no optimizer: in a
    recorded run, parameters that received a gradient, and were not unfrozen or put in
    place after the optimizer was built (FC201 says that).

    A text shows the generator itself: where it was made, and what went through it before
    the group, or the clipping, got it. Nothing is said where all that is trainable is in
    an optimizer all the same.

    ## Limits

    In a run, whether a generator was used up, or a list was empty from the start, cannot be
    told afterwards; and clipping is seen in a recorded run alone.

    ## References

    - [Python: generator iterators](https://docs.python.org/3/glossary.html#term-generator-iterator)
    - [torch.nn.utils.clip_grad_norm_](https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html)
    """

    code = "FC204"
    name = "empty-parameter-group"
    severity = Severity.ERROR
    explains = ("FC201",)

    def in_timeline(self, timeline: Timeline) -> Iterator[Finding]:
        for event in timeline.of(CLIP):
            yield self.finding(
                f"{event.value} was given an iterator that had nothing left, and clipped nothing.",
                site=event.site,
                symbol=event.value,
                fix=_REMEDY_OF_CLIP,
            )

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for index in now.active:
            optimizer = now.optimizers[index]
            empty = [j for j, group in enumerate(optimizer.groups) if not group.tensors]
            if not empty or not now.lost:
                continue
            names = [now.path(p.model, p.name) for p in now.lost]
            if now.superseded or now.foreign or changed_since(past, optimizer.label, names):
                continue
            symbols = [f"{optimizer.label}.param_groups[{j}]" for j in empty]
            models = dict.fromkeys(p.model for p in now.lost)
            yield self.finding(
                f"{summarise(symbols)} {'is' if len(empty) == 1 else 'are'} empty, and"
                f" {count(len(names), 'trainable tensor')} ({sum(p.numel for p in now.lost):,}"
                f" parameters) {'is' if len(names) == 1 else 'are'} in no optimizer:"
                f" {summarise(names)}. A generator that was used up before gives nothing.",
                site=optimizer.groups[empty[0]].site or optimizer.site,
                symbol=symbols[0],
                notes=story(past, names, [optimizer.label]),
                fix=_REMEDY,
                subject=(optimizer.label, *(now.models[m].label for m in models)),
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        for event in world.of(program.CLIP):
            if event.data["exhausted"]:
                yield self.finding(
                    f"{event.value} is given an iterator that has nothing left, and clips nothing.",
                    site=event.site,
                    symbol=event.value,
                    fix=_REMEDY_OF_CLIP,
                )
        for optimizer in world.optimizers:
            for index, group in enumerate(optimizer.groups):
                if group.exhausted and not group.params and _lacks(world):
                    symbol = f"{optimizer.shown}.param_groups[{index}]"
                    yield self.finding(
                        f"{symbol} is empty: the generator that it is given was used up before,"
                        " and has nothing left.",
                        site=group.site or optimizer.site,
                        symbol=symbol,
                        notes=account.story(world, (), [optimizer]),
                        fix=_REMEDY,
                        subject=(optimizer.shown, *(m.shown for m in world.roots)),
                    )


_REMEDY = (
    "keep the parameters in a list, [p for p in ... if ...], before they are"
    " counted, printed or given away"
)
_REMEDY_OF_CLIP = "give it model.parameters(), or keep the parameters in a list"


def _lacks(world: World) -> bool:
    """Something that is, or may be, trainable is in no optimizer."""
    there = held.ids(world.optimizers)
    every = (p for root in world.roots for p in root.parameters())
    return any(p.id not in there and p.trains() is not False for p in every)
