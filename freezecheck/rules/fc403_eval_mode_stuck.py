from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from freezecheck import frozen, modes
from freezecheck.finding import Finding, Note, Severity
from freezecheck.modes import Training
from freezecheck.phases import Phase
from freezecheck.program import FORWARD, NORMS, Event, Module, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Dropout, Model, Norm
from freezecheck.timeline import DARK, MODE, STEP, Timeline
from freezecheck.timeline import Event as Heard


class EvalModeStuck(Rule):
    """Validation switches the model to eval mode, and the next epoch trains in it.

    ## What it does

    Finds loops in which `eval()` is called for a validation and nothing calls `train()` before
    the next training forward.

    ## Why it matters

    The first epoch trains as it was meant to, all later ones with dropout off and with
    BatchNorm on running statistics that never move again. The loss even looks better,
    since nothing is dropped, and the network overfits.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4))
    train_loader = val_loader = torch.utils.data.DataLoader(data, batch_size=4)

    model.train()
    for epoch in range(2):
        for images, labels in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        model.eval()  # <- FC403
        with torch.no_grad():
            for images, labels in val_loader:
                print((model(images).argmax(1) == labels).float().mean())
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

    Training in eval mode on purpose, from the start:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4))
    train_loader = val_loader = torch.utils.data.DataLoader(data, batch_size=4)

    for epoch in range(2):
        for images, labels in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for images, labels in val_loader:
                print((model(images).argmax(1) == labels).float().mean())
    ```

    A teacher is in eval mode for good, whether it is put there once or in the loop:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    teacher = torchvision.models.resnet18(weights="DEFAULT")
    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4))
    train_loader = val_loader = torch.utils.data.DataLoader(data, batch_size=4)

    for epoch in range(2):
        model.train()
        for images, _ in train_loader:
            teacher.eval()
            with torch.no_grad():
                wanted = teacher(images).softmax(1)
            optimizer.zero_grad()
            F.cross_entropy(model(images), wanted).backward()
            optimizer.step()
    ```

    ## How it is found

    In a recorded run, where two phases follow each other: BatchNorm or dropout layers trained
    in train mode and then in eval mode. In between, the model was put in eval mode as a
    whole and run without gradients, and no mode was set after that.

    From the text, which is gone through for two passes of each loop: a BatchNorm or dropout
    layer was in train mode in a training forward, and in eval mode in the same forward in a later
    pass. In between, the model was put in eval mode as a whole, and run on something that
    it was not trained on.

    ## Limits

    A validation in a function that is imported from elsewhere may call `train()` at its end;
    nothing is said then.

    ## References

    - [torch.nn.Module.eval](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.eval)
    """

    code = "FC403"
    name = "eval-mode-stuck"
    severity = Severity.ERROR
    explains = ("FC404",)

    def in_phases(self, phases: Sequence[Phase], past: Timeline) -> Iterator[Finding]:
        told: set[str] = set()
        for before, after in pairwise(phases):
            for label, paths in _went_quiet(before, after).items():
                found = _left_in_eval(past, after.first, label, paths)
                if found is None or label in told:
                    continue
                told.add(label)
                put, ran = found
                step = past.last(STEP)
                yield self.finding(
                    _TEXT.format(label),
                    site=put.site,
                    symbol=label,
                    notes=[
                        Note("validated here", ran.site),
                        *([Note("its weights are changed here", step.site)] if step else []),
                    ],
                    fix=_FIX.format(label),
                    subject=label,
                    step=after.first,
                )

    def in_source(self, world: World) -> Iterator[Finding]:
        every = modes.trainings(world)
        told = set()
        for earlier in every:
            for later in every:
                if (
                    later.forward.site == earlier.forward.site
                    and later.module is earlier.module
                    and modes.later_pass(earlier.forward, later.forward)
                ):
                    put = _stuck(earlier, later)
                    if put is None or put.site in told or not _validates(world, put, later, every):
                        continue
                    told.add(put.site)
                    label = modes.said(later.root)
                    yield self.finding(
                        _TEXT.format(label),
                        site=put.site,
                        symbol=label,
                        notes=[
                            Note("trained here, in train mode at first", later.forward.site),
                            Note("its weights are changed here", later.step.site),
                        ],
                        fix=_FIX.format(label),
                        subject=label,
                    )


_TEXT = (
    "{} is put in eval mode for validation and stays there: the next pass of the loop trains it"
    " without dropout, and with BatchNorm statistics that no longer move."
)
_FIX = "call {}.train() at the start of every epoch"


def _went_quiet(before: Phase, after: Phase) -> dict[str, set[str]]:
    """Paths of layers that trained in train mode and now train in eval mode, by their model."""
    found: dict[str, set[str]] = {}
    then = {(m.label, layer.path) for m, layer in _modal(before) if layer.training}
    for model, layer in _modal(after):
        if not layer.training and (model.label, layer.path) in then:
            now = after.snapshot
            found.setdefault(model.label, set()).add(now.path(layer.model, layer.path))
    return found


def _modal(phase: Phase) -> Iterator[tuple[Model, Norm | Dropout]]:
    now = phase.snapshot
    for index, model in enumerate(now.models):
        for layer in frozen.modal(now, index):
            yield model, layer


def _left_in_eval(
    past: Timeline, step: int, label: str, paths: set[str]
) -> tuple[Heard, Heard] | None:
    """The eval() of a whole model since the step before, and the forward without gradients that
    it was meant for, if nothing set a mode of these layers after it."""
    put = ran = None
    for event in past.events:
        if event.step != step - 1:
            continue
        covers = event.kind == MODE and any(_is_around(event, path) for path in paths)
        if covers and (event.value or event.subject not in ("", label)):
            put = ran = None
        elif covers and not (put and ran and put.site == event.site):
            put, ran = event, None
        elif event.kind == DARK and put and not paths.isdisjoint(event.names):
            ran = event
    return (put, ran) if put and ran else None


def _is_around(event: Heard, path: str) -> bool:
    return event.subject in ("", path) or path.startswith(f"{event.subject}.")


def _stuck(earlier: Training, later: Training) -> Event | None:
    """The eval() of the whole model that the later forward is still in, and the earlier was not."""
    for layer in earlier.module.walk():
        if layer.escaped or not (layer.norm == "batch" or layer.stochastic or layer.batchnorm):
            continue
        before, now = earlier.reached(layer), later.reached(layer)
        if before is None or now is None or layer.name == NORMS:
            continue
        put = layer.moded(now.index)
        if (
            layer.learns(before.index) is True
            and put is not None
            and put.value is False
            and put.index > earlier.backward.index
            and _is_whole(put.subject, later.module)
        ):
            return put
    return None


def _is_whole(subject: Module, module: Module) -> bool:
    """It is the module, something around it, or what it wraps."""
    while module.wrapper and len(module.children) == 1:
        (module,) = module.children.values()
    return module.is_below(subject)


def _validates(world: World, put: Event, later: Training, every: tuple[Training, ...]) -> bool:
    """The model is run in between, and not trained on what comes out."""
    trained = {t.forward for t in every}
    return any(
        put.index < event.index < later.forward.index
        and event.subject is later.module
        and event not in trained
        for event in world.of(FORWARD)
    )
