"""A module tree walked once: every module under one path, wrappers looked through.

`nn.Module.named_parameters` walks the tree again for each question; a report
on a large model asks a dozen. Here the tree is flattened once, in order of
registration, and everything else reads the flat list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from freezecheck.live.traits import WRAPPERS, Traits, traits
from freezecheck.snapshot import Param

# FSDP2's `fully_shard` renames the class in place: `FSDPLinear`. It is no wrapper.


class Node:
    """One module in the tree. `numel` counts the parameters below it, itself included."""

    __slots__ = ("children", "module", "numel", "params", "parent", "path", "stage", "traits")

    def __init__(self, module: Any, path: str, parent: Node | None, facts: Traits) -> None:
        self.module = module
        self.traits = facts
        self.params: list[Param] = []  # its own, tied ones under their first owner's name
        self.path = path
        self.parent = parent
        self.children: list[Node] = []
        self.numel = 0
        self.stage = -1

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rpartition(".")[2]

    def join(self, name: str) -> str:
        """The path of something directly below this module."""
        return f"{self.path}.{name}" if self.path else name


def unwrap(module: Any) -> tuple[Any, tuple[str, ...]]:
    """The user's own module, and the class names of the wrappers around it."""
    wrappers: tuple[str, ...] = ()
    while (attribute := WRAPPERS.get(type(module).__name__)) is not None:
        inner = module._modules.get(attribute)
        if inner is None:
            break
        wrappers += (type(module).__name__,)
        module = inner
    return module, wrappers


def walk(root: Any) -> list[Node]:
    """Every module below an unwrapped `root`, parents first, each module once.

    A module registered under two names keeps the one that `named_modules` gives it.
    Paths leave out wrappers (`module.`, `_orig_mod.`), as the user wrote none of them.
    """
    nodes: list[Node] = []
    seen: set[int] = set()
    stack = [Node(root, "", None, traits(type(root)))]
    while stack:
        node = stack.pop()
        if id(node.module) in seen:
            continue
        seen.add(id(node.module))
        nodes.append(node)
        if node.parent is not None:
            node.parent.children.append(node)
        modules = node.module._modules
        if not modules:
            continue
        found = []
        prefix = f"{node.path}." if node.path else ""
        for name, child in modules.items():
            if child is None:
                continue
            facts = traits(type(child))
            if facts.wrapper:
                child = unwrap(child)[0]
                facts = traits(type(child))
            if id(child) not in seen:
                found.append(Node(child, prefix + name, node, facts))
        found.reverse()
        stack.extend(found)
    return nodes


def subtree(node: Node) -> Iterator[Node]:
    """A node and everything below it."""
    stack = [node]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(node.children))


def release(nodes: list[Node]) -> None:
    """Undo the links between nodes: a cycle would keep the user's model alive until the
    garbage collector comes by, and with it the memory of a GPU."""
    for node in nodes:
        node.children = []


def paths(model: Any) -> dict[str, Any]:
    """Every module of a model, wrapped or not, by its path."""
    nodes = walk(unwrap(model)[0])
    release(nodes)
    return {node.path: node.module for node in nodes}
