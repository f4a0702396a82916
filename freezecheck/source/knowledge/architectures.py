"""What the builders of libraries build: trees of modules, without the libraries.

The trees lie in `data/<library>.json`, one file a library, written by
`tests/knowledge/generate.py` from the installed libraries and read when a builder is first
looked up. A subtree that occurs many times is there once.

    {"classes": [[type, params, norm, drops, sequence, frozen, options], ...],
     "names": ["conv1 bn1 relu", ...],
     "nodes": [[class, names, child, child, ...], ...],
     "models": {"resnet18": {"head": ["fc"], "plain": node}, ...}}

A class's row may end early. Names of -1 mean 0, 1, 2, ... A negative child means: the child
before it, that many times more. `models` may hold, beside the `plain` tree, one that
differs for a model that is built with `weights`, or with a `backbone` that has weights;
of timm those with and without a classifier, `headed` and `headless`, and the `tags` whose
weights are for the one of them that is not `plain`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any


class Node:
    """A module as a library builds it. Never changed; equal subtrees are one object.

    `type` is its class as people import it (`torch.nn.Linear`). `norm` is "batch",
    "layer", "group", "instance", "rms" or "frozen" (BatchNorm whose values are
    buffers) for a norm layer. `dropout`: it itself drops something at random in train
    mode. `params` are its own parameters, in order; `frozen` those of them that the
    builder leaves without gradient. `options` are arguments of its constructor that
    matter to others: the sizes of a `Linear`.
    """

    __slots__ = (
        "_children", "_has_dropout", "_has_norm", "_tensors",
        "dropout", "frozen", "norm", "options", "params", "sequence", "type",
    )  # fmt: skip

    def __init__(
        self,
        type: str,
        params: tuple[str, ...] = (),
        children: Mapping[str, Node] | Callable[[], Mapping[str, Node]] | None = None,
        *,
        norm: str | None = None,
        dropout: bool = False,
        frozen: tuple[str, ...] = (),
        sequence: str = "",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.type = type
        self.params = params
        self._children = children or {}
        self.norm = norm
        self.dropout = dropout
        self.frozen = frozen
        self.sequence = sequence
        self.options: Mapping[str, Any] = options or {}
        self._tensors: int | None = None
        self._has_norm: frozenset[str] | None = None
        self._has_dropout: bool | None = None

    @property
    def children(self) -> Mapping[str, Node]:
        """The modules directly in it, in order of registration."""
        if callable(self._children):  # read when first asked for
            self._children = self._children()
        return self._children

    @property
    def tensors(self) -> int:
        """How many parameters are in it and below."""
        if self._tensors is None:
            self._tensors = len(self.params) + sum(c.tensors for c in self.children.values())
        return self._tensors

    @property
    def has_norm(self) -> frozenset[str]:
        """The kinds of norm layers in it and below."""
        if self._has_norm is None:
            own = frozenset((self.norm,) if self.norm else ())
            self._has_norm = own.union(*(c.has_norm for c in self.children.values()))
        return self._has_norm

    @property
    def has_dropout(self) -> bool:
        """Whether it or anything below drops something at random in train mode."""
        if self._has_dropout is None:
            below = any(c.has_dropout for c in self.children.values())
            self._has_dropout = self.dropout or below
        return self._has_dropout

    def at(self, path: str) -> Node | None:
        """The module at a path such as `layer4.0.bn1`; itself for ""."""
        found: Node | None = self
        for name in path.split(".") if path else ():
            found = found.children.get(name) if found is not None else None
        return found

    def __repr__(self) -> str:
        return f"<{self.type} of {self.tensors}>"


class Library:
    """The builders of one library, read from its file."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.models: Mapping[str, Mapping[str, Any]] = data["models"]
        self._classes = data["classes"]
        self._names = [names.split() for names in data["names"]]
        self._rows = data["nodes"]
        self._nodes: dict[int, Node] = {}

    def node(self, index: int) -> Node:
        """The node of a row; always the same object."""
        found = self._nodes.get(index)
        if found is None:
            row = self._rows[index]
            type, params, norm, drops, sequence, frozen, options = _padded(self._classes[row[0]])
            found = self._nodes[index] = Node(
                type,
                tuple(params.split()),
                lambda: self._children(row),
                norm=norm or None,
                dropout=bool(drops),
                sequence=sequence,
                frozen=tuple(frozen.split()),
                options=options,
            )
        return found

    def _children(self, row: list[int]) -> dict[str, Node]:
        indices: list[int] = []
        for entry in row[2:]:
            indices += [entry] if entry >= 0 else [indices[-1]] * -entry
        names = map(str, range(len(indices))) if row[1] < 0 else self._names[row[1]]
        return {name: self.node(index) for name, index in zip(names, indices)}


