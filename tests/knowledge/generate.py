"""Write what libraries build to freezecheck/source/knowledge/data, from those installed here.

    python tests/knowledge/generate.py torchvision
    python tests/knowledge/generate.py timm --older timm-1.0.9.json

Models are built on the meta device, so nothing is downloaded and no weights exist. Run it
when a library has a new release, and read the difference before committing it. What a
library builds may change from release to release: the second command leaves open what
another release, which wrote that file with `--out`, builds otherwise. `--new FILE` takes
a file in place of the installed library.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import zoo
import zoo_transformers
from torch import nn

from freezecheck.source.knowledge import layers
from freezecheck.source.knowledge.architectures import Library, Node

Key = tuple[Any, ...]


class Table:
    """Trees of modules, each different subtree once."""

    def __init__(self) -> None:
        self.classes: dict[str, int] = {}
        self.names: dict[str, int] = {}
        self.nodes: dict[Key, int] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.more: dict[str, Any] = {}
        self._known: dict[int, tuple[Node, int]] = {}  # the node keeps its id its own

    def add(self, node: Node) -> int:
        """The number of a node's row."""
        if id(node) not in self._known:
            names = " ".join(node.children)
            numbered = names == " ".join(map(str, range(len(node.children))))
            key = (
                self.classes.setdefault(compact(described(node)), len(self.classes)),
                -1 if numbered else self.names.setdefault(names, len(self.names)),
                *shortened([self.add(child) for child in node.children.values()]),
            )
            self._known[id(node)] = node, self.nodes.setdefault(key, len(self.nodes))
        return self._known[id(node)][1]

    def model(self, name: str, head: tuple[str, ...] = (), **kinds: Node) -> dict[str, Any]:
        """One builder: its trees by kind; those that equal the plain one are left out."""
        entry: dict[str, Any] = {"head": list(head)} if head else {}
        for kind, node in kinds.items():
            number = self.add(node)
            if entry.get("plain") != number:
                entry[kind] = number
        self.models[name] = entry
        return entry

    def write(self, path: Path) -> None:
        """One row a line, so that a change is a small difference."""
        rows = {
            "classes": list(self.classes),
            "names": [json.dumps(names) for names in self.names],
            "nodes": [compact(key) for key in self.nodes],
        }
        parts = [f'"{name}":[\n' + ",\n".join(lines) + "\n]" for name, lines in rows.items()]
        models = ",\n".join(f"{json.dumps(n)}:{compact(m)}" for n, m in self.models.items())
        parts += [f'"{name}":{compact(value)}' for name, value in self.more.items()]
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


def described(node: Node) -> list[Any]:
    row = [
        node.type,
        " ".join(node.params),
        node.norm or "",
        int(node.dropout),
        node.sequence,
        " ".join(node.frozen),
        dict(node.options),
        sorted(node.unlisted) if node.open else None,
    ]
    while not row[-1] and row[-1] != []:
        row.pop()
    return row


def tree(model: nn.Module, head: tuple[str, ...] = (), hidden: str | None = None) -> Node:
    """A model as a node. Of its head the sizes are kept; nothing in `hidden` is listed."""
    heads = [m for path in head if (m := at(model, path)) is not None]
    known: dict[Key, Node] = {}  # equal ones are one, or large models take long

    def node(module: nn.Module) -> Node:
        params = {n: p for n, p in module._parameters.items() if p is not None}
        sizes = options(module) if any(module is h for h in heads) else {}
        traits = {
            "norm": norm_kind(module),
            "dropout": drops(module),
            "frozen": tuple(n for n, p in params.items() if not p.requires_grad),
            "sequence": sequence(module),
        }
        below = {n: node(c) for n, c in module._modules.items() if c is not None}
        ids = tuple((n, id(c)) for n, c in below.items())
        key = (type(module), tuple(params), *traits.values(), tuple(sizes.items()), ids)
        if key not in known:
            name = class_name(type(module))
            known[key] = Node(name, tuple(params), below, options=sizes, **traits)
        return known[key]

    def without(found: Node, path: list[str]) -> Node:
        if not path:
            return changed(found, (), {}, True)
        children = dict(found.children)
        children[path[0]] = without(children[path[0]], path[1:])
        return changed(found, found.params, children, found.open)

    found = node(model)
    return found if hidden is None else without(found, hidden.split(".") if hidden else [])


def changed(node: Node, params: tuple[str, ...], children: dict[str, Node], open: bool) -> Node:
    """A node with some of its parts alone."""
    return Node(
        node.type,
        params,
        children,
        norm=node.norm,
        dropout=node.dropout,
        frozen=tuple(name for name in node.frozen if name in params),
        sequence=node.sequence,
        options=node.options,
        unlisted=node.has_norm | ({"dropout"} if node.has_dropout else set()) if open else None,
    )


