from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.program import ATTRIBUTE, FORWARD, REPLACE, Event, Module, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Model as Record
from freezecheck.snapshot import Param, Snapshot, count
from freezecheck.timeline import Timeline

# What the `forward` of each classifier of torchvision calls last.
_HEADS = {
    "torchvision.models.alexnet.AlexNet": "classifier",
    "torchvision.models.convnext.ConvNeXt": "classifier",
    "torchvision.models.densenet.DenseNet": "classifier",
    "torchvision.models.efficientnet.EfficientNet": "classifier",
    "torchvision.models.googlenet.GoogLeNet": "fc",
    "torchvision.models.inception.Inception3": "fc",
    "torchvision.models.maxvit.MaxVit": "classifier",
    "torchvision.models.mnasnet.MNASNet": "classifier",
    "torchvision.models.mobilenetv2.MobileNetV2": "classifier",
    "torchvision.models.mobilenetv3.MobileNetV3": "classifier",
    "torchvision.models.regnet.RegNet": "fc",
    "torchvision.models.resnet.ResNet": "fc",
    "torchvision.models.shufflenetv2.ShuffleNetV2": "fc",
    "torchvision.models.squeezenet.SqueezeNet": "classifier",
    "torchvision.models.swin_transformer.SwinTransformer": "head",
    "torchvision.models.vgg.VGG": "classifier",
    "torchvision.models.video.mvit.MViT": "head",
    "torchvision.models.video.resnet.VideoResNet": "fc",
    "torchvision.models.video.s3d.S3D": "classifier",
    "torchvision.models.video.swin_transformer.SwinTransformer3d": "head",
    "torchvision.models.vision_transformer.VisionTransformer": "heads",
}
_NAMES = ("classifier", "fc", "head", "heads", "last_linear")
_LIBRARIES = ("torchvision", "timm", "transformers")


