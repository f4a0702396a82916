from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from freezecheck import program
from freezecheck.finding import Finding, Note, Severity, Site
from freezecheck.program import Optimizer, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot, summarise
from freezecheck.timeline import Timeline

# What people write for an option of torch's optimizers, without underscores.
_MEANT = {
    "learningrate": "lr",
    "wd": "weight_decay",
    "decay": "weight_decay",
    "l2": "weight_decay",
    "weightdecayrate": "weight_decay",
}
_FACTORS = ("lr_mult", "lr_multiplier")
_SIMILAR = 0.8


class UnknownGroupKey(Rule):
    """A parameter group has an option that the optimizer never reads.

    ## What it does

    Finds keys of parameter groups that are no option of the optimizer and look like one:
    `learning_rate`, `weight_deacy`, `wd`; and `lr_mult` that nothing multiplies by.

    ## Why it matters

    A group is a plain dict. PyTorch stores every key and reads those that it knows; the
    others are silently without effect, and the group runs with the constructor's rate or
    decay.

    ## Bad

    ```python
    import torch
    from torch import nn

    model = nn.Sequential()
    model.backbone = nn.Linear(8, 16)
    model.head = nn.Linear(16, 4)
    optimizer = torch.optim.SGD(  # <- FC207
        [
            {"params": model.backbone.parameters(), "learning_rate": 1e-4},
            {"params": model.head.parameters()},
        ],
        lr=0.01,
    )
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 4).backward()
    optimizer.step()
    ```

    From a well-known tutorial, written for another optimizer:

    ```python
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4))
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(  # <- FC207
        [
            {"params": matrices, "weight_decay_rate": 0.1},
            {"params": vectors, "weight_decay_rate": 0.0},
        ],
        lr=2e-5,
    )
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 4).backward()
    optimizer.step()
    ```

    ## Good

    Keys of one's own are useful, as long as somebody reads them:

    ```python
    import torch
    from torch import nn

    model = nn.Sequential()
    model.backbone = nn.Linear(8, 16)
    model.head = nn.Linear(16, 4)
    optimizer = torch.optim.SGD(
        [
            {"params": model.backbone.parameters(), "name": "backbone", "lr_scale": 0.1},
            {"params": model.head.parameters(), "name": "head", "lr_scale": 1.0},
        ],
        lr=0.01,
    )
    for group in optimizer.param_groups:
        group["lr"] = 0.01 * group["lr_scale"]
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 4).backward()
    optimizer.step()
    ```

    ## How it is found

    The keys of each group are compared with the options that the optimizer was built
    with. A key that is unlike all of them is taken for one's own. One that repeats the
    value of the option that it resembles does no harm.

    In a text, the options are those of the optimizer's class, where it is one that is
    known; keys that are set later, `group["learning_rate"] = ...`, count too. Nothing is
    said where neither the value given nor the one in force is known.

    ## Limits

    `lr_mult` and `lr_multiplier` count at a step only, where every group still has the
    constructor's rate and no scheduler is there to apply them. An optimizer that is not
    PyTorch's own may read more keys than its options show, so that is a warning.

    ## References

    - [torch.optim: per-parameter options](https://docs.pytorch.org/docs/stable/optim.html#per-parameter-options)
    """

    code = "FC207"
    name = "unknown-group-key"
    severity = Severity.ERROR

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for index, optimizer in enumerate(now.optimizers):
            places: dict[str, list[int]] = {}
            for number, group in enumerate(optimizer.groups):
                for key in group.options.keys() - optimizer.defaults.keys():
                    places.setdefault(key, []).append(number)
            for key in sorted(places):
                meant = _meant(key, list(optimizer.defaults))
                if meant is not None:
                    yield from self._ignored(now, index, key, meant, places[key])
                elif key in _FACTORS and _unapplied(now, index, key):
                    yield self._factor(now, index, key, places[key])

    def _ignored(
        self, now: Snapshot, index: int, key: str, meant: str, groups: Sequence[int]
    ) -> Iterator[Finding]:
        optimizer = now.optimizers[index]
        given = {n: optimizer.groups[n].options for n in groups}
        wrong = {
            n: o for n, o in given.items() if o[key] != o[meant] and _same_kind(o[key], o[meant])
        }
        if not wrong:
            return
        first = next(iter(wrong))
        values = summarise([str(v) for v in dict.fromkeys(o[key] for o in wrong.values())])
        real = summarise([str(v) for v in dict.fromkeys(o[meant] for o in wrong.values())])
        symbols = _symbols(optimizer.label, list(wrong))
        yield self.finding(
            f"{optimizer.class_name} does not read {key!r} ({values}) in {symbols}:"
            f" {meant} is {real} there.",
            site=optimizer.groups[first].site or optimizer.site,
            symbol=f"{optimizer.label}.param_groups[{first}][{key!r}]",
            fix=f"write {meant!r} instead of {key!r}",
            severity=Severity.ERROR if optimizer.builtin else Severity.WARNING,
            subject=optimizer.label,
        )

    def _factor(self, now: Snapshot, index: int, key: str, groups: Sequence[int]) -> Finding:
        optimizer = now.optimizers[index]
        return self.finding(
            f"{optimizer.class_name} does not read {key!r} in {_symbols(optimizer.label, groups)}:"
            f" every group is stepped with lr {optimizer.groups[0].lr:g}.",
            site=optimizer.groups[groups[0]].site or optimizer.site,
            symbol=f"{optimizer.label}.param_groups[{groups[0]}][{key!r}]",
            fix="give each group its own 'lr'",
            severity=Severity.WARNING,
            subject=optimizer.label,
        )

    def in_source(self, world: World) -> Iterator[Finding]:
        from freezecheck.source.knowledge import optimizers

        for optimizer in world.optimizers:
            known = optimizers.find(optimizer.type)
            if known is None or known.keys is None:
                continue
            options = sorted(known.keys - {"params"})
            unread: dict[str, list[int]] = {}
            for number, group in enumerate(optimizer.groups):
                for key in group.options.keys() - known.keys:
                    unread.setdefault(key, []).append(number)
            for key in sorted(unread):
                meant = _meant(key, options)
                if meant is not None:
                    yield from self._not_read(world, optimizer, key, meant, unread[key])
                elif key in _FACTORS and _is_unapplied(world, optimizer, key):
                    yield self._no_factor(optimizer, key, unread[key])

    def _not_read(
        self, world: World, optimizer: Optimizer, key: str, meant: str, groups: Sequence[int]
    ) -> Iterator[Finding]:
        wrong = {}
        for number in groups:
            options = optimizer.groups[number].options
            given, real = options[key], options.get(meant, optimizer.options.get(meant))
            if _differ(given, real, meant):
                wrong[number] = (given, real)
        if not wrong:
            return
        first = next(iter(wrong))
        values = [str(given) for given, _ in wrong.values() if given is not None]
        reals = [str(real) for _, real in wrong.values() if real is not None]
        shown = f" ({summarise(list(dict.fromkeys(values)))})" if values else ""
        there = summarise(list(dict.fromkeys(reals))) if reals else "the constructor's"
        builtin = optimizer.type.startswith("torch.optim.")
        yield self.finding(
            f"{optimizer.type.rpartition('.')[2]} does not read {key!r}{shown} in"
            f" {_symbols(optimizer.shown, list(wrong))}: {meant} is"
            f" {there} there.",
            site=_set_at(world, optimizer, first, key),
            symbol=f"{optimizer.shown}.param_groups[{first}][{key!r}]",
            notes=[Note(f"{optimizer.shown} is built here", optimizer.site)],
            fix=f"write {meant!r} instead of {key!r}",
            severity=Severity.ERROR if builtin else Severity.WARNING,
            subject=optimizer.shown,
        )

    def _no_factor(self, optimizer: Optimizer, key: str, groups: Sequence[int]) -> Finding:
        rate = optimizer.options.get("lr")
        return self.finding(
            f"{optimizer.type.rpartition('.')[2]} does not read {key!r} in"
            f" {_symbols(optimizer.shown, groups)}: every group is stepped with"
            f" {'the same lr' if rate is None else f'lr {rate:g}'}.",
            site=optimizer.groups[groups[0]].site or optimizer.site,
            symbol=f"{optimizer.shown}.param_groups[{groups[0]}][{key!r}]",
            notes=[Note(f"{optimizer.shown} steps here", optimizer.steps[0].site)],
            fix="give each group its own 'lr'",
            severity=Severity.WARNING,
            subject=optimizer.shown,
        )