def common(new: Node, old: Node) -> Node:
    """What two releases of a library have in common; open where they differ.

    A module without parameters that one of them lacks is left out: an activation that
    became a function, say. It is no reason to be open.
    """
    if new is old:
        return new
    both = [name for name in new.children if name in old.children]
    lost = [c for n in (new, old) for name, c in n.children.items() if name not in both]
    same = set(new.params) == set(old.params) and not any(map(matters, lost))
    if not same and all(name.isdigit() for name in both):  # their number is what differs
        both = []
    params = tuple(name for name in new.params if name in old.params)
    children = {name: common(new.children[name], old.children[name]) for name in both}
    return changed(new, params, children, new.open or old.open or not same)


def matters(node: Node) -> bool:
    return bool(node.tensors or node.open or node.has_norm or node.has_dropout)


def agreeing(new: Library, old: Library, more: dict[str, Any]) -> Table:
    """The models of the new release, open where the old one builds them otherwise."""
    table = Table()
    table.more = more
    for name, model in new.models.items():
        other = old.models.get(name)
        entry = {**model}
        for kind in ("plain", *(k for k, v in model.items() if type(v) is int and k != "plain")):
            node = new.node(model[kind])
            if other is not None:
                node = common(node, old.node(other.get(kind, other["plain"])))
            entry[kind] = table.add(node)
        if other is not None:
            entry["head"] = [p for p in model.get("head", ()) if p in other.get("head", ())]
            entry["tied"] = [p for p in model.get("tied", ()) if p in other.get("tied", ())]
            entry = {key: value for key, value in entry.items() if value != []}
        table.models[name] = entry
    return table


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
    if name.startswith("evonorm"):
        return "batch" if "2db" in name else "group"
    if name.startswith("filterresponsenorm"):
        return "instance"
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
        head = zoo.torchvision_head(builder)
        entry = table.model(name, head, **{k: tree(m, head) for k, m in kinds.items()})
        if zoo.default(builder, "weights_backbone") is not None:
            entry["pretrained"] = True
    for name, part in zoo.torchvision_parts().items():
        table.model(name, plain=tree(part))
    return table


def timm() -> Table:
    table = Table()
    for name in zoo.timm_names():
        plain = zoo.timm_model(name)
        if plain is None:
            continue
        headed = plain if plain.num_classes > 0 else zoo.timm_model(name, num_classes=1000)
        headless = plain if plain.num_classes == 0 else zoo.timm_model(name, num_classes=0)
        if headed is None:
            continue
        head = tuple(path for path in zoo.timm_head(headed) if at(headed, path) is not None)
        kinds = {"plain": plain, "headed": headed, "headless": headless}
        trees = {kind: tree(model, head) for kind, model in kinds.items() if model is not None}
        entry = table.model(name, head, **trees)
        # Weights that come with a head where the default ones come without, or the reverse.
        has_head = plain.num_classes > 0
        if other := [t for t, n in zoo.timm_tags(name).items() if (n > 0) != has_head]:
            entry["tags"] = " ".join(other)
    return table


def transformers() -> Table:
    table, auto = Table(), zoo_transformers.classes()
    for kind, name in sorted({(k, n) for names in auto.values() for k, n in names.items()}):
        for key, (of, changes) in {"": (kind, {}), **zoo_transformers.CONFIGURATIONS}.items():
            if of == kind and (changes or not key):
                add_transformer(table, name, kind, key, changes)
    known = {k: {t: n for t, n in v.items() if n in table.models} for k, v in auto.items()}
    table.more = {
        "auto": known,
        "checkpoints": zoo_transformers.checkpoints(),
        "configurations": {
            key: [kind, bool(changes)]
            for key, (kind, changes) in zoo_transformers.CONFIGURATIONS.items()
        },
    }
    return table


def add_transformer(table: Table, name: str, kind: str, key: str, changes: dict[str, Any]) -> None:
    """A class with a configuration; without a `key`, for any checkpoint as well."""
    model = zoo_transformers.built(name, kind, **changes)
    if model is None:
        return
    base, head = zoo_transformers.base(model), zoo_transformers.heads(model)
    kinds = {"plain": tree(model)}
    if not key:  # of a checkpoint that is not known the head alone is sure
        kinds["weights"] = tree(model, hidden=base)
    entry = table.model(f"{name}:{key}" if key else name, head, **kinds)
    if base:
        entry["base"] = base
    if tied := zoo_transformers.tied(model):
        entry["tied"] = tied


LIBRARIES: dict[str, Callable[[], Table]] = {
    "torchvision": torchvision,
    "timm": timm,
    "transformers": transformers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("--out", type=Path, help="write to this file instead")
    parser.add_argument("--new", type=Path, help="take this file for the installed library")
    parser.add_argument("--older", type=Path, help="leave open what this file has otherwise")
    given = parser.parse_args()
    out = given.out or zoo.DATA / f"{given.library}.json"
    if given.new is None:
        LIBRARIES[given.library]().write(out)
    if given.older is not None:
        new, old = (json.loads(path.read_text()) for path in (given.new or out, given.older))
        more = {k: v for k, v in new.items() if k not in ("classes", "names", "nodes", "models")}
        agreeing(Library(new), Library(old), more).write(out)


if __name__ == "__main__":
    main()
