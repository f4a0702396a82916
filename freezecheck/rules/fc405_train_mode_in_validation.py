from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from freezecheck import modes
from freezecheck.finding import Finding, Note, Severity
from freezecheck.modes import Training
from freezecheck.program import FORWARD, Event, Module, World
from freezecheck.rule import Rule
from freezecheck.snapshot import count, summarise
from freezecheck.timeline import DARK, STEP, Timeline
from freezecheck.timeline import Event as Heard

_VALIDATION = frozenset(
    "val valid validate validation valloader valset validloader dev test testing testloader testset"
    " eval evaluate evaluation evalloader".split()
)
# What train mode may be meant for in a forward without gradients.
_OTHER = frozenset(
    "train training trainset trainloader bn batchnorm calibrate calibration recalibrate precise swa"
    " update adapt adaptation tta mc dropout uncertainty bayesian stats statistics".split()
)
_WORD = re.compile(r"[A-Za-z][a-z]*|[A-Z]+")


class TrainModeInValidation(Rule):
    """The model is validated in train mode, and its BatchNorm statistics take the data in.

    ## What it does

    Finds forwards on validation data, without gradients, of a model that was trained before
    and is still in train mode.

    ## Why it matters

    `torch.no_grad()` does not change the mode. In train mode BatchNorm normalises each
    validation batch with its own statistics and moves the running ones towards it: the
    score is not that of the model that will be used, and the validation data leak into the
    model. Dropout is active as well.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
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
            for images, labels in val_loader:
                print((model(images).argmax(1) == labels).float().mean())  # <- FC405
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4))
    train_loader = val_loader = torch.utils.data.DataLoader(data, batch_size=4)

    for epoch in range(2):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for images, labels in val_loader:
                print((model(images).argmax(1) == labels).float().mean())
    ```

    Train mode on purpose: detectors give their losses in it alone, and statistics may be
    computed anew on the training data.

    ```python source
    import torch, torchvision

    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_fpn(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)

    for epoch in range(2):
        model.train()
        for images, targets in train_loader:
            losses = model(images, targets)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
        model.train()
        with torch.no_grad():
            for images, targets in val_loader:
                print(model(images, targets))
    ```

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
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
            for images, labels in train_loader:
                model(images)
    ```

    ## How it is found

    In a recorded run: BatchNorm layers of the model run in train mode without gradients, after a
    training step, under functions or in loops whose names speak of validation or test. From
    the text: a forward under `no_grad` in a loop or a function whose name speaks of
    validation or test, after a training step of the same model, whose BatchNorm layers
    are known to be there and in train mode. Where a mode was set after that step, whichever it
    was, it is taken to be meant.

    ## Limits

    Models without BatchNorm are left alone, though their dropout is active too. Nothing is said
    about models whose parts are not known, nor about loops whose names say nothing.

    ## References

    - [PyTorch: autograd mechanics, evaluation mode](https://docs.pytorch.org/docs/stable/notes/autograd.html#evaluation-mode-nn-module-eval)
    """

    code = "FC405"
    name = "train-mode-in-validation"
    severity = Severity.WARNING

    def in_timeline(self, timeline: Timeline) -> Iterator[Finding]:
        told = set()
        for event in timeline.of(DARK):
            trained = timeline.last(STEP)
            if not event.value or event.site in told or trained is None:
                continue
            if not event.names or not _is_validation(event.data["said"]):
                continue
            mode = _mode(timeline, event)
            if mode is not None and mode.step == event.step:
                continue  # set since the last step, so it is meant
            told.add(event.site)
            label = event.data["model"]
            yield self.finding(
                f"{label} is still in train mode on validation data:"
                f" {count(len(event.names), 'BatchNorm layer')} ({summarise(list(event.names))})"
                " normalise with each batch's own statistics and move their running mean and"
                " variance towards it.",
                site=event.site,
                symbol=label,
                notes=[
                    *([Note("put in train mode here", mode.site)] if mode else []),
                    Note("trained here", trained.site),
                ],
                fix=_FIX.format(label=label),
                subject=label,
                step=event.step,
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        every = modes.trainings(world)
        trained = {t.forward for t in every}
        told = set()
        for event in world.of(FORWARD) if every else ():
            if event.grad or event in trained or event.site in told:
                continue
            before = _last(every, event)
            # A function that nothing calls is a test of the code, whatever its name says.
            said = [name for name in event.data.get("said", ()) if name != world.entry]
            if before is None or not _is_validation(said):
                continue
            norms = [
                norm for norm in modes.batchnorms(event.subject) if _learns(norm, event, before)
            ]
            if not norms:
                continue
            told.add(event.site)
            label = modes.said(before.root)
            train = norms[0].moded(event.index)
            yield self.finding(
                f"{label} is still in train mode on validation data: {modes.layers(norms)}"
                " normalise with each batch's own statistics and move their running mean and"
                " variance towards it.",
                site=event.site,
                symbol=label,
                notes=[
                    *([Note("put in train mode here", train.site)] if train else []),
                    Note("trained here", before.forward.site),
                ],
                fix=_FIX.format(label=label),
                subject=label,
            )


_FIX = "call {label}.eval() before the validation, and {label}.train() after it"


def _last(every: tuple[Training, ...], event: Event) -> Training | None:
    """The last training of the same model before a forward."""
    root = event.subject.root
    return next((t for t in reversed(every) if t.root is root and t.step.index < event.index), None)


def _mode(timeline: Timeline, dark: Heard) -> Heard | None:
    """The train() that one of the layers was in when they ran."""
    before = timeline.until(timeline.order(dark))
    return next(iter(reversed(list(before.modes(dark.names[0])))), None)


def _is_validation(said: Iterable[str]) -> bool:
    """The functions and loops around it speak of validation, and of nothing else."""
    every = [{word.lower() for word in _WORD.findall(name)} for name in said]
    return any(words & _VALIDATION and not words & _OTHER for words in every) and not any(
        words & (_OTHER - {"train", "training"}) for words in every
    )


def _learns(norm: Module, event: Event, before: Training) -> bool:
    mode = norm.moded(event.index)
    return norm.learns(event.index) is True and (mode is None or mode.index < before.forward.index)
