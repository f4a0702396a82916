"""Calls that build a model whose architecture is known, and whether it comes pretrained."""

from __future__ import annotations

from typing import Any

from freezecheck.source.knowledge import architectures
from freezecheck.source.knowledge.architectures import Node

_HUB = {"pytorch/vision": "torchvision.models", "rwightman/pytorch-image-models": "timm"}
_UNKNOWN = object()


class Built:
    """What a call builds. `name` is the builder's; `node` None where its tree is not known.

    `options` are those of its arguments that matter: `num_classes`.
    """

    __slots__ = ("name", "node", "options", "pretrained")

    def __init__(
        self, name: str, node: Node | None, pretrained: bool | None, options: dict[str, Any]
    ) -> None:
        self.name = name
        self.node = node
        self.pretrained = pretrained
        self.options = options


def find(name: str, given: Any) -> Built | None:
    """What calling `name` with these arguments (a `calls.Call`) builds; None: nothing known."""
    builder, first = name, 0
    if name == "timm.create_model" or (name.endswith(".create_model") and name.startswith("timm")):
        builder, first = f"timm.{given.get(0, 'model_name')}", 1
    elif name == "torchvision.models.get_model":
        builder, first = f"torchvision.models.{given.get(0, 'name')}", 1
    elif name == "torch.hub.load":
        home = next(
            (h for k, h in _HUB.items() if str(given.get(0, "repo_or_dir")).startswith(k)), None
        )
        if home is None:
            return None
        builder, first = f"{home}.{given.get(1, 'model')}", 2
    elif name.startswith("torchvision.models") and name.rpartition(".")[2][:1].isupper():
        return None
    node = architectures.find(builder)
    short = builder.rpartition(".")[2]
    if node is None and name != "timm.create_model":
        return None
    if node is not None and not builder.startswith(("torchvision.", "timm.")):
        return None
    options = {}
    classes = given.keywords.get("num_classes")
    if isinstance(classes, int):
        options["num_classes"] = classes
    return Built(
        f"{builder}" if node is not None else f"timm.{short}",
        node,
        _pretrained(builder, given, first),
        options,
    )


def _pretrained(builder: str, given: Any, first: int) -> bool | None:
    """Whether the call asks for trained weights; None if that is not known."""
    for key in ("weights", "pretrained", "weights_backbone", "checkpoint_path"):
        value = given.keywords.get(key, _UNKNOWN)
        if value is _UNKNOWN or (key == "weights_backbone" and value is None):
            continue
        return _asks(value)
    if len(given.args) > first:
        return _asks(given.args[first])
    if given.open:
        return None
    # Detection and segmentation builders load a trained backbone unless told not to.
    return builder.startswith(("torchvision.models.detection", "torchvision.models.segmentation"))


def _asks(value: Any) -> bool | None:
    if isinstance(value, (bool, str)) or value is None:
        return bool(value)
    return True if type(value).__name__ == "Library" else None
