"""What the builders of libraries build: trees of modules, without the libraries.

The trees lie in `data/<library>.json`, one file a library, written by
`tests/knowledge/generate.py` from the installed libraries and read when a builder is first
looked up. A subtree that occurs many times is there once.

    {"classes": [[type, params, norm, drops, sequence, frozen, options, unlisted], ...],
     "names": ["conv1 bn1 relu", ...],
     "nodes": [[class, names, child, child, ...], ...],
     "models": {"resnet18": {"head": ["fc"], "plain": node}, ...}}

A class's row may end early. `unlisted` is there for an open node: the norms (and "dropout")
that are in its unlisted parts. Names of -1 mean 0, 1, 2, ... A negative child means: the child
before it, that many times more. `models` may hold, beside the `plain` tree, one that
differs for a model that is built with `weights`, or with a `backbone` that has weights;
of timm those with and without a classifier, `headed` and `headless`, and the `tags` whose
weights are for the one of them that is not `plain`. Of transformers, `BertModel:bert-large`
is one with another configuration, and `weights` the tree for any checkpoint.
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
    matter to others: the sizes of a `Linear`. `open`: parts or parameters of it are not
    listed, since they depend on the library's version or on a checkpoint; `unlisted`
    are the kinds of norms in them, and "dropout".
    """

    __slots__ = (
        "_children", "_has_dropout", "_has_norm", "_tensors",
        "dropout", "frozen", "norm", "open", "options", "params", "sequence", "type", "unlisted",
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
        unlisted: Iterable[str] | None = None,
    ) -> None:
        self.type = type
        self.params = params
        self._children = children or {}
        self.norm = norm
        self.dropout = dropout
        self.frozen = frozen
        self.sequence = sequence
        self.options: Mapping[str, Any] = options or {}
        self.open = unlisted is not None
        self.unlisted: frozenset[str] = frozenset(unlisted or ())
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
        """How many parameters are listed in it and below."""
        if self._tensors is None:
            self._tensors = len(self.params) + sum(c.tensors for c in self.children.values())
        return self._tensors

    @property
    def has_norm(self) -> frozenset[str]:
        """The kinds of norm layers in it and below."""
        if self._has_norm is None:
            own = self.unlisted.union((self.norm,) if self.norm else ())
            self._has_norm = (own - {"dropout"}).union(
                *(c.has_norm for c in self.children.values())
            )
        return self._has_norm

    @property
    def has_dropout(self) -> bool:
        """Whether it or anything below drops something at random in train mode."""
        if self._has_dropout is None:
            below = any(c.has_dropout for c in self.children.values())
            self._has_dropout = self.dropout or below or "dropout" in self.unlisted
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
        self.auto: Mapping[str, Mapping[str, str]] = data.get("auto", {})
        self.checkpoints: Mapping[str, str] = data.get("checkpoints", {})
        self.configurations: Mapping[str, tuple[str, bool]] = data.get("configurations", {})
        self._classes = data["classes"]
        self._names = [names.split() for names in data["names"]]
        self._rows = data["nodes"]
        self._nodes: dict[int, Node] = {}

    def node(self, index: int) -> Node:
        """The node of a row; always the same object."""
        found = self._nodes.get(index)
        if found is None:
            row = self._rows[index]
            (type, params, norm, drops, sequence, frozen, options, unlisted) = _padded(
                self._classes[row[0]]
            )
            found = self._nodes[index] = Node(
                type,
                tuple(params.split()),
                lambda: self._children(row),
                norm=norm or None,
                dropout=bool(drops),
                sequence=sequence,
                frozen=tuple(frozen.split()),
                options=options,
                unlisted=unlisted,
            )
        return found

    def _children(self, row: list[int]) -> dict[str, Node]:
        indices: list[int] = []
        for entry in row[2:]:
            indices += [entry] if entry >= 0 else [indices[-1]] * -entry
        names = map(str, range(len(indices))) if row[1] < 0 else self._names[row[1]]
        return {name: self.node(index) for name, index in zip(names, indices)}


def _padded(row: list[Any]) -> list[Any]:
    return row + ["", "", "", 0, "", "", {}, None][len(row) :]


