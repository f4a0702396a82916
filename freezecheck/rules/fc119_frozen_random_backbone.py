from __future__ import annotations

import re
from collections.abc import Iterator

from freezecheck.finding import Finding, Note, Severity
from freezecheck.frozen import copies
from freezecheck.held import members, moments, was_handed_on
from freezecheck.program import LOAD as LOADED
from freezecheck.program import REPLACE, Module, World
from freezecheck.program import Event as Moment
from freezecheck.program import Param as Leaf
from freezecheck.rule import Rule
from freezecheck.snapshot import Param, Snapshot, count
from freezecheck.timeline import LOAD, Event, Timeline

# A program that leaves it to its options whether weights are loaded.
_OPTIONS = re.compile(r"pretrain|weights|resume|scratch|checkpoint|ckpt|load|init", re.IGNORECASE)


class FrozenRandomBackbone(Rule):
    """The frozen backbone has never been trained: a head learns on random features.

    ## What it does

    Finds models whose backbone is frozen, whose head is in the optimizer, and whose norm
    layers all have the weights and biases they were built with.

    ## Why it matters

    `weights=None` is torchvision's default, and `load_state_dict(..., strict=False)` is silent
    where none of a checkpoint's names match. The backbone then stays as it was drawn at
    random, for ever, and the head does what it can. The loss falls and the accuracy is
    poor, as with a hard data set.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18()
    for p in model.parameters():
        p.requires_grad = False  # <- FC119
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)

    model.eval()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    A checkpoint that was saved from a wrapped model:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    pretrained = torch.nn.DataParallel(torchvision.models.resnet18(weights="DEFAULT"))
    checkpoint = pretrained.state_dict()

    model = torchvision.models.resnet18()
    model.load_state_dict(checkpoint, strict=False)  # <- FC119
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)

    model.eval()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    pretrained = torch.nn.DataParallel(torchvision.models.resnet18(weights="DEFAULT"))
    checkpoint = pretrained.state_dict()

    model = torchvision.models.resnet18()
    model.load_state_dict({k.removeprefix("module."): v for k, v in checkpoint.items()})
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)

    model.eval()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    From scratch, with everything trainable:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(num_classes=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    The weights of norm layers start at exactly 1 and their biases at 0, and the first steps
    of any training move them for ever. A few values of a few layers are looked at.

    In a text: a model of torchvision or timm is built without weights, nothing is loaded into
    it, and it is frozen but for its head when the optimizer that holds the head is first
    used. Nothing is said where an option of the program decides on the weights.

    ## Limits

    A backbone without norm layers that have weights cannot be judged, and nothing is said. A
    frozen stem alone, or a smaller part of the model, may be random on purpose, and a stage
    with adapters in it is not frozen. Before the first backward it is a warning: weights
    may still be loaded. A run in which `--no-weights` left weights out is judged from the
    text alone.

    ## References

    - [torchvision: models and pretrained weights](https://docs.pytorch.org/vision/stable/models.html)
    - [torch.nn.Module.load_state_dict, `strict`](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.load_state_dict)
    """

    code = "FC119"
    name = "frozen-random-backbone"
    severity = Severity.ERROR
    needs_weights = True
    explains = ("FC401", "FC402", "FC406", "FC413")

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.frozen or not now.optimizers:
            return
        for index, model in enumerate(now.models):
            if model.pretrained is not False or not self._trains_head(now, index):
                continue
            frozen = self._frozen_backbone(now, index)
            if not frozen:
                continue
            names = [now.path(index, p.name) for p in frozen]
            load, flag = _unmatched(now, past, index), past.written(names, False)
            yield self.finding(
                f"The frozen part of {model.label} was never trained:"
                f" {count(len(frozen), 'tensor')} ({sum(p.numel for p in frozen):,} parameters)"
                " stay as they were drawn at random, and the rest learns on random features."
                " Every norm layer looked at has weight 1 and bias 0.",
                site=next((e.site for e in (load, flag) if e), now.built(index)),
                symbol=names[0],
                notes=_story(load, flag),
                fix="load pretrained weights before freezing"
                + (', such as weights="DEFAULT"' if "torchvision" in model.type else ""),
                severity=None if now.recorded or now.after_backward else Severity.WARNING,
                subject=model.label,
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        if any(_OPTIONS.search(text) for _, text, _ in world.choices):
            return
        told: set[int] = set()
        for optimizer in world.optimizers:
            moment = next(moments(world, optimizer), None)
            if moment is None:
                continue
            for module in filter(_is_untrained, world.modules):
                frozen = _resting(world, module, moment)
                if module.id in told or not frozen:
                    continue
                held = set(members(optimizer, moment.index)) & set(module.root.parameters())
                if not any(p.trains(moment.index) for p in held):
                    continue
                told.add(module.id)
                yield self._random(world, module, frozen, moment)

    def _random(self, world: World, module: Module, frozen: list[Leaf], moment: Moment) -> Finding:
        writes = [event for p in frozen if (event := p.written(moment.index))]
        flag = max(writes, key=lambda event: event.index)
        load = next((e for e in world.of(LOADED, module) if e.data["misses"]), None)
        return self.finding(
            f"{module.shown} was never trained and is frozen: it stays as it was drawn at"
            " random, and the rest learns on random features.",
            site=load.site if load else flag.site,
            symbol=module.path or module.shown,
            notes=[
                Note("built without weights here", module.site),
                *([Note("no name of what is loaded here fits", load.site)] if load else []),
                Note("frozen here", flag.site),
            ],
            fix="load pretrained weights before freezing"
            + (', such as weights="DEFAULT"' if "torchvision" in module.type else ""),
            subject=module.root.shown,
        )

    def _trains_head(self, now: Snapshot, model: int) -> bool:
        last = len(now.models[model].stages) - 1
        return (
            last > 0
            and now.models[model].stages[last].kind == "head"
            and any(p.trainable and p.held for p in now.by_stage[model, last])
        )

    def _frozen_backbone(self, now: Snapshot, model: int) -> list[Param]:
        """The stages before the head that are frozen as a whole, if they are most of it."""
        last = len(now.models[model].stages) - 1
        stages = [now.by_stage[model, stage] for stage in range(last)]
        frozen = [p for ps in stages if not any(p.trainable for p in ps) for p in ps]
        if 2 * sum(p.numel for p in frozen) < sum(p.numel for ps in stages for p in ps):
            return []
        besides = copies(now, model)
        if any(p.name.startswith(besides) for p in frozen):
            return []  # a target network
        if any(p.grad is not None or now.paused & {h.optimizer for h in p.held} for p in frozen):
            return []  # a GAN's other half, frozen for the moment
        flags = [
            n.trainable
            for n in now.norms
            if n.model == model and n.stage != last and n.trainable is not None
        ]
        return frozen if flags and 2 * flags.count(False) >= len(flags) else []


def _is_untrained(module: Module) -> bool:
    """A library's model as its builder draws it at random."""
    libraries = ("torchvision.models.", "timm.")
    outer = module.parent.type if module.parent is not None else ""
    return (
        module.pretrained is False
        and module.type.startswith(libraries)
        and not outer.startswith(libraries)
        and not module.open
        and module.copied is None
        and module.detached is None
    )


def _resting(world: World, module: Module, moment: Moment) -> list[Leaf]:
    """What the builder made of it, if all of that but the head is frozen for good."""
    inside = set(module.walk())
    news = [e.data["new"] for e in world.of(REPLACE) if e.subject in inside]
    head = list(module.children.values())[-1:]
    besides = {m for new in (*news, *head) if isinstance(new, Module) for m in new.walk()}
    body = [p for p in module.parameters() if p.module not in besides]
    frozen = [
        p
        for p in body
        if p.written(moment.index) is not None
        and all(e.value is False for e in p.writes)
        and p.module.pretrained is False
        and not was_handed_on(p, moment)
    ]
    return frozen if len(frozen) == len(body) else []


def _unmatched(now: Snapshot, past: Timeline, model: int) -> Event | None:
    """The last load of the model's weights of which nothing fitted."""
    for event in reversed(list(past.of(LOAD, now.path(model, "")))):
        if event.value == "model" and event.data["given"] == event.data["unexpected"] > 0:
            return event
    return None


def _story(load: Event | None, flag: Event | None) -> Iterator[Note]:
    if load:
        yield Note(f"none of the {load.data['given']} tensors given here was taken", load.site)
    if flag:
        yield Note("frozen here", flag.site)
