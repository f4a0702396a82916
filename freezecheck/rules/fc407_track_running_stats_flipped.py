from __future__ import annotations

from collections.abc import Iterator

from freezecheck import modes
from freezecheck.finding import Finding, Note, Severity
from freezecheck.frozen import layers
from freezecheck.modes import Training
from freezecheck.program import ATTRIBUTE, NORMS, Module, World
from freezecheck.program import Event as Did
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot
from freezecheck.timeline import Timeline


class TrackRunningStatsFlipped(Rule):
    """`track_running_stats` was set to False on a layer that has running statistics.

    ## What it does

    Finds norm layers in train mode whose `track_running_stats` is False while their running
    mean and variance exist.

    ## Why it matters

    Only the constructor's argument leaves the statistics out. Set later, the attribute stops
    their update and nothing else: in train mode the layer normalises with each batch, in
    eval mode with the old statistics that no longer follow the weights. The accuracy in
    training says little about the one in evaluation.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.track_running_stats = False  # <- FC407
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    model.train()
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    Test-time adaptation drops the statistics altogether, so that eval mode uses the batch
    as well:

    ```python
    import torch, torchvision

    model = torchvision.models.resnet18(weights="DEFAULT").train().requires_grad_(False)
    params = []
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.track_running_stats = False
            m.running_mean = None
            m.running_var = None
            m.requires_grad_(True)
            params += [m.weight, m.bias]
    optimizer = torch.optim.Adam(params, lr=1e-3)

    probs = model(torch.randn(4, 3, 32, 32)).softmax(1)
    entropy = -(probs * probs.log()).sum(1).mean()
    entropy.backward()
    optimizer.step()
    ```

    ## How it is found

    From the layers as they are at the step: a switch that is off for one forward only
    (virtual adversarial training) is on again by then.

    From the text: the attribute is False at the step of an optimizer, the layer in train mode, and
    `running_mean` untouched.

    ## Limits

    Layers in eval mode are left alone, since they use the same statistics in training as in
    evaluation. So are those whose statistics were taken away altogether.

    ## References

    - [torch.nn.BatchNorm2d, `track_running_stats`](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html)
    - [pytorch/pytorch#37823: unexpected behaviour with track_running_stats](https://github.com/pytorch/pytorch/issues/37823)
    """

    code = "FC407"
    name = "track-running-stats-flipped"
    severity = Severity.WARNING

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        flipped = [n for n in now.norms if n.has_stats and not n.tracking and n.training]
        for index, model in enumerate(now.models):
            mine = [n for n in flipped if n.model == index]
            if not mine:
                continue
            path = now.path(index, mine[0].path)
            event = past.assigned(path, "track_running_stats")
            # A library may have set it: Lightning does where it freezes, on the user's line.
            flags = past.flags(f"{path}.weight") if event is None else [event]
            yield self.finding(
                f"track_running_stats is False, though running statistics exist:"
                f" {layers(now, mine)}. Train mode normalises with each batch, eval mode with"
                " statistics that are never updated.",
                site=flags[-1].site if flags else now.built(index),
                symbol=path,
                fix="to freeze the layers, put them in eval mode; to do without statistics, set"
                " running_mean and running_var to None as well",
                subject=model.label,
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        writes = [
            e
            for e in world.of(ATTRIBUTE)
            if e.data.get("attribute") in ("track_running_stats", "running_mean")
            and isinstance(e.subject, Module)
            and e.subject.norm == "batch"
            and e.subject.name != NORMS
        ]
        if not any(e.value is False for e in writes):
            return
        found: dict[int, list[tuple[Did, Training]]] = {}
        for training in modes.trainings(world):
            for norm in training.module.walk():
                event = _flipped(norm, writes, training.step.index)
                if event is not None and norm.learns(training.forward.index) is True:
                    found.setdefault(training.root.id, []).append((event, training))
        for pairs in found.values():
            first, training = pairs[0]
            norms = list({event.subject.id: event.subject for event, _ in pairs}.values())
            label = modes.said(training.root)
            yield self.finding(
                f"track_running_stats is False, though running statistics exist:"
                f" {modes.layers(norms)}. Train mode normalises with each batch, eval mode with"
                " statistics that are never updated.",
                site=first.site,
                symbol=f"{label}.{modes.paths(norms)[0]}",
                notes=[Note("the training forward runs here", training.forward.site)],
                fix="to freeze the layers, put them in eval mode; to do without statistics, set"
                " running_mean and running_var to None as well",
                subject=label,
            )


def _flipped(norm: Module, writes: list[Did], index: int) -> Did | None:
    """The line that set it to False, if it still is at the step and the statistics exist."""
    mine = [e for e in writes if e.subject is norm and e.index < index]
    if norm.escaped or any(e.data["attribute"] == "running_mean" for e in mine):
        return None
    if not mine or norm.options.get("track_running_stats") is False:
        return None
    return mine[-1] if mine[-1].value is False else None