def find(
    builder: str,
    *,
    weights: bool | None = None,
    backbone: bool | None = None,
    classes: bool | None = None,
) -> Node | None:
    """What a builder builds, called with its defaults; None if it is not known.

    `builder` is its dotted name: `torchvision.models.resnet18`. These stand for a call:

    - `torchvision.models.ssd300_vgg16`: `torchvision.models.get_model("ssd300_vgg16")`
    - `timm.resnet50.a1_in1k`: `timm.create_model("resnet50.a1_in1k")`
    - `transformers.BertModel`: `BertModel(BertConfig())`
    - `transformers.AutoModel:bert-base-uncased`: `AutoModel.from_pretrained("bert-base-uncased")`;
      after a class that is not an auto class any checkpoint, or nothing, may stand: of one
      that is not known, the base model is open and the head is certain.

    `weights`: pretrained weights are asked for; `backbone`: for torchvision's backbone
    alone. They matter to detection and segmentation models and to googlenet, which are
    built otherwise with them. `classes`: False for timm's `num_classes=0`, True for
    another number of them; some of its models have no head unless one is asked for.
    None: the argument is not given.
    """
    found = _entry(builder)
    if found is None:
        return None
    library, model, variant = found
    if classes is not None:
        variant = "headed" if classes else "headless"
    if variant == "headless" and not {"headed", "headless"} & model.keys():
        return None  # it cannot be had
    kinds = [variant]
    if backbone is None:
        backbone = model.get("pretrained", False)
    if not builder.startswith("transformers."):
        kinds += ["weights", "backbone"] if weights else ["backbone"] if backbone else []
    index = next((model[kind] for kind in kinds if kind in model), model["plain"])
    return library.node(index)


def head(builder: str) -> tuple[str, ...]:
    """Paths of the layers that are replaced for other classes, the main one first.

    Of transformers: the attributes beside the base model that have parameters.
    """
    found = _entry(builder)
    return tuple(found[1].get("head", ())) if found is not None else ()


def pretrained(builder: str) -> bool:
    """Whether it asks for trained weights of a backbone of itself."""
    found = _entry(builder)
    return bool(found and found[1].get("pretrained", False))


def base(builder: str) -> str:
    """The attribute that holds the base model of a class of transformers; "" without one."""
    found = _entry(builder)
    return found[1].get("base", "") if found is not None else ""


def tied(builder: str) -> tuple[tuple[str, ...], ...]:
    """Paths of one and the same parameter, where it has several."""
    found = _entry(builder)
    return tuple(tuple(paths) for paths in found[1].get("tied", ())) if found is not None else ()


def transformers_head(auto: str) -> tuple[str, ...]:
    """What the heads are called of the classes that `AutoModelFor...` takes."""
    library = _library("transformers")
    classes = library.auto.get(auto.rpartition(".")[2], {}).values()
    return tuple(sorted({name for c in classes for name in library.models[c].get("head", ())}))


def builders() -> Iterator[str]:
    """Every builder, as `torchvision.models.detection.ssd300_vgg16`, `timm.resnet50`."""
    for name, prefix in _PREFIXES.items():
        yield from (prefix + model for model in _library(name).models if ":" not in model)


_PREFIXES = {"torchvision": "torchvision.models.", "timm": "timm.", "transformers": "transformers."}
_GROUPS = ("detection", "segmentation", "video", "optical_flow", "quantization")
Entry = tuple[Library, Mapping[str, Any], str]


def _entry(builder: str) -> Entry | None:
    """A builder's library, its entry there, and the kind of tree that its name asks for."""
    library, _, rest = builder.partition(".")
    if not rest or library not in _PREFIXES:
        return None
    return {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}[library](
        _library(library), rest
    )


def _torchvision(library: Library, rest: str) -> Entry | None:
    path = rest.removeprefix("models.")
    short = path.rpartition(".")[2]
    # detection.faster_rcnn.fasterrcnn_resnet50_fpn is shown as detection.fasterrcnn_..., too;
    # `get_model` and the hub take the last part alone.
    group = next((g for g in _GROUPS if path.startswith(f"{g}.")), "")
    names = [path, f"{group}.{short}" if group else short]
    if path == short:
        names += [f"{group}.{short}" for group in _GROUPS[:-1]]
        names += ["quantization." + short.removeprefix("quantized_")] * short.startswith(
            "quantized_"
        )
    return next(((library, library.models[n], "") for n in names if n in library.models), None)


def _timm(library: Library, rest: str) -> Entry | None:
    if rest.startswith("models."):  # timm.models.resnet.resnet50
        name, tag = rest.rpartition(".")[2], ""
    else:  # hf_hub:timm/resnet50.a1_in1k
        name, _, tag = rest.rpartition("/")[2].partition(".")
    model = library.models.get(name)
    if model is None:
        return None
    unlike = tag in model.get("tags", "").split()
    return library, model, ("headed" if "headed" in model else "headless") if unlike else ""


def _transformers(library: Library, rest: str) -> Entry | None:
    name, colon, checkpoint = rest.partition(":")
    name = name.rpartition(".")[2]
    configuration = library.checkpoints.get(checkpoint, "")
    kind, changed = library.configurations.get(configuration, ("", False))
    if name in library.auto:
        name = library.auto[name].get(kind, "")
    elif not any(names.get(kind) == name for names in library.auto.values()):
        configuration, changed = "", False  # a checkpoint of another class
    model = library.models.get(f"{name}:{configuration}" if changed else name)
    if model is None:
        return None
    return library, model, "weights" if colon and not configuration else ""


@cache
def _library(name: str) -> Library:
    path = os.path.join(os.path.dirname(__file__), "data", f"{name}.json")
    with open(path, encoding="utf-8") as file:
        return Library(json.load(file))
