from __future__ import annotations

from collections.abc import Iterator, Sequence

from freezecheck import account, omitted
from freezecheck.finding import Finding, Note, Severity
from freezecheck.phases import Phase
from freezecheck.program import World
from freezecheck.rule import Rule
from freezecheck.snapshot import Param, Snapshot, count, summarise
from freezecheck.story import changed_since, story
from freezecheck.stray import claims
from freezecheck.timeline import Timeline


class TrainableNotInOptimizer(Rule):
    """A trainable parameter is in no optimizer, so it never moves.

    ## What it does

    Finds parameters with `requires_grad=True` that none of the optimizers holds.

    ## Why it matters

    An optimizer keeps the list of tensors that it was built with. A layer that is
    unfrozen later, or a head that is put in its place later, gets gradients at every
    backward and is never stepped. Nothing crashes; the layer keeps its first values.

    ## Bad

    Built from the parameters that were trainable then, and `layer4` unfrozen afterwards:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for p in model.parameters():
        p.requires_grad = False
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.SGD(filter(lambda p: p.requires_grad, model.parameters()), lr=0.01)  # <- FC201
    for p in model.layer4.parameters():
        p.requires_grad = True
    model.eval()

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    The head replaced after the optimizer was built, which goes on stepping the old one:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.AdamW(  # <- FC201
        [
            {"params": [p for n, p in model.named_parameters() if not n.startswith("fc.")], "lr": 1e-5},
            {"params": model.fc.parameters(), "lr": 1e-3},
        ]
    )
    model.fc = torch.nn.Linear(512, 5)
    loss = F.cross_entropy(model(torch.randn(8, 3, 32, 32)), torch.arange(8) % 5)
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for p in model.parameters():
        p.requires_grad = False
    model.fc = torch.nn.Linear(512, 5)
    for p in model.layer4.parameters():
        p.requires_grad = True
    optimizer = torch.optim.SGD(
        [
            {"params": model.layer4.parameters(), "lr": 1e-3},
            {"params": model.fc.parameters(), "lr": 1e-2},
        ]
    )
    model.eval()

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    A teacher and a moving average require grad and are in no optimizer, as they should be:

    ```python
    import copy, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    ema, teacher = copy.deepcopy(model), copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x = torch.randn(16, 8)
    with torch.no_grad():
        target = teacher(x)
    nn.functional.mse_loss(model(x), target).backward()
    optimizer.step()
    with torch.no_grad():
        for average, p in zip(ema.parameters(), model.parameters()):
            average.lerp_(p, 0.01)
    ```

    ## How it is found

    By identity: a parameter is in an optimizer if it is the same object as an entry
    of one of its groups. In a recorded run, and after any backward, only parameters that
    received a gradient count, so copies and linear probes under `no_grad` are left alone.
    An optimizer that never steps, while one that was built later steps some of its
    tensors, holds nothing. In a run that goes on, the question is asked anew at each step at
    which the setup has changed, as when a stage is unfrozen in a later epoch. Stages that follow
    it, and are missing from the same optimizer, are the same defect.
    Parameters that were meant to be frozen, by a flag that is none, are left to FC101 to
    FC103.

    In a text, the question is asked at every step of every optimizer (in later epochs too,
    such as the one that unfreezes a stage), where an optimizer is handed to a call that is not
    understood, and at the end of a function that builds one for others. What counts are
    parameters that are trainable for certain and in no optimizer to the end, and that were
    unfrozen or put in place after the optimizer was built, were unfrozen by a line of their
    own, or get gradients beside parameters that are frozen. It is silent as soon as an optimizer may
    hold more than can be seen, or the model was handed to something unknown; about
    parameters that no gradient gets to (`no_grad`, `detach()`, modules that are never called);
    and about models of which no optimizer holds a part.

    It is a warning, not an error, where leaving them out may be meant: before the first
    gradient, where the head alone is in the optimizer and nothing is frozen (a linear
    probe under `no_grad`); in
    a run, where nothing was ever frozen, unfrozen or replaced (the optimizer was given a
    part of the model, and the rest computes gradients for nothing); and for a second model
    in train mode that another one learns through.

    ## Limits

    All optimizers have to be given to `inspect`: what another one holds looks missing.
    Silent about a whole model in eval mode, which may be a loss network; about a model
    that is a copy of one in the optimizer; and, before the first gradient, about a
    sub-module built like another one (a target network) and any second model.

    ## References

    - [torch.optim: constructing an optimizer](https://docs.pytorch.org/docs/stable/optim.html#constructing-it)
    """

    code = "FC201"
    name = "trainable-not-in-optimizer"
    severity = Severity.ERROR

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.optimizers or not now.lost:
            return
        unfrozen = _meant_frozen(now, past)
        for index in range(len(now.models)):
            lost = [p for p in now.lost if p.model == index and id(p) not in unfrozen]
            if not now.after_backward:
                lost = _without_twins(lost, now)
            severity = self._severity(now, past, index, lost) if lost else None
            if severity is not None:
                yield self._about(now, past, index, lost, severity)

    def stands(self, finding: Finding, phase: Phase, phases: Sequence[Phase]) -> bool:
        """What the same optimizer lacks still more of, later on, is the same defect."""
        before = (p.snapshot for p in phases if p.first < phase.first)
        return finding.site is None or not any(_lacked(now, finding) for now in before)

    def _severity(
        self, now: Snapshot, past: Timeline, index: int, lost: Sequence[Param]
    ) -> Severity | None:
        """None where leaving them out is, or may well be, what was meant."""
        absent = {id(p) for p in now.missing}
        held = [p for p in now.params if p.trainable and p.held and id(p) not in absent]
        stages = {p.stage for p in held if p.model == index}
        if not stages:
            if not held or _all_replaced(now, lost):
                return Severity.ERROR
            return Severity.WARNING if self._learns_through(now, index) else None
        if now.after_backward:
            return Severity.WARNING if self._as_given(now, past, index, lost) else Severity.ERROR
        last = len(now.models[index].stages) - 1
        chosen = any(p.model == index for p in now.frozen)  # a probe under no_grad freezes nothing
        head_alone = last > 0 and stages == {last} and not chosen
        return Severity.WARNING if head_alone else Severity.ERROR

    def _learns_through(self, now: Snapshot, index: int) -> bool:
        """Another model is trained, and its gradients pass through this one, in train mode."""
        if not now.after_backward or now.models[index].resting:
            return False
        shapes = [p.shape for p in now.of_model(index)]
        others = {p.model for p in now.trainable if p.held and p.model != index}
        return bool(others) and all([p.shape for p in now.of_model(o)] != shapes for o in others)

    def _as_given(self, now: Snapshot, past: Timeline, index: int, lost: Sequence[Param]) -> bool:
        """The optimizer was given a part of a model that no line froze or changed."""
        if not now.recorded or now.foreign or any(p.model == index for p in now.frozen):
            return False
        head = now.models[index].head
        if head and head.fresh is not False and any(p.module == head.path for p in lost):
            return False  # a new head is there to be trained
        names = [now.path(index, p.name) for p in lost]
        return not any(changed_since(past, now.optimizers[i].label, names) for i in now.active)

    def _about(
        self,
        now: Snapshot,
        past: Timeline,
        index: int,
        lost: Sequence[Param],
        severity: Severity,
    ) -> Finding:
        model = now.models[index]
        names = [now.path(index, p.name) for p in lost]
        optimizer = now.holder(index)
        idle = {now.optimizers[h.optimizer].label for p in lost for h in p.held}
        place = "in no optimizer"
        if idle:
            place = f"only in {' and '.join(sorted(idle))}, which is not stepped"
        size = sum(p.numel for p in lost)
        fate = "They get gradients and never move." if now.after_backward else "They never move."
        meant = severity < Severity.ERROR
        return self.finding(
            f"{count(len(lost), 'trainable tensor')} ({size:,} parameters) of {model.label}"
            f" {'is' if len(lost) == 1 else 'are'} {place}: {summarise(names)}. {fate}",
            site=optimizer.site,
            symbol=names[0],
            notes=(
                *story(past, names, [now.optimizers[i].label for i in now.active]),
                *_old_ones(now, lost),
            ),
            fix=_IF_MEANT if meant else _REMEDY,
            severity=severity,
            subject=(model.label, *(now.optimizers[i].label for i in now.active)),
        )

    def in_source(self, world: World) -> Iterator[Finding]:
        for found in omitted.find(world):
            model, what = found.model.shown, account.names(found.params)
            meant = not found.certain
            one = account.verb(found.params) == "is"
            moves = "never moves" if one else "never move"
            if found.trained:
                moves = f"gets gradients and {moves}" if one else f"get gradients and {moves}"
            yield self.finding(
                f"{what}{'' if what == model else f' of {model}'}"
                f" {account.verb(found.params)} trainable, and in no optimizer:"
                f" {'it' if one else 'they'} {moves}.",
                site=found.optimizer.site,
                symbol=model,
                notes=account.story(world, found.params, [found.optimizer], found.until),
                fix=_IF_MEANT if meant else _REMEDY,
                severity=Severity.WARNING if meant else Severity.ERROR,
                subject=(model, found.optimizer.shown),
            )


