from __future__ import annotations

from collections.abc import Iterator

from freezecheck import modes
from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import ATTRIBUTE, FORWARD, LOAD, Event, Module, World
from freezecheck.rule import Rule
from freezecheck.snapshot import count
from freezecheck.timeline import AVERAGE, STEP, Timeline

_WRITES = frozenset(("data", "copy_()", "mul_()", "add_()", "sub_()", "lerp_()"))


class EmaWithoutBuffers(Rule):
    """An average of weights copies the parameters, and leaves BatchNorm's statistics behind.

    ## What it does

    Finds copies of a model whose parameters follow those of the model in training, whose
    buffers do not, and that are evaluated.

    ## Why it matters

    `parameters()` gives no buffers. The running mean and variance of the copy stay as they were
    when it was made, while its weights move away from what they were measured on. The
    average then looks far worse than the model, more so the longer the training goes on.

    ## Bad

    ```python source
    import copy, torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    ema = copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)

    for epoch in range(10):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            with torch.no_grad():
                for mean, p in zip(ema.parameters(), model.parameters()):
                    mean.mul_(0.999).add_(p, alpha=0.001)  # <- FC411
        with torch.no_grad():
            for images, labels in val_loader:
                print((ema(images).argmax(1) == labels).float().mean())
    ```

    ## Good

    ```python
    import copy, torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    ema = copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4))
    train_loader = val_loader = torch.utils.data.DataLoader(data, batch_size=4)

    for epoch in range(2):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            with torch.no_grad():
                for mean, p in zip(ema.parameters(), model.parameters()):
                    mean.mul_(0.999).add_(p, alpha=0.001)
                for mean, b in zip(ema.buffers(), model.buffers()):
                    mean.copy_(b)
        with torch.no_grad():
            for images, labels in val_loader:
                print((ema(images).argmax(1) == labels).float().mean())
    ```

    `torch.optim.swa_utils.AveragedModel` copies the buffers at every update, with
    `use_buffers=False` too:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    ema = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4))
    train_loader = val_loader = torch.utils.data.DataLoader(data, batch_size=4)

    for epoch in range(2):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            ema.update_parameters(model)
        ema.eval()
        with torch.no_grad():
            for images, labels in val_loader:
                print((ema(images).argmax(1) == labels).float().mean())
    ```

    ## How it is found

    In a recorded run: a model that is in no optimizer and is built like one that is trained is
    evaluated several times. In between its parameters have moved and the model's running
    means too, its own not at all. The place is that of the evaluation.

    From the text: a `deepcopy` of a model in training that has BatchNorm, whose parameters are
    written to after a step of the model's optimizer, and that is then called in eval mode.
    Nothing asks for its buffers or loads a state into it.

    ## Limits

    An average that is kept as a dictionary of tensors and put into the model itself for the
    evaluation is not followed. A copy that runs in train mode measures its own statistics, and is
    left alone. A run looks at a copy again at its second evaluation, the fourth, the eighth and so
    on, which are not in the same step.

    ## References

    - [torch.optim.swa_utils.AveragedModel](https://docs.pytorch.org/docs/stable/generated/torch.optim.swa_utils.AveragedModel.html)
    """

    code = "FC411"
    name = "ema-without-buffers"
    severity = Severity.WARNING

    def in_timeline(self, timeline: Timeline) -> Iterator[Finding]:
        for event in timeline.of(AVERAGE):
            model, trained = event.data["model"], timeline.last(STEP)
            yield self.finding(
                f"{event.value or f'A copy of {model}'} follows the parameters of {model}, and not"
                f" its buffers: the running mean and variance of"
                f" {count(event.data['layers'], 'BatchNorm layer')} stay as they were when it was"
                " copied, and its evaluation uses them.",
                site=event.site,
                symbol=event.value,
                notes=[Note(f"{model} is trained here", trained.site)] if trained else (),
                fix=_FIX,
                subject=event.value or model,
                step=event.step,
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        copies = [m for m in world.roots if m.copied is not None and not m.escaped]
        every = modes.trainings(world) if copies else ()
        told = set()
        for ema in copies:
            norms = list(modes.batchnorms(ema))
            learnt = next((t for t in every if _made_of(ema, t.root)), None)
            write = _followed(world, ema, learnt.step) if learnt and norms else None
            use = _evaluated(world, ema, norms[0], write) if write else None
            if learnt is None or write is None or use is None or write.site in told:
                continue
            told.add(write.site)
            label = modes.said(ema)
            yield self.finding(
                f"{label} follows the parameters of {modes.said(learnt.root)}, and not its"
                f" buffers: the running mean and variance of {modes.layers(norms)} stay as they"
                " were when it was copied, and its evaluation uses them.",
                site=write.site,
                symbol=label,
                notes=[
                    Note("copied here", ema.site),
                    Note("evaluated here", use.site),
                ],
                fix=_FIX,
                subject=label,
            )


_FIX = "copy the buffers as well, or use torch.optim.swa_utils.AveragedModel"


def _made_of(ema: Module, root: Module) -> bool:
    source = ema.copied
    return source is not None and source.root is root and ema is not root


def _followed(world: World, ema: Module, step: Event) -> Event | None:
    """The first write to its parameters after a step, if nothing sees to its buffers."""
    params = set(ema.parameters())
    write = None
    for event in world.events:
        name = event.data.get("attribute") if event.kind == ATTRIBUTE else None
        if event.kind == LOAD and event.subject is ema:
            return None
        if name == "buffers()" and event.subject is ema:
            return None
        after = event.index > step.index and write is None
        if after and name in _WRITES and params.intersection(event.params):
            write = event
    return write


def _evaluated(world: World, ema: Module, norm: Module, write: Event) -> Event | None:
    """It is called in eval mode after that, and never in train mode."""
    calls = [event for event in world.of(FORWARD) if event.subject is ema]
    if any(norm.learns(event.index) is not False for event in calls):
        return None
    return next((event for event in calls if event.index > write.index), None)