def _differ(given: Any, real: Any, meant: str) -> bool:
    """The option in force is another one than the one that was given, for certain or as good
    as: values that are not known are None."""
    if given is None or real is None:
        return meant == "lr" and (given is None) != (real is None)
    return bool(given != real) and _same_kind(given, real)


def _set_at(world: World, optimizer: Optimizer, number: int, key: str) -> Site | None:
    """The line that gives the key."""
    group = optimizer.groups[number]
    for event in world.of(program.RATE, optimizer):
        if event.data["group"] is group and event.data["option"] == key:
            return event.site
    return group.site or optimizer.site


def _is_unapplied(world: World, optimizer: Optimizer, key: str) -> bool:
    """It steps with the constructor's rate in every group, and nobody changes a rate."""
    builtin = optimizer.type.startswith("torch.optim.")
    if not builtin or not optimizer.steps or optimizer.escaped or optimizer.open:
        return False
    if any(s.optimizer in (optimizer, None) for s in world.schedulers):
        return False
    if any(True for _ in world.of(program.RATE, optimizer)):
        return False
    factors = [group.options.get(key, 1) for group in optimizer.groups]
    return not any("lr" in group.options for group in optimizer.groups) and any(
        isinstance(f, (int, float)) and f != 1 for f in factors
    )