def _padded(row: list[Any]) -> list[Any]:
    return row + ["", "", "", 0, "", "", {}][len(row) :]


def find(
    builder: str,
    *,
    weights: bool | None = None,
    backbone: bool | None = None,
    classes: bool | None = None,
) -> Node | None:
    """What a builder builds, called with its defaults; None if it is not known.

    `builder` is its dotted name: `torchvision.models.resnet18`; `timm.resnet50` stands
    for `timm.create_model("resnet50")`, `torchvision.resnet18` for
    `torchvision.models.get_model("resnet18")`. `weights`: pretrained weights are asked
    for; `backbone`: for the backbone alone. They matter to the detection models, whose
    norm layers and frozen layers depend on them. `classes`: False for timm's
    `num_classes=0`, True for another number of them; some of its models have no head
    unless one is asked for. None: the argument is not given.
    """
    library, model = _entry(builder)
    if library is None or model is None:
        return None
    if classes is None and _tag(builder) in model.get("tags", "").split():
        classes = "headed" in model  # unlike the model without a tag
    if backbone is None:
        backbone = model.get("pretrained", False)
    wanted = ["weights", "backbone"] if weights else ["backbone"] if backbone else []
    if classes is not None:
        if not classes and not {"headed", "headless"} & model.keys():
            return None
        wanted.append("headed" if classes else "headless")
    index = next((model[kind] for kind in wanted if kind in model), model["plain"])
    return library.node(index)


def head(builder: str) -> tuple[str, ...]:
    """Paths of the layers that depend on the number of classes, the main one first."""
    _, model = _entry(builder)
    return tuple(model.get("head", ())) if model is not None else ()


def builders() -> Iterator[str]:
    """Every builder, as `torchvision.models.detection.ssd300_vgg16`, `timm.resnet50`."""
    for name, prefix in _PREFIXES.items():
        yield from (prefix + model for model in _library(name).models)


_PREFIXES = {"torchvision": "torchvision.models.", "timm": "timm.", "transformers": "transformers."}
_GROUPS = ("detection", "segmentation", "video", "optical_flow", "quantization")


def _entry(builder: str) -> tuple[Library | None, Mapping[str, Any] | None]:
    library, _, rest = builder.partition(".")
    if library not in _PREFIXES or not rest:
        return None, None
    found = _library(library)
    return found, next((found.models[k] for k in _keys(library, rest) if k in found.models), None)


def _keys(library: str, rest: str) -> Iterable[str]:
    """What the builder may be called in the file."""
    if library == "timm":
        name = rest.rpartition("/")[2]  # hf_hub:timm/resnet50.a1_in1k
        if rest.startswith("models."):  # timm.models.resnet.resnet50
            return (rest.rpartition(".")[2],)
        return (name.partition(".")[0],)
    short = rest.rpartition(".")[2]
    if library == "transformers":
        return (short,)
    if not rest.startswith("models."):  # the name alone
        if short.startswith("quantized_"):
            return ("quantization." + short.removeprefix("quantized_"),)
        return (short, *(f"{group}.{short}" for group in _GROUPS[:-1]))
    # torchvision.models.detection.faster_rcnn.fasterrcnn_resnet50_fpn is shown above, too.
    group = next((g + "." for g in _GROUPS if rest.startswith(f"models.{g}.")), "")
    return (rest.removeprefix("models."), group + short)


def _tag(builder: str) -> str:
    """`a1_in1k` of `timm.resnet50.a1_in1k`: which of its pretrained weights."""
    library, _, rest = builder.partition(".")
    return rest.rpartition("/")[2].partition(".")[2] if library == "timm" else ""


@cache
def _library(name: str) -> Library:
    path = os.path.join(os.path.dirname(__file__), "data", f"{name}.json")
    with open(path, encoding="utf-8") as file:
        return Library(json.load(file))