class HeadAttributeUnused(Rule):
    """A new head was set under a name that this architecture never calls.

    ## What it does

    Finds a child called `fc`, `classifier`, `head`, `heads` or `last_linear` on a model of a
    library whose `forward` uses another name for its head.

    ## Why it matters

    `model.fc = nn.Linear(...)` is right for a ResNet. VGG, DenseNet, MobileNet and EfficientNet
    have a `classifier`, the vision transformer `heads`: there the assignment adds a child that
    nobody calls. The output keeps its 1000 classes, the loss accepts labels from 0 to 4 all
    the same, and the new layer never gets a gradient.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.squeezenet1_1(weights="DEFAULT")
    model.fc = torch.nn.Linear(512, 5)  # <- FC121
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    model.train()
    loss = F.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.squeezenet1_1(weights="DEFAULT")
    model.classifier[1] = torch.nn.Conv2d(512, 5, kernel_size=1)
    new = list(model.classifier.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": model.features.parameters(), "lr": 1e-5}, {"params": new, "lr": 1e-3}]
    )

    model.train()
    loss = F.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    The model as a container, whose new child the user's own code calls:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.squeezenet1_1(weights="DEFAULT")
    model.features.requires_grad_(False)
    model.fc = torch.nn.Linear(512, 5)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)

    model.train()
    features = model.features(torch.randn(4, 3, 64, 64)).mean((2, 3))
    loss = F.cross_entropy(model.fc(features), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    From a table of torchvision's classifiers and the names of their heads. In a recorded
    run, also for timm and transformers: the child that was set last got no gradient, while
    another head did.

    Once there are gradients, a child that received some is used, whatever its name. Before,
    it is a warning.

    In a text: a new child of a model of torchvision or timm whose parts are known, under a
    name for a head that it does not have, while it has another; and nothing in the text
    calls it or replaces `forward`.

    ## Limits

    Only the outermost model is looked at; in a recorded run a head inside a module of one's
    own is reported as FC114. A subclass of an architecture may call what it likes.

    ## References

    - [PyTorch tutorial: finetuning torchvision models](https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html)
    - [torchvision: models and pretrained weights](https://docs.pytorch.org/vision/stable/models.html)
    """

    code = "FC121"
    name = "head-attribute-unused"
    severity = Severity.ERROR
    explains = ("FC114", "FC301")

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for index, model in enumerate(now.models):
            real = _HEADS.get(model.type)
            if real is None and now.recorded and model.type.partition(".")[0] in _LIBRARIES:
                real = self._other_head(now, index, model)
            if real is None:
                continue
            for name in model.children:
                if name in _NAMES and name != real and self._unused(now, index, name):
                    yield self._finding(now, past, index, name, real)

    def _other_head(self, now: Snapshot, index: int, model: Record) -> str | None:
        """The head that got the gradient, where the child that was set last is called one too."""
        if not model.children or model.children[-1] not in _NAMES:
            return None
        for name in model.children[:-1]:
            if name in _NAMES and any(p.grad is not None for p in _below(now, index, name)):
                return name
        return None

    def _unused(self, now: Snapshot, index: int, name: str) -> bool:
        params = _below(now, index, name)
        return any(p.trainable for p in params) and all(p.grad is None for p in params)

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for event in world.of(REPLACE):
            model, name = event.subject, event.data["name"]
            if event.site in told or not _is_added_head(event) or _is_used(world, event):
                continue
            real = next((n for n in reversed(model.children) if n in _NAMES and n != name), None)
            if real is None:
                continue
            told.add(event.site)
            yield self.finding(
                f"{model.shown}.{name} is never called: the head of {model.builder} is"
                f" {model.shown}.{real}.",
                site=event.site,
                symbol=f"{model.path}.{name}" if model.path else name,
                fix=f"set the new layer as {model.shown}.{real}, or as the last part of it",
                subject=(model.root.shown, *(o.shown for o in world.optimizers)),
            )

    def _finding(self, now: Snapshot, past: Timeline, index: int, name: str, real: str) -> Finding:
        model = now.models[index]
        event = past.assigned(now.path(index, ""), name)
        outputs = [p.shape[0] for p in _below(now, index, real) if len(p.shape) > 1]
        kept = f", which still gives {count(outputs[-1], 'output')}" if outputs else ""
        return self.finding(
            f"{model.label}.{name} is never called: the head of {model.class_name} is"
            f" {model.label}.{real}{kept}.",
            site=event.site if event else now.built(index),
            symbol=now.path(index, name),
            fix=f"set the new layer as {model.label}.{real}, or as the last part of it",
            severity=None if now.after_backward else Severity.WARNING,
            subject=(model.label, *(o.label for o in now.optimizers)),
        )


def _below(now: Snapshot, model: int, child: str) -> list[Param]:
    return [p for p in now.of_model(model) if p.name.startswith(f"{child}.")]


def _is_added_head(event: Event) -> bool:
    """A new child of a library's model, called as heads are."""
    model, new = event.subject, event.data["new"]
    return (
        event.data["name"] in _NAMES
        and event.data["old"] is None
        and isinstance(new, Module)
        and isinstance(model, Module)
        and model.type.startswith(("torchvision.models.", "timm."))
        and model.cls is None
        and not model.open
        and model.children.get(event.data["name"]) is new
        and any(True for _ in new.parameters())
    )


def _is_used(world: World, event: Event) -> bool:
    """Something calls the new child, or may: it has another place too, or `forward` is new."""
    model, new = event.subject, event.data["new"]
    below = set(new.walk())
    called = any(e.subject in below for e in world.of(FORWARD))
    elsewhere = any(new in other.children.values() for other in world.modules if other is not model)
    patched = any(e.data["attribute"] == "forward" for e in world.of(ATTRIBUTE, model))
    return (
        called
        or elsewhere
        or patched
        or new.parent is not model
        or bool(new.escaped and not model.escaped)
    )
