from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from freezecheck.finding import Finding, Note, Severity
from freezecheck.phases import Phase
from freezecheck.rule import Rule
from freezecheck.snapshot import Param, Snapshot, count, summarise
from freezecheck.timeline import RESET, Timeline

_RECOMPILES = (2, 10)  # from here on nothing is said


class CompiledGraphIgnoresUnfreeze(Rule):
    """A compiled model is unfrozen, and its graph goes on without gradients for what was frozen.

    ## What it does

    Finds models compiled by `torch.compile` whose parameters are unfrozen after the first step,
    with a torch whose compiled graph does not notice (2.9 and older).

    ## Why it matters

    The graph of the backward pass is made when the model first runs, for the parameters that
    require grad at that moment. Where nothing asks whether that is still so, an unfrozen layer gets
    no gradient: it is in the optimizer, its flag is set, and it never moves. Newer versions
    compile again.

    ## Bad

    ```python needs=torch_before_2_10
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    compiled = torch.compile(model)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-4)

    for epoch in range(4):
        if epoch == 2:
            model.layer4.requires_grad_(True)  # <- FC504
            optimizer.add_param_group({"params": model.layer4.parameters(), "lr": 1e-5})
        loss = F.cross_entropy(compiled(torch.randn(4, 3, 32, 32)), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    compiled = torch.compile(model)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-4)

    for epoch in range(4):
        if epoch == 2:
            model.layer4.requires_grad_(True)
            optimizer.add_param_group({"params": model.layer4.parameters(), "lr": 1e-5})
            torch.compiler.reset()
        loss = F.cross_entropy(compiled(torch.randn(4, 3, 32, 32)), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## How it is found

    In a recorded run: the model is the same compiled one before and after, and parameters that an
    optimizer holds were frozen in all phases before and are trainable now, without a
    `torch.compiler.reset()` since the unfreezing.

    ## Limits

    While a run is inspected compiled models run eagerly, so the missing gradient itself is not
    seen. Models compiled in place (`model.compile()`) are left alone.

    ## References

    - [torch.compile](https://docs.pytorch.org/docs/stable/generated/torch.compile.html)
    - [torch.compiler.reset](https://docs.pytorch.org/docs/stable/generated/torch.compiler.reset.html)
    """

    code = "FC504"
    name = "compiled-graph-ignores-unfreeze"
    severity = Severity.WARNING

    def in_phases(self, phases: Sequence[Phase], past: Timeline) -> Iterator[Finding]:
        trained: dict[str, set[str]] = {}  # by model: what has been trainable
        told: set[str] = set()
        for before, after in pairwise(phases):
            now = after.snapshot
            for label, params in _compiled(before.snapshot).items():
                trained.setdefault(label, set()).update(p.name for p in params if p.trainable)
            for label, params in _compiled(now).items():
                late = [p for p in params if p.trainable and p.held and label in trained]
                late = [p for p in late if p.name not in trained[label]]
                if not late or label in told or _version(now.torch) >= _RECOMPILES:
                    continue
                told.add(label)
                if not any(e.step == after.first - 1 for e in past.of(RESET)):
                    yield self._judge(now, past.until(after.events), label, late, after.first)

    def _judge(
        self, now: Snapshot, past: Timeline, label: str, late: list[Param], step: int
    ) -> Finding:
        names = [now.path(p.model, p.name) for p in late]
        unfrozen = past.written(names, True)
        site = (unfrozen.site if unfrozen else None) or now.built(late[0].model)
        return self.finding(
            f"{label} was compiled while {count(len(late), 'tensor')} of it"
            f" ({summarise(names)}) were frozen. With torch {now.torch} its graph does not notice"
            " that they are trainable now, and gives them no gradient.",
            site=site,
            symbol=names[0],
            notes=[Note("unfrozen here", site)] if unfrozen else (),
            fix="call torch.compiler.reset() after the change, or compile when it is done",
            subject=label,
            step=step,
        )


def _compiled(now: Snapshot) -> dict[str, list[Param]]:
    """The parameters of each model that is compiled, by its label."""
    return {
        model.label: now.of_model(index)
        for index, model in enumerate(now.models)
        if "OptimizedModule" in model.wrappers
    }


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
