"""Write what libraries build to freezecheck/source/knowledge/data, from those installed here.

    python tests/knowledge/generate.py [torchvision] [timm] [transformers]

Models are built on the meta device, so nothing is downloaded and no weights exist. Run it
when a library has a new release, and read the difference before committing it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import zoo
from torch import nn

from freezecheck.source.knowledge import layers

Key = tuple[Any, ...]


class Table:
    """Trees of modules, each different subtree once."""

    def __init__(self) -> None:
        self.classes: dict[str, int] = {}
        self.names: dict[str, int] = {}
        self.nodes: dict[Key, int] = {}
        self.models: dict[str, dict[str, Any]] = {}

    def add(self, module: nn.Module, heads: tuple[nn.Module, ...] = ()) -> int:
        """The number of a module's row. Of `heads` the sizes are kept."""
        children = {n: c for n, c in module._modules.items() if c is not None}
        below = [self.add(child, heads) for child in children.values()]
        sizes = any(module is head for head in heads)
        described = json.dumps(description(module, sizes), separators=(",", ":"))
        names = " ".join(children)
        numbered = names == " ".join(map(str, range(len(children))))
        key = (
            self.classes.setdefault(described, len(self.classes)),
            -1 if numbered else self.names.setdefault(names, len(self.names)),
            *shortened(below),
        )
        return self.nodes.setdefault(key, len(self.nodes))

    def model(self, name: str, head: tuple[str, ...], **kinds: nn.Module) -> None:
        """One builder: its trees by kind; those that equal the plain one are left out."""
        entry: dict[str, Any] = {"head": list(head)} if head else {}
        for kind, model in kinds.items():
            heads = tuple(m for path in head if (m := at(model, path)) is not None)
            number = self.add(model, heads)
            if entry.get("plain") != number:
                entry[kind] = number
        self.models[name] = entry

    def write(self, path: Path) -> None:
        """One row a line, so that a change is a small difference."""
        rows = {
            "classes": list(self.classes),
            "names": [json.dumps(names) for names in self.names],
            "nodes": [compact(key) for key in self.nodes],
        }
        parts = [f'"{name}":[\n' + ",\n".join(lines) + "\n]" for name, lines in rows.items()]
        models = ",\n".join(f"{json.dumps(n)}:{compact(m)}" for n, m in self.models.items())
        path.write_text("{" + ",\n".join([*parts, f'"models":{{\n{models}\n}}']) + "}\n")


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def shortened(numbers: list[int]) -> Iterator[int]:
    """Repeats of a number as how many more there are, below zero."""
    position = 0
    while position < len(numbers):
        end = position
        while end < len(numbers) and numbers[end] == numbers[position]:
            end += 1
        yield numbers[position]
        if end - position > 1:
            yield position + 1 - end
        position = end


def description(module: nn.Module, sizes: bool) -> list[Any]:
    params = {n: p for n, p in module._parameters.items() if p is not None}
    row = [
        class_name(type(module)),
        " ".join(params),
        norm_kind(module) or "",
        int(drops(module)),
        sequence(module),
        " ".join(n for n, p in params.items() if not p.requires_grad),
        options(module) if sizes else {},
    ]
    while not row[-1]:
        row.pop()
    return row


def class_name(cls: type) -> str:
    """As people import it, if that is the same class."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    public = layers.canonical(name)
    package, _, short = public.rpartition(".")
    return public if getattr(import_module(package), short, None) is cls else name


def norm_kind(module: nn.Module) -> str | None:
    name = type(module).__name__.lower()
    if "frozenbatchnorm" in name:
        return "frozen"
    if "rmsnorm" in name or name in ("t5layernorm", "simplenorm2d", "simplenorm"):
        return "rms"
    for kind, cls in (
        ("batch", nn.modules.batchnorm._BatchNorm),
        ("instance", nn.modules.instancenorm._InstanceNorm),
        ("layer", nn.LayerNorm),
        ("group", nn.GroupNorm),
    ):
        if isinstance(module, cls):
            return kind
    return "layer" if name.endswith("layernorm") and not list(module.children()) else None


def drops(module: nn.Module) -> bool:
    """It itself drops something at random in train mode."""
    name = type(module).__name__
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return module.dropout > 0
    if not any(word in name for word in ("Drop", "StochasticDepth")):
        return False
    chances = [getattr(module, n, None) for n in ("p", "drop_prob", "prob", "drop_rate")]
    return any(isinstance(chance, float | int) and chance > 0 for chance in chances)


def sequence(module: nn.Module) -> str:
    for cls in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
        if isinstance(module, cls):
            return cls.__name__
    return ""


def options(module: nn.Module) -> dict[str, int]:
    names = ("in_features", "out_features") if hasattr(module, "in_features") else ()
    names = names or (("in_channels", "out_channels") if hasattr(module, "in_channels") else ())
    return {name: getattr(module, name) for name in names}


def at(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def torchvision() -> Table:
    table = Table()
    for name, builder in zoo.torchvision_builders().items():
        kinds = {"plain": zoo.torchvision_model(builder)}
        if not name.startswith("quantization."):
            kinds["weights"] = zoo.torchvision_model(builder, weights="DEFAULT")
        if zoo.takes(builder, "weights_backbone"):
            kinds["backbone"] = zoo.torchvision_model(builder, weights_backbone="DEFAULT")
        table.model(name, zoo.torchvision_head(builder), **kinds)
        if zoo.default(builder, "weights_backbone") is not None:
            table.models[name]["pretrained"] = True
    for name, part in zoo.torchvision_parts().items():
        table.model(name, (), plain=part)
    return table


LIBRARIES: dict[str, Callable[[], Table]] = {"torchvision": torchvision}

if __name__ == "__main__":
    for library in sys.argv[1:] or LIBRARIES:
        LIBRARIES[library]().write(zoo.DATA / f"{library}.json")
