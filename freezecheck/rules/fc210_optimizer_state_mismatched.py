from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity, Site
from freezecheck.rule import Rule
from freezecheck.snapshot import Param, Snapshot, count, summarise
from freezecheck.story import story
from freezecheck.timeline import LOAD, Timeline

# Parts of a name that wrappers add.
_WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))


class OptimizerStateMismatched(Rule):
    """The optimizer's state belongs to other parameters.

    ## What it does

    Finds state whose shape, device or type is not that of its parameter, and groups whose
    recorded parameter names are those of other parameters.

    ## Why it matters

    `optimizer.load_state_dict` matches by position: the third tensor gets the third state.
    Where parameters were frozen, added or listed in another order since the state was
    saved, each gets the moments of another one. If the shapes agree, nothing is noticed;
    if they do not, the next step stops with an error about tensor sizes.

    ## Bad

    Saved with the backbone first, loaded with the head first:

    ```python
    import torch
    from torch import nn

    def build(first):
        model = nn.Sequential()
        model.backbone = nn.Linear(8, 8)
        model.head = nn.Linear(8, 8)
        named = [item for item in model.named_parameters() if item[0].startswith(first)]
        named += [item for item in model.named_parameters() if not item[0].startswith(first)]
        return model, torch.optim.SGD(named, lr=0.1, momentum=0.9)

    _, optimizer = build(first="backbone")
    checkpoint = optimizer.state_dict()
    checkpoint["state"] = {  # what training leaves there
        i: {"momentum_buffer": torch.randn_like(p)}
        for i, p in enumerate(optimizer.param_groups[0]["params"])
    }

    model, optimizer = build(first="head")
    optimizer.load_state_dict(checkpoint)  # <- FC210
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 8).backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential()
        model.backbone = nn.Linear(8, 8)
        model.head = nn.Linear(8, 8)
        return model, torch.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9)

    _, optimizer = build()
    checkpoint = optimizer.state_dict()
    checkpoint["state"] = {
        i: {"momentum_buffer": torch.randn_like(p)}
        for i, p in enumerate(optimizer.param_groups[0]["params"])
    }

    model, optimizer = build()
    optimizer.load_state_dict(checkpoint)
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 8).backward()
    optimizer.step()
    ```

    ## How it is found

    State tensors that have an entry for each entry of the parameter are compared with it.
    Names are compared where the optimizer was built from `named_parameters()`, then or
    when the state was saved (PyTorch 2.6 and later keep them with the state).

    ## Limits

    Without names, moments that were swapped between tensors of one shape cannot be told.
    A type that differs counts only where PyTorch's step refuses it.

    ## References

    - [Optimizer.load_state_dict](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.load_state_dict.html)
    """

    code = "FC210"
    name = "optimizer-state-mismatched"
    severity = Severity.ERROR

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for index in now.active:
            optimizer = now.optimizers[index]
            if not optimizer.stepped:
                continue
            unfit = [
                (param, held.mismatch)
                for param in now.of_optimizer(index)
                for held in param.held
                if held.optimizer == index and held.mismatch
            ]
            unfit = [(p, why) for p, why in unfit if p.trainable or p.grad is not None]
            if unfit:
                yield self._unfit(now, past, index, unfit)
            for number, group in enumerate(optimizer.groups):
                swapped = _swapped(group.names, group.paths)
                if swapped:
                    yield self._swapped(now, past, index, number, swapped)

    def _unfit(
        self, now: Snapshot, past: Timeline, index: int, unfit: list[tuple[Param, str]]
    ) -> Finding:
        optimizer = now.optimizers[index]
        names = [now.path(p.model, p.name) for p, _ in unfit]
        return self.finding(
            f"{optimizer.label} keeps state for {count(len(names), 'tensor')} that does not fit:"
            f" {summarise(names)}. Of {names[0]}, {unfit[0][1]}. The next step stops with an error.",
            site=_loaded(past, optimizer.label) or optimizer.site,
            symbol=names[0],
            notes=story(past, (), [optimizer.label]),
            fix="load the state into an optimizer with the same parameters in the same order,"
            " after the model is on its device and in its type",
            subject=optimizer.label,
        )

    def _swapped(
        self, now: Snapshot, past: Timeline, index: int, number: int, swapped: list[tuple[str, str]]
    ) -> Finding:
        optimizer = now.optimizers[index]
        symbol = f"{optimizer.label}.param_groups[{number}]"
        pairs = summarise([f"{real} has that of {given}" for given, real in swapped])
        return self.finding(
            f"In {symbol}, {count(len(swapped), 'tensor')} {'has' if len(swapped) == 1 else 'have'}"
            f" the state of another one: {pairs}. The steps follow the moments of the wrong"
            " tensors.",
            site=_loaded(past, optimizer.label) or optimizer.site,
            symbol=symbol,
            notes=story(past, (), [optimizer.label]),
            fix="build the optimizer with the parameters in the order in which its state was saved",
            subject=optimizer.label,
        )


def _swapped(names: tuple[str, ...], paths: tuple[str, ...]) -> list[tuple[str, str]]:
    """(name in the state, real name) where the name is that of another parameter.

    Names may lack the first parts of a path: those that a sub-module gives its own.
    """
    known = set(paths)
    given = ((_bare(name), path) for name, path in zip(names, paths))
    return [(n, p) for n, p in given if n in known and n != p and not p.endswith(f".{n}")]


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _loaded(past: Timeline, label: str) -> Site | None:
    event = past.last(LOAD, label)
    return event.site if event else None
