from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

from freezecheck.finding import Finding, Note, Severity, Site
from freezecheck.ranks import Copy, Rank, copies
from freezecheck.rule import Rule
from freezecheck.snapshot import Param, summarise
from freezecheck.timeline import STEP

# Copies that agree have the same bits. Rounding (other hardware, other libraries) stays far
# below these, and other data or another seed far above.
_GRADIENTS = 1e-3
_WEIGHTS = 1e-6

_DDP = "DistributedDataParallel"
_SAME = "build the same model in every process"


class RanksDisagree(Rule):
    """Processes that train one model together differ in what they train.

    ## What it does

    Compares the copies of a model that several processes hold behind
    `DistributedDataParallel`, `fully_shard` or FSDP: the parameters, which of them train, and,
    behind `DistributedDataParallel`, weights and gradients at the step.

    ## Why it matters

    `DistributedDataParallel` compares shapes once, when it is built, and then averages the gradients of
    the trainable parameters in their order. If each process froze another layer of the same
    shape, it averages the gradients of one layer with those of the other. If the gradients were
    not averaged at all, or the weights loaded in one process alone, each
    trains a model of its own. The loss falls all the same, and the checkpoint is that of
    one process, which has seen a part of the data. Sharded models may wait for one another
    instead, for ever.

    ## Bad

    ```python ranks=2
    import random

    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel as DDP

    rank = dist.get_rank()
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(8)))
    random.seed(rank)
    for layer in random.sample(list(model), 4):
        layer.requires_grad_(False)  # <- FC505
    model = DDP(model)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.01)
    model(torch.randn(4, 16)).square().mean().backward()
    optimizer.step()
    ```

    The wrapper is passed over, so nothing is averaged:

    ```python ranks=2
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel as DDP

    model = DDP(nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(dist.get_rank())
    model.module(torch.randn(4, 16)).square().mean().backward()
    optimizer.step()  # <- FC505
    ```

    ## Good

    What is chosen at random is chosen alike everywhere; the data is each process's own:

    ```python ranks=2
    import random

    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel as DDP

    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(8)))
    random.seed(0)
    for layer in random.sample(list(model), 4):
        layer.requires_grad_(False)
    model = DDP(model)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.01)
    torch.manual_seed(dist.get_rank())
    model(torch.randn(4, 16)).square().mean().backward()
    optimizer.step()
    ```

    ## How it is found

    Each process writes down the names, shapes and flags of what it holds in common with others,
    and the sums of absolute values of weights and gradients; the process that started
    them compares. No collective is called, so nothing waits.

    ## Limits

    Buffers are not compared: BatchNorm statistics differ by design. Neither are the values of
    sharded tensors, gradients that a communication hook made, parameters that
    `DistributedDataParallel` was told to ignore, and, where several optimizers take turns,
    gradients. Processes without a wrapper around their model may well
    train different ones on purpose, and are not compared.

    ## References

    - [Distributed Data Parallel: internal design](https://docs.pytorch.org/docs/stable/notes/ddp.html#internal-design)
    - [torch.nn.parallel.DistributedDataParallel](https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html)
    """

    code = "FC505"
    name = "ranks-disagree"
    severity = Severity.ERROR

    def in_ranks(self, ranks: Sequence[Rank]) -> Iterator[Finding]:
        for group in copies(ranks):
            setup = [*self._models(group), *self._flags(group)]
            yield from setup
            if not setup and all(copy.rank.exact for copy in group):
                yield from [*self._gradients(group)] or self._weights(group)

    def _models(self, group: Sequence[Copy]) -> Iterator[Finding]:
        """Parameters that only some processes have, or that have another shape there."""
        names = {name: None for copy in group for name in copy.params}
        there = {n: {c.rank.number: n in c.params for c in group} for n in names}
        for present, missed in _split(there).items():
            on, off = _with(present, True), _with(present, False)
            yield self._finding(
                group,
                missed,
                f"The processes do not have the same model: {summarise(missed)}"
                f" {_be(missed, 'exists', 'exist')} on {on} and not on {off}.",
                fix=_SAME,
            )
        if group[0].shared.by == "FullyShardedDataParallel":
            return  # each process has a piece of its own
        for shapes, other in _split(_facts(group, lambda p: str([*p.shape]))).items():
            told = ", ".join(f"{shape} on rank {number}" for number, shape in shapes)
            yield self._finding(
                group,
                other,
                "The processes do not have the same model: the shape of"
                f" {summarise(other)} is {told}.",
                fix=_SAME,
            )

    def _flags(self, group: Sequence[Copy]) -> Iterator[Finding]:
        """Parameters that train in some processes and are frozen in others."""
        split = _split(_facts(group, lambda p: p.trainable))
        if not split:
            return
        told: list[str] = []
        notes: list[Note] = []
        for flags, names in split.items():
            told.append(
                f"{summarise(names)} {_be(names, 'trains', 'train')} on {_with(flags, True)} and"
                f" {_be(names, 'is', 'are')} frozen on {_with(flags, False)}"
            )
            notes += _written(group, names, dict(flags))
        by = group[0].shared.by
        harm = (
            "Gradients are averaged in the order of the trainable parameters: those of one are mixed"
            " with those of another."
            if by == _DDP
            else "Gradients of one are mixed with those of another, or a process waits for ever for"
            " the others to reduce what they do not."
        )
        yield self._finding(
            group,
            next(iter(split.values())),
            f"The processes train different parameters: {'; '.join(told)}. {harm}",
            site=notes[0].site if notes else None,
            notes=[note for note in dict.fromkeys(notes[1:]) if note.site != notes[0].site][:3],
            fix="freeze the same parameters in every process; what is chosen by chance, or from"
            " what one process alone knows, is chosen once and sent to the others",
        )

    def _gradients(self, group: Sequence[Copy]) -> Iterator[Finding]:
        """Gradients that were not averaged."""
        sums = [copy.shared.gradients for copy in group]
        names = [*_absent(group), *_differing(sums, _GRADIENTS)] if all(sums) else []
        if not names:
            return
        dark = [n for n, p in group[0].params.items() if p.trainable and p.grad is None]
        yield self._finding(
            group,
            names,
            f"The gradients of {summarise(names)} are not the same in every process at the step"
            f" ({_told(group, sums, names[0])}): {_DDP} has not averaged them, and the copies of the"
            " model drift apart."
            + (f" It waits for a gradient of {summarise(dark)}, and none came." if dark else ""),
            site=_step(group[0]),
            fix="freeze what gets no gradient before the model is wrapped, or leave it out"
            if dark
            else "call the wrapped model itself, not its .module, and leave no_sync() before the last"
            " backward of a step",
        )

    def _weights(self, group: Sequence[Copy]) -> Iterator[Finding]:
        """Copies of the model that are none."""
        sums = [copy.shared.sizes for copy in group]
        names = _differing(sums, _WEIGHTS)
        if names:
            yield self._finding(
                group,
                names,
                f"The weights of {summarise(names)} are not the same in every process at the step"
                f" ({_told(group, sums, names[0])}): {_DDP} averages gradients alone, and takes the"
                " weights to be equal since it was built.",
                site=_step(group[0]),
                fix="load and change weights before the model is wrapped, or alike in every process",
            )

    def _finding(
        self,
        group: Sequence[Copy],
        names: Sequence[str],
        message: str,
        *,
        fix: str,
        site: Site | None = None,
        notes: Sequence[Note] = (),
    ) -> Finding:
        first = group[0]
        now, model = first.rank.now, first.shared.model
        return self.finding(
            message,
            site=site or now.built(model),
            symbol=first.symbol(names[0]),
            notes=notes,
            fix=fix,
            subject=now.models[model].label,
        )


