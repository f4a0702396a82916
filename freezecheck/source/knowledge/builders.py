"""Calls that build a model whose architecture is known, and whether it comes pretrained."""

from __future__ import annotations

from typing import Any

from freezecheck.source.knowledge import architectures
from freezecheck.source.knowledge.architectures import Node

_HUB = {
    "pytorch/vision": "torchvision.models",
    "rwightman/pytorch-image-models": "timm",
    "huggingface/pytorch-image-models": "timm",
}
# Arguments that leave the tree as it is, but for weights and classes, which are looked at.
_SAME_TREE = frozenset(
    """weights pretrained progress num_classes weights_backbone pretrained_backbone model_name name
    model repo_or_dir source force_reload trust_repo verbose skip_validation checkpoint_path
    cache_dir in_chans img_size image_size drop_rate drop_path_rate dropout attention_dropout
    stochastic_depth_prob zero_init_residual replace_stride_with_dilation transform_input
    init_weights min_size max_size image_mean image_std scriptable exportable""".split()
)


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
    builder, first = _builder(name, given)
    known = architectures.find(builder) if builder.startswith(("torchvision.", "timm.")) else None
    if known is None:
        if name != "timm.create_model":
            return None
        builder = f"timm.{builder.rpartition('.')[2]}"
    weights, backbone = _weights(given, first), _backbone(builder, given)
    if builder.rpartition(".")[2][:1].isupper():  # a class, such as FastRCNNPredictor
        weights = backbone = False
    options = {}
    classes = given.keywords.get("num_classes")
    if isinstance(classes, int):
        options["num_classes"] = classes
    node = None
    if known is not None and not given.open and given.keywords.keys() <= _SAME_TREE:
        node = _tree(builder, given, weights, backbone)
    pretrained = True if weights or backbone else None if None in (weights, backbone) else False
    return Built(builder, node, pretrained, options)


def _builder(name: str, given: Any) -> tuple[str, int]:
    """The builder that a call names, and where its own arguments start."""
    if name.startswith("timm") and name.endswith(".create_model"):
        return f"timm.{given.get(0, 'model_name')}", 1
    if name == "torchvision.models.get_model":
        return f"torchvision.models.{given.get(0, 'name')}", 1
    if name == "torch.hub.load":
        source = str(given.get(0, "repo_or_dir"))
        home = next((library for start, library in _HUB.items() if source.startswith(start)), "")
        return f"{home}.{given.get(1, 'model')}", 2
    return name, 0


def _tree(builder: str, given: Any, weights: bool | None, backbone: bool | None) -> Node | None:
    """The tree, unless it depends on an argument that is not known."""
    classes = None
    if builder.startswith("timm.") and "num_classes" in given.keywords:
        classes = given.keywords["num_classes"] != 0  # one that is not known is hardly 0
    nodes = [
        architectures.find(builder, weights=w, backbone=b, classes=classes)
        for w in ((True, False) if weights is None else (weights,))
        for b in ((True, False) if backbone is None else (backbone,))
    ]
    return nodes[0] if all(node is nodes[0] for node in nodes) else None


def _weights(given: Any, first: int) -> bool | None:
    """Whether the call asks for trained weights; None if that is not known."""
    asked = [
        given.keywords[k]
        for k in ("weights", "pretrained", "checkpoint_path")
        if k in given.keywords
    ]
    asked += given.args[first : first + 1]
    answers = [_asks(value) for value in asked]
    return True if True in answers else None if None in answers or given.open else False


def _backbone(builder: str, given: Any) -> bool | None:
    """Whether it asks for a trained backbone: detection and segmentation builders may of themselves."""
    for key in ("weights_backbone", "pretrained_backbone"):
        if key in given.keywords:
            return _asks(given.keywords[key])
    return architectures.pretrained(builder)


def _asks(value: Any) -> bool | None:
    if isinstance(value, (bool, str)) or value is None:
        return bool(value)
    return True if type(value).__name__ == "Library" else None
