from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from freezecheck import rates, stated_rates
from freezecheck.finding import Finding, Note, Severity, Site
from freezecheck.program import Event, Module, Optimizer, World
from freezecheck.program import Param as Leaf
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot
from freezecheck.timeline import Timeline

_CLEARLY = 1.5  # times as fast
_NUMBERED = re.compile(r"^(.*?)(\d+)$")


_Pace = tuple[str, float, Leaf]  # the path of a part, its rate, and one of its parameters


class RatesInverted(Rule):
    """An earlier stage of a pretrained network learns faster than a later one.

    ## What it does

    Finds pretrained networks whose rates fall with depth (`layer1` above `layer4`), or
    whose backbone learns faster than the newly drawn head.

    ## Why it matters

    Early layers hold what carries over to any task, late layers and the head what must be
    learnt anew. Rates that fall towards the head change what should stay, and leave what
    should change as it was. It is nearly always a slip: an exponent counted from the wrong
    end, or two groups in each other's place.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    layers = [model.layer1, model.layer2, model.layer3, model.layer4]
    groups = [{"params": layer.parameters(), "lr": 1e-3 * 0.5**i} for i, layer in enumerate(layers)]
    groups.append({"params": model.fc.parameters(), "lr": 1e-2})
    optimizer = torch.optim.SGD(groups, momentum=0.9)  # <- FC302
    model.conv1.requires_grad_(False)
    model.bn1.requires_grad_(False).eval()

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)
    layers = [model.layer1, model.layer2, model.layer3, model.layer4]
    groups = [
        {"params": layer.parameters(), "lr": 1e-3 * 0.5 ** (4 - i)} for i, layer in enumerate(layers)
    ]
    groups.append({"params": model.fc.parameters(), "lr": 1e-2})
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    model.conv1.requires_grad_(False)
    model.bn1.requires_grad_(False).eval()

    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    Stages are compared where their order is certain: numbered ones of one family
    (`layer1` to `layer4`, `blocks.0` to `blocks.11`) whose rates never rise and fall by
    half or more, and a pretrained stage with a head that looks newly drawn. A stage's
    rate is that of most of its entries, so that groups of norms and biases do not count;
    of a schedule, the peak counts.

    From the text: the same comparison, of parts whose layers are listed, in optimizers whose
    groups and rates are all known.

    ## Limits

    Nothing is said about networks that were not pretrained, or that have no norm layers
    to tell by: embeddings and first layers are rightly trained faster there. The order of
    a network's parts is not known beyond numbered families, since parts are often
    registered in another order than they run.

    ## References

    - [Howard and Ruder 2018, discriminative fine-tuning](https://arxiv.org/abs/1801.06146)
    - [torch.optim: per-parameter options](https://docs.pytorch.org/docs/stable/optim.html#per-parameter-options)
    """

    code = "FC302"
    name = "rates-inverted"
    severity = Severity.WARNING

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for index, optimizer in enumerate(now.optimizers):
            tops = rates.tops(now, index)
            if len(set(tops)) < 2 or optimizer.idle:
                continue
            for model, record in enumerate(now.models):
                if record.pretrained:
                    yield from self._judge(now, model, index, tops)

    def in_source(self, world: World) -> Iterator[Finding]:
        for optimizer in world.optimizers:
            use = stated_rates.first_use(world, optimizer)
            if use is None or optimizer.open or len(optimizer.groups) < 2:
                continue
            paces = {
                param: stated_rates.top(world, optimizer, group, use)
                for param, group in stated_rates.learning(optimizer, use)
            }
            for root in dict.fromkeys(param.module.root for param in paces):
                mine = {p: rate for p, rate in paces.items() if p.module.root is root}
                found = _ahead_of_head(mine) or _falling(root, mine)
                if found is not None:
                    yield self._stated(optimizer, use, root, *found)

    def _stated(
        self, optimizer: Optimizer, use: Event, root: Module, early: _Pace, late: _Pace
    ) -> Finding:
        group = next(g for g in optimizer.groups if early[2] in g.params)
        return self.finding(
            f"{early[0]} learns at {early[1]:g}, but {late[0]} after it at {late[1]:g}: the stages"
            " that hold what carries over to any task change most, those that must be learnt"
            " anew change least.",
            site=group.site or optimizer.site,
            symbol=optimizer.shown,
            notes=[Note(f"{optimizer.shown} is first used here", use.site)],
            fix="let the rate rise towards the head, for instance"
            " lr * decay ** (last - index) with a decay below 1",
            subject=(root.shown, optimizer.shown),
        )

    def _judge(
        self, now: Snapshot, model: int, optimizer: int, tops: list[float]
    ) -> Iterator[Finding]:
        whole, record = now.models[model], now.optimizers[optimizer]
        learning = rates.of_stages(now, optimizer, model, tops)
        found = _too_fast_for_head(now, model, optimizer, tops, learning) or next(
            (pair for family in _families(now, model, learning) if (pair := _falls(family))), None
        )
        if found is None:
            return
        (early, fast), (late, slow) = found
        yield self.finding(
            f"{now.path(model, early)} learns at {fast:g}, but {now.path(model, late)} after it"
            f" at {slow:g}: the stages that hold what carries over to any task change most,"
            " those that must be learnt anew change least.",
            site=_site(now, optimizer, tops, fast) or record.site,
            symbol=record.label,
            fix="let the rate rise towards the head, for instance"
            " lr * decay ** (last - index) with a decay below 1",
            subject=(whole.label, record.label),
        )