Facts = Mapping[str, Mapping[int, Hashable]]  # name -> rank -> what it is there


def _facts(group: Sequence[Copy], fact: Callable[[Param], Hashable]) -> Facts:
    common = [n for n in group[0].params if all(n in copy.params for copy in group)]
    return {n: {c.rank.number: fact(c.params[n]) for c in group} for n in common}


def _split(facts: Facts) -> dict[tuple[tuple[int, Hashable], ...], list[str]]:
    """The names about which the processes differ, by who says what."""
    found: dict[tuple[tuple[int, Hashable], ...], list[str]] = defaultdict(list)
    for name, by_rank in facts.items():
        if len(set(by_rank.values())) > 1:
            found[tuple(by_rank.items())].append(name)
    return found


def _with(facts: Sequence[tuple[int, Hashable]], value: Hashable) -> str:
    """`rank 0`, `ranks 1, 2 and 3`: who says so."""
    numbers = [str(number) for number, said in facts if said == value]
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    return f"ranks {', '.join(numbers[:-1])} and {numbers[-1]}"


def _be(names: Sequence[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several


def _written(
    group: Sequence[Copy], names: Sequence[str], flags: Mapping[int, Hashable]
) -> Iterator[Note]:
    """The lines that froze them, then those that unfroze them, each once."""
    for value in (False, True):
        for copy in group:
            if flags[copy.rank.number] is value:
                event = copy.rank.past.written([copy.symbol(name) for name in names], value)
                if event is not None and event.site is not None:
                    word = "unfrozen" if value else "frozen"
                    yield Note(f"{word} here on rank {copy.rank.number}", event.site)


def _absent(group: Sequence[Copy]) -> list[str]:
    """What got a gradient in some processes, and none in others."""
    common = _facts(group, lambda p: p.grad is None)
    return [n for names in _split(common).values() for n in names]


def _differing(sums: Sequence[Mapping[str, float]], tolerance: float) -> list[str]:
    """The names whose sums are known everywhere and are not the same."""
    found = []
    for name, size in sums[0].items():
        others = [each.get(name, math.nan) for each in sums]
        alike = all(math.isclose(size, other, rel_tol=tolerance) for other in others)
        if not alike and all(map(math.isfinite, others)):
            found.append(name)
    return found


def _told(group: Sequence[Copy], sums: Sequence[Mapping[str, float]], name: str) -> str:
    """The sums of one of them, for two processes that differ."""
    pairs = [(copy.rank.number, each.get(name)) for copy, each in zip(group, sums)]
    number, size = max(pairs, key=lambda pair: _distance(pairs[0][1], pair[1]))
    shown = [(pairs[0][0], pairs[0][1]), (number, size)]
    told = [f"{'none' if n is None else f'{n:.4g}'} on rank {rank}" for rank, n in shown]
    return f"{name}: a sum of absolute values of {', '.join(told)}"


def _distance(a: float | None, b: float | None) -> float:
    return abs((a or 0.0) - (b or 0.0))


def _step(copy: Copy) -> Site | None:
    last = copy.rank.past.last(STEP)
    return last.site if last else None
