from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from freezecheck import account, foreign
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import World
from freezecheck.rule import Rule
from freezecheck.snapshot import Optimizer, Param, Snapshot, count, summarise
from freezecheck.story import story
from freezecheck.timeline import Timeline


class OptimizerHoldsForeignParameters(Rule):
    """The optimizer steps tensors that are not the model's.

    ## What it does

    Finds optimizers whose tensors no model owns, or that belong to another copy of the
    model than the one that is trained, while the model's own are in no optimizer.

    ## Why it matters

    An optimizer holds tensors, not a model. When the model is copied, built again, loaded
    with `assign=True`, moved to the `meta` device or sharded, it gets other tensors, and
    the optimizer goes on stepping those that no forward reads. The loss is computed, the
    gradients are there, and the model stays as it is.

    ## Bad

    `load_state_dict(assign=True)` puts the loaded tensors in place of the model's:

    ```python
    import torch
    from torch import nn

    def build():
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    weights = build().state_dict()
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)  # <- FC202
    model.load_state_dict(weights, assign=True)
    loss = nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 4)
    loss.backward()
    optimizer.step()
    ```

    A new model for every fold, and one optimizer for all:

    ```python
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # <- FC202
    for fold in range(5):
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        loss = nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    The copy is trained, the optimizer holds the original, and both live on:

    ```python
    import copy, torch
    from torch import nn

    base = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(base.parameters(), lr=0.1)  # <- FC202
    student = copy.deepcopy(base)
    loss = nn.functional.cross_entropy(student(torch.randn(16, 8)), torch.arange(16) % 4)
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch
    from torch import nn

    def build():
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    weights = build().state_dict()
    model = build()
    model.load_state_dict(weights, assign=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 4)
    loss.backward()
    optimizer.step()
    ```

    Parameters outside of the model, such as the class centres of a loss or a temperature:

    ```python
    import torch
    from torch import nn

    model = nn.Linear(8, 16)
    centres = nn.Parameter(torch.randn(4, 16))
    temperature = nn.Parameter(torch.tensor(10.0))
    optimizer = torch.optim.SGD([*model.parameters(), centres, temperature], lr=0.1)
    features = nn.functional.normalize(model(torch.randn(16, 8)))
    scores = temperature * features @ nn.functional.normalize(centres).T
    nn.functional.cross_entropy(scores, torch.arange(16) % 4).backward()
    optimizer.step()
    ```

    ## How it is found

    By identity. Half or more of the optimizer's tensors belong to no model, and the model
    lacks tensors of just these shapes and types (or, where a head was replaced, of shapes
    that differ in the number of classes alone). With several models: no tensor of the
    optimizer has a gradient, while a model built alike has gradients and no optimizer.

    In a text, three stories count. What was loaded with `assign=True`, moved to the `meta` device
    or sharded after the optimizer was built has other tensors since; half or more of the
    optimizer's are those of parts that were replaced, and it goes on; or a model of the same make is
    made or copied after the optimizer was built, and the loss comes from it alone. It is silent
    where a later optimizer holds the new tensors, where the first model is called again, and
    where gradients or values are carried over by hand. Wrapping (`DataParallel`, `compile`), `.to(device)`
    and half precision keep the tensors, so they are no such story.

    ## Limits

    A replaced head beside a backbone that the optimizer does hold is FC201. Master copies
    in another precision, and tensors that have nothing to do with the model (a prompt, an
    image that is optimised), are left alone. Before the first gradient, a model that is
    trained through clones of its parameters (`torch.func.functional_call`) looks the same.

    ## References

    - [nn.Module.load_state_dict: assign](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.load_state_dict)
    - [torch.optim: constructing an optimizer](https://docs.pytorch.org/docs/stable/optim.html#constructing-it)
    """

    code = "FC202"
    name = "optimizer-holds-foreign-parameters"
    severity = Severity.ERROR
    explains = ("FC114", "FC201", "FC203", "FC212")

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.optimizers or not now.lost:
            return
        for index in now.active:
            groups = now.optimizers[index].groups
            total, foreign = sum(g.tensors for g in groups), sum(g.foreign for g in groups)
            if foreign and 2 * foreign >= total:
                yield from self._ownerless(now, past, index, total)
            elif now.after_backward and len(now.models) > 1:
                yield from self._another_copy(now, past, index)

    def _ownerless(
        self, now: Snapshot, past: Timeline, index: int, total: int
    ) -> Iterator[Finding]:
        """Most of the optimizer's tensors belong to no model, and are a model's in form."""
        foreign = [p for p in now.foreign if any(h.optimizer == index for h in p.held)]
        for number in range(len(now.models)):
            lost = [p for p in now.lost if p.model == number]
            if _alike(foreign, lost) or _as_heads(foreign, lost):
                optimizer = now.optimizers[index]
                number_of = "the" if len(foreign) == total else f"{len(foreign):,} of the"
                message = f"No model has {number_of} {total:,} tensors in {optimizer.label}, while"
                yield self._finding(now, past, optimizer, number, lost, message, ())

    def _another_copy(self, now: Snapshot, past: Timeline, index: int) -> Iterator[Finding]:
        """The optimizer's tensors got no gradient; those of a model built alike did."""
        members = [p for p in now.of_optimizer(index) if p.trainable]
        if not members or any(p.grad is not None for p in members):
            return
        models = {p.model for p in members}
        for number in range(len(now.models)):
            lost = [p for p in now.lost if p.model == number]
            if number not in models and (_alike(members, lost) or _as_heads(members, lost)):
                optimizer = now.optimizers[index]
                labels = tuple(now.models[m].label for m in sorted(models) if m >= 0)
                message = (
                    f"The tensors in {optimizer.label} are those of {' and '.join(labels)}, and got"
                    " no gradient, while"
                )
                yield self._finding(now, past, optimizer, number, lost, message, labels)

    def _finding(
        self,
        now: Snapshot,
        past: Timeline,
        optimizer: Optimizer,
        model: int,
        lost: Sequence[Param],
        message: str,
        others: tuple[str, ...],
    ) -> Finding:
        label = now.models[model].label
        names = [now.path(model, p.name) for p in lost]
        return self.finding(
            f"{message} {count(len(lost), 'trainable tensor')} of {label} ({summarise(names)})"
            f" {'is' if len(lost) == 1 else 'are'} in no optimizer:"
            f" the steps of {optimizer.label} do not change {label}.",
            site=optimizer.site,
            symbol=optimizer.label,
            notes=story(past, names, [optimizer.label]),
            fix=_REMEDY,
            subject=(optimizer.label, label, *others),
        )

    def in_source(self, world: World) -> Iterator[Finding]:
        for found in foreign.find(world):
            label, model = found.optimizer.shown, found.model.shown
            yield self.finding(
                f"{label} holds tensors that are not in use any more ({account.names(found.old)}):"
                f" {found.why} after it was built. The steps of {label} do not change {model}.",
                site=found.optimizer.site,
                symbol=label,
                notes=(
                    *account.story(world, (), [found.optimizer], found.since),
                    Note(found.why, found.since.site),
                    Note(f"{label} steps here", found.use.site),
                ),
                fix=_REMEDY,
                subject=(label, model, *{p.module.root.shown: None for p in found.old}),
            )


_REMEDY = (
    "build the optimizer from the model that is trained, after it was copied,"
    " loaded, moved and sharded"
)


def _alike(held: Sequence[Param], lost: Sequence[Param]) -> bool:
    """At least half of the held tensors have the shape and type of a lost one each."""
    common = Counter(_form(p) for p in held) & Counter(_form(p) for p in lost)
    return 2 * common.total() >= len(held)


def _form(param: Param) -> tuple[object, ...]:
    return (param.dtype, *param.shape)


def _as_heads(held: Sequence[Param], lost: Sequence[Param]) -> bool:
    """One head for another: shapes that differ in the number of classes alone."""

    def form(param: Param) -> tuple[object, ...]:
        return (param.dtype, len(param.shape), *param.shape[1:])

    return Counter(form(p) for p in held) == Counter(form(p) for p in lost)