def _families(
    now: Snapshot, model: int, learning: dict[int, float]
) -> Iterator[list[tuple[str, float]]]:
    """The (path, rate) of numbered stages of one kind, in the order of both number and
    registration."""
    families: dict[str, list[tuple[int, str, float]]] = {}
    for stage, rate in learning.items():
        paths = now.models[model].stages[stage].paths
        match = _NUMBERED.match(paths[0]) if len(paths) == 1 else None
        if match and rate > 0:
            families.setdefault(match[1], []).append((int(match[2]), paths[0], rate))
    for members in families.values():
        if members == sorted(members, key=lambda member: member[0]):
            yield [(path, rate) for _, path, rate in members]


def _falls(family: list[tuple[str, float]]) -> tuple[tuple[str, float], tuple[str, float]] | None:
    """The first and the last member, if the rates only fall, and clearly."""
    rates_ = [rate for _, rate in family]
    if len(family) < 2 or rates_[0] <= _CLEARLY * rates_[-1]:
        return None
    if any(later > earlier * 1.001 for earlier, later in pairwise(rates_)):
        return None
    return family[0], family[-1]


def _too_fast_for_head(
    now: Snapshot, model: int, optimizer: int, tops: list[float], learning: dict[int, float]
) -> tuple[tuple[str, float], tuple[str, float]] | None:
    """A pretrained stage that learns faster than the new head, and the head."""
    head = rates.fresh_head(now, model)
    slow = rates.of_params(head[1], optimizer, tops) if head else None
    if head is None or not slow:
        return None
    whole = now.models[model]
    for stage, rate in learning.items():
        if stage != head[0] and whole.stages[stage].pretrained and rate > _CLEARLY * slow:
            return (whole.stages[stage].name, rate), (whole.head.path if whole.head else "", slow)
    return None


def _site(now: Snapshot, optimizer: int, tops: list[float], rate: float) -> Site | None:
    """Where the group with that rate was added, if it was added later."""
    groups = now.optimizers[optimizer].groups
    return next((g.site for g, top in zip(groups, tops) if top == rate and g.site), None)


def _ahead_of_head(paces: dict[Leaf, float | None]) -> tuple[_Pace, _Pace] | None:
    """A pretrained part that learns faster than every new one."""
    head = [p for p in stated_rates.weights(paces) if p.module.pretrained is False]
    slow = [paces[p] for p in head]
    if not head or None in slow:
        return None
    limit = max(rate for rate in slow if rate is not None)
    fast = [
        p
        for p in stated_rates.weights(paces)
        if p.module.pretrained is True and (paces[p] or 0) > _CLEARLY * limit
    ]
    if not limit or not stated_rates.is_much(fast):
        return None
    return (fast[0].module.path, paces[fast[0]] or 0, fast[0]), (
        head[0].module.path,
        limit,
        head[0],
    )


def _falling(root: Module, paces: dict[Leaf, float | None]) -> tuple[_Pace, _Pace] | None:
    """The first and the last of numbered pretrained stages whose rates only fall."""
    for parent in root.walk():
        families: dict[str, list[tuple[int, _Pace]]] = {}
        for name, child in parent.children.items():
            match = _NUMBERED.match(name)
            pace = _pace(child, paces) if match and child.pretrained else None
            if match and pace is not None:
                families.setdefault(match[1], []).append((int(match[2]), pace))
        for members in families.values():
            order = [number for number, _ in members]
            family = [(path, rate) for _, (path, rate, _) in members]
            if order == sorted(order) and _falls(family):
                return members[0][1], members[-1][1]
    return None


def _pace(stage: Module, paces: dict[Leaf, float | None]) -> _Pace | None:
    """The one rate of a stage that is trained as a whole."""
    every = stated_rates.weights(stage.parameters())
    found = {paces.get(param) for param in every}
    rate = found.pop() if len(found) == 1 else None
    return (stage.path, rate, every[0]) if rate else None
