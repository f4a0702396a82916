from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.held import ids
from freezecheck.program import ATTRIBUTE, Event, Module, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot, Unregistered, count
from freezecheck.timeline import Timeline


class UnregisteredSubmodule(Rule):
    """Sub-modules in a plain list or dict are no part of the model.

    ## What it does

    Finds `nn.Module`s that a module keeps in a Python list, tuple or dict, and
    parameters that stopped being parameters (`nn.Parameter(...).cuda()`).

    ## Why it matters

    PyTorch registers modules and parameters that are *attributes*. It does not look
    into lists. What it does not see is not in `model.parameters()`, so it is neither
    frozen nor given to the optimizer, nor moved by `.to(device)`, nor saved with the
    `state_dict`. Its first, random values stay.

    ## Bad

    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(8, 8)
            self.blocks = [nn.Linear(8, 8) for _ in range(3)]  # <- FC112
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = block(x).relu()
            return self.head(x)

    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0]))
    loss.backward()
    optimizer.step()
    ```

    `.cuda()` and `.to()` of a parameter give a plain tensor:

    ```python
    import torch
    from torch import nn

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 2)
            self.scale = nn.Parameter(torch.ones(2)).to(torch.float64)  # <- FC112

        def forward(self, x):
            return self.linear(x) * self.scale

    model = Scale()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(8, 8)
            self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = block(x).relu()
            return self.head(x)

    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0]))
    loss.backward()
    optimizer.step()
    ```

    A teacher is often put into a list on purpose, so that it is *not* registered:

    ```python
    import torch
    from torch import nn

    class Student(nn.Module):
        def __init__(self, teacher):
            super().__init__()
            self.net = nn.Linear(8, 2)
            self.teacher = [teacher]

        def loss(self, x):
            with torch.no_grad():
                target = self.teacher[0](x)
            return nn.functional.mse_loss(self.net(x), target)

    model = Student(nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.loss(torch.randn(4, 8)).backward()
    optimizer.step()
    ```

    ## How it is found

    The attributes of every module are looked through for containers of modules that
    are registered nowhere in the model. In a run, or after a backward, they count if
    one of their parameters has received a gradient.

    In a text, from attributes of the file's own modules: a list or dict of several layers
    that were made there, are trainable, get into no module and into no optimizer; and a
    parameter that was moved or converted before it was set.

    ## Limits

    Before the first backward a list with a single module is taken for a hidden
    teacher. Modules inside other objects (a dataclass, a custom container) are not
    seen.

    ## References

    - [torch.nn.ModuleList](https://docs.pytorch.org/docs/stable/generated/torch.nn.ModuleList.html)
    """

    code = "FC112"
    name = "unregistered-submodule"
    severity = Severity.ERROR

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for hidden in now.unregistered:
            if not hidden.trainable or not _matters(now, hidden):
                continue
            owner = now.path(hidden.model, hidden.owner) or now.models[hidden.model].label
            symbol = f"{owner}.{hidden.attribute}"
            yield self.finding(
                f"{symbol} {_what(hidden)}: {hidden.numel:,} parameters that PyTorch does not see."
                " They are not in parameters() or the state_dict, so nothing freezes, trains,"
                " moves or saves them.",
                site=hidden.site,
                symbol=symbol,
                fix=_remedy(hidden.how),
                severity=Severity.WARNING if hidden.held else Severity.ERROR,
                subject=now.models[hidden.model].label,
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        held = ids(world.optimizers)
        for event in world.of(ATTRIBUTE):
            owner = event.subject
            if event.site in told or not isinstance(owner, Module) or owner.cls is None:
                continue
            how = _hidden_in_text(event, held)
            if not how:
                continue
            told.add(event.site)
            outer = owner.shown if owner.parent is not None else owner.builder
            symbol = f"{outer}.{event.data['attribute']}"
            what = "is computed from an nn.Parameter and is itself a plain tensor"
            yield self.finding(
                f"{symbol} {what if how == 'non-leaf' else f'is a plain {how} of modules'}:"
                " PyTorch does not see its parameters. They are not in parameters() or the"
                " state_dict, so nothing freezes, trains, moves or saves them.",
                site=event.site,
                symbol=symbol,
                fix=_remedy(how),
                subject=owner.root.shown,
            )


def _hidden_in_text(event: Event, held: set[int]) -> str:
    """How an attribute hides parameters; "" if it does not, as far as can be told."""
    if getattr(event.value, "copy", "") == "parameter":
        return "non-leaf"
    layers = _layers(event)
    if not layers or any(p.id in held for layer in layers for p in layer.parameters()):
        return ""
    return "list" if isinstance(event.value.items, list) else "dict"


def _layers(event: Event) -> list[Module]:
    """The layers in a container that is set as an attribute, if nothing else has them."""
    owner, items = event.subject, getattr(event.value, "items", None)
    if not isinstance(items, (list, dict)) or owner.cls.find("parameters") is not None:
        return []
    found = list(items.values()) if isinstance(items, dict) else list(items)
    if any(not isinstance(each, Module) for each in found) or owner.escaped:
        return []
    several = len(found) > 1 or (bool(found) and event.value.open)
    hidden = all(m.parent is None and m.pretrained is False and not m.escaped for m in found)
    trains = any(p.trains() for m in found for p in m.parameters())
    kept = owner.attributes.get(event.data["attribute"]) is event.value
    return found if several and hidden and trains and kept else []


def _matters(now: Snapshot, hidden: Unregistered) -> bool:
    """They are meant to train, as far as can be told."""
    if hidden.how == "non-leaf" or hidden.grad:
        return True
    return not now.after_backward and hidden.modules > 1


def _what(hidden: Unregistered) -> str:
    if hidden.how == "non-leaf":
        return "is computed from an nn.Parameter and is itself a plain tensor"
    return f"is a plain {hidden.how} with {count(hidden.modules, 'module')}"


def _remedy(how: str) -> str:
    if how == "non-leaf":
        return "make the tensor first and wrap it last: nn.Parameter(tensor.to(...))"
    return f"use nn.Module{'Dict' if how == 'dict' else 'List'}"
