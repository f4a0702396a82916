from __future__ import annotations

from collections.abc import Iterator

from freezecheck import modes
from freezecheck.finding import Finding, Note, Severity
from freezecheck.modes import Training
from freezecheck.program import FORWARD, NORMS, Event, Module, World
from freezecheck.rule import Rule


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

    ```python source
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)

    model.train()
    for epoch in range(10):
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

    ```python source
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)

    for epoch in range(10):
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

    ```python source
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT").eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)

    for epoch in range(10):
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

    ```python source
    import torch, torchvision
    from torch.nn import functional as F

    teacher = torchvision.models.resnet50(weights="DEFAULT")
    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)

    for epoch in range(10):
        model.train()
        for images in train_loader:
            teacher.eval()
            with torch.no_grad():
                wanted = teacher(images).softmax(1)
            optimizer.zero_grad()
            F.cross_entropy(model(images), wanted).backward()
            optimizer.step()
    ```

    ## How it is found

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
                        f"{label} is put in eval mode for validation and stays there: the next"
                        " pass of the loop trains it without dropout, and with BatchNorm"
                        " statistics that no longer move.",
                        site=put.site,
                        symbol=label,
                        notes=[
                            Note("trained here, in train mode at first", later.forward.site),
                            Note("its weights are changed here", later.step.site),
                        ],
                        fix=f"call {label}.train() at the start of every epoch",
                        subject=label,
                    )


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
