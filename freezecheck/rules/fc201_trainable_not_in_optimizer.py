from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Note, Severity, Site
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot, count, summarise
from freezecheck.timeline import FLAG, Timeline


class TrainableNotInOptimizer(Rule):
    """A trainable parameter is in no optimizer, so it never moves.

    ## What it does

    Finds parameters with `requires_grad=True` that none of the optimizers holds.

    ## Why it matters

    An optimizer keeps the list of tensors that it was built with. A layer that is
    unfrozen later, or a head that is put in its place later, gets gradients at every
    backward and is never stepped. Nothing crashes; the layer keeps its first values.

    ## Bad

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

    ## How it is found

    By identity: a parameter is in an optimizer if it is the same object as an entry
    of one of its groups. In a recorded run, only parameters that received a gradient
    count.

    ## Limits

    Without gradients (before the first backward) a backbone that is left out as a
    whole while the head is in the optimizer may be a linear probe under `no_grad`;
    it is then a warning, not an error.

    ## References

    - [torch.optim: constructing an optimizer](https://docs.pytorch.org/docs/stable/optim.html#constructing-it)
    """

    code = "FC201"
    name = "trainable-not-in-optimizer"
    severity = Severity.ERROR

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.optimizers:
            return
        missing = [p for p in now.missing if p.grad is not None or not now.after_backward]
        for index, model in enumerate(now.models):
            mine = [p for p in missing if p.model == index]
            if not mine:
                continue
            names = [now.path(index, p.name) for p in mine]
            yield self.finding(
                f"{count(len(mine), 'trainable tensor')} ({sum(p.numel for p in mine):,} parameters)"
                f" of {model.label} in no optimizer: {summarise(names)}."
                " They get gradients and never move.",
                site=self._site(now),
                symbol=names[0],
                notes=self._story(now, past, names),
                fix="build the optimizer after everything is unfrozen and in its place,"
                " or add them with add_param_group()",
                severity=self._severity(now, index),
                subject=model.label,
            )

    def _severity(self, now: Snapshot, model: int) -> Severity:
        """A whole backbone outside, before any gradient, may be a linear probe under no_grad."""
        if now.after_backward:
            return Severity.ERROR
        last = len(now.models[model].stages) - 1
        held = {p.stage for p in now.trainable if p.model == model and p.held}
        return Severity.WARNING if held == {last} else Severity.ERROR

    def _site(self, now: Snapshot) -> Site | None:
        return next((o.site for o in now.optimizers if o.site and not o.idle), None)

    def _story(
        self, now: Snapshot, past: Timeline, names: list[str]
    ) -> Iterator[Note]:
        for optimizer in now.optimizers:
            if optimizer.site:
                yield Note("the optimizer took its parameters here", optimizer.site)
        chosen = set(names)
        for event in past.of(FLAG):
            if event.value and chosen & set(event.names):
                yield Note(f"{summarise(list(event.names))} unfrozen here", event.site)