def _meant(key: str, options: Sequence[str]) -> str | None:
    """The option that was meant, if the key looks like one."""
    bare = key.casefold().replace("_", "").replace("-", "").replace(" ", "")
    meant = _MEANT.get(bare) or next((o for o in options if o.replace("_", "") == bare), None)
    if meant is not None:
        return meant if meant in options else None
    if any(key.startswith(f"{o}_") or key.endswith(f"_{o}") for o in options):
        return None  # max_momentum and initial_lr are a scheduler's
    import difflib  # slow to import

    return next(iter(difflib.get_close_matches(key.casefold(), options, 1, _SIMILAR)), None)


def _same_kind(given: Any, real: Any) -> bool:
    """Numbers for numbers; a mark such as `decay: True` is not meant for the optimizer."""
    if isinstance(given, bool) or isinstance(real, bool):
        return isinstance(given, bool) and isinstance(real, bool)
    if isinstance(given, (int, float)):
        return isinstance(real, (int, float, tuple))
    return type(given) is type(real)


def _unapplied(now: Snapshot, index: int, key: str) -> bool:
    """A step is about to be taken with the constructor's rate everywhere, and nobody will change it."""
    optimizer = now.optimizers[index]
    if not optimizer.builtin or not (now.recorded or optimizer.stepped):
        return False
    if any(s.optimizer in (index, None) for s in now.schedulers):
        return False
    rates = {group.lr for group in optimizer.groups}
    return rates == {optimizer.defaults.get("lr")} and any(
        group.options.get(key, 1) != 1 for group in optimizer.groups
    )


def _symbols(label: str, groups: Sequence[int]) -> str:
    return summarise([f"{label}.param_groups[{n}]" for n in groups])