_IF_MEANT = "add them to the optimizer, or freeze them if they are meant to stay as they are"
_REMEDY = (
    "build the optimizer after everything is unfrozen and in its place,"
    " or add them with add_param_group()"
)


def _lacked(now: Snapshot, finding: Finding) -> bool:
    """The optimizer of a finding trained a part of the model, and not all, at an earlier time."""
    for index, model in enumerate(now.models):
        if model.label in finding.subject and now.holder(index).site == finding.site:
            absent = {id(p) for p in now.missing}
            mine = [p for p in now.trainable if p.model == index]
            some = any(id(p) not in absent for p in mine)
            as_sure = finding.severity < Severity.ERROR or any(p.model == index for p in now.frozen)
            if some and as_sure and any(p.model == index for p in now.lost):
                return True
    return False


def _meant_frozen(now: Snapshot, past: Timeline) -> set[int]:
    """Ids of parameters that a flag which is none claims to be frozen: FC101 to FC103 say so."""
    found = claims(now, past, lambda stray: stray.believed is False)
    return {id(p) for claim in found for p in claim.against}


def _form(param: Param) -> tuple[object, ...]:
    """Equal for two heads that differ in their number of classes alone."""
    return (param.dtype, len(param.shape), *param.shape[1:])


def _all_replaced(now: Snapshot, lost: Sequence[Param]) -> bool:
    """Each lost tensor may have taken the place of one that is still in an optimizer."""
    return {_form(p) for p in lost} <= {_form(p) for p in now.foreign}


def _old_ones(now: Snapshot, lost: Sequence[Param]) -> Iterator[Note]:
    forms = {_form(p) for p in lost}
    old = [p for p in now.foreign if _form(p) in forms]
    if old:
        label = now.optimizers[old[0].held[0].optimizer].label
        shapes = summarise([str(tuple(p.shape)) for p in old])
        yield Note(f"{label} holds {count(len(old), 'tensor')} that no model has: {shapes}")


def _without_twins(lost: list[Param], now: Snapshot) -> list[Param]:
    """Leave out direct children built exactly like another one that is held: target networks."""
    absent = {id(p) for p in lost}
    children: dict[tuple[int, str], list[Param]] = {}
    for param in now.owned:
        children.setdefault((param.model, param.name.partition(".")[0]), []).append(param)

    def build(params: list[Param]) -> tuple[object, ...]:
        return tuple((p.name.partition(".")[2], p.shape) for p in params)

    held = {
        build(params)
        for params in children.values()
        if len(params) > 1 and not any(id(p) in absent for p in params)
    }
    twins = {
        id(p)
        for params in children.values()
        if all(id(p) in absent for p in params) and build(params) in held
        for p in params
    }
    return [p for p in lost if id(p) not in twins]
