"""What the builders of libraries build: trees of modules, without the libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

CONTAINERS = ("Sequential", "ModuleList", "ModuleDict")


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
