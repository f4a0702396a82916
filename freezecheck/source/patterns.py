"""Tests on names: `for name, p in model.named_parameters(): if "fc" in name`.

Where a text asks a known model for its names, the loop around that call is read (see
`names`), and recorded with all the names that it goes through.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from freezecheck import program
from freezecheck.pattern import Branch, Chain
from freezecheck.program import Module
from freezecheck.source import attributes, structure
from freezecheck.source.calls import Call
from freezecheck.source.machine import Machine
from freezecheck.source.scope import MISSING
from freezecheck.source.values import Dict, Instance, List, is_constant

_OF = {"named_parameters": "parameters", "named_modules": "modules", "named_children": "children"}


def record(m: Machine, owner: Module, method: str, given: Call) -> None:
    """PATTERN events for the loop that goes through what this call gives."""
    if given.args or given.keywords or any(part.open for part in owner.walk()):
        return
    from freezecheck.names import chains

    tree: Any = m.scope.file.tree
    loops = getattr(tree, "_freezecheck_loops", None)
    if loops is None:
        loops = tree._freezecheck_loops = chains.choosing(tree)
    for told in chains.told(loops, given.node.lineno, method, _Here(m, given.node)):
        found = dict(_LISTED[method](owner))
        names = chains.reached(found, told.guards)
        if not names:
            continue
        branches = tuple(_branch(*branch) for branch in told.branches)
        caller = m.stack[-1] if m.stack else None
        path, label = m.scope.file.path, owner.root.shown
        of, otherwise = _OF[method], told.otherwise
        chain = Chain(owner.path, label, of, names, branches, path, caller, otherwise)
        norms = {name: found[name] for name in names if found[name]}
        m.event(program.PATTERN, chain.site(branches[0]), owner, value=chain, norms=norms)


def _branch(condition: Any, action: str, test: Any) -> Branch:
    end = test.end_col_offset + 1
    return Branch(condition, action, test.lineno, test.col_offset + 1, test.end_lineno, end)


class _Here:
    """The variables where the machine is."""

    def __init__(self, m: Machine, node: Any) -> None:
        self._m = m
        self._node = node

    def variable(self, name: str) -> Any:
        """The value of a variable, as Python's own if it is plain."""
        value = self._m.scope.get(name)
        if value is MISSING:
            raise KeyError(name)
        return _plain(value)

    def attribute(self, base: Any, name: str) -> Any:
        """An attribute of an object of the file's own."""
        if not isinstance(base, (Instance, Module)):
            raise AttributeError(name)
        return _plain(attributes.load(self._m, base, name, self._node))


def _plain(value: Any) -> Any:
    """Lists and dicts of constants as Python's own; anything else as it is."""
    if isinstance(value, List) and not value.open and all(map(is_constant, value.items)):
        return list(value.items)
    if isinstance(value, Dict) and not value.open and all(map(is_constant, value.items.values())):
        return dict(value.items)
    return value


# Names, each with the kind and the type of the norm layer that it is of, if it is of one.
_Norm = tuple[str, str] | None


def _parameters(module: Module, prefix: str = "") -> Iterator[tuple[str, _Norm]]:
    if structure.is_folded(module):
        yield from _of_node(module.architecture, prefix)
        return
    for name in module.params:
        yield prefix + name, _norm(module.norm, module.type)
    for name, child in module.children.items():
        yield from _parameters(child, f"{prefix}{name}.")


def _of_node(node: Any, prefix: str) -> Iterator[tuple[str, _Norm]]:
    for name in node.params:
        yield prefix + name, _norm(node.norm, node.type)
    for name, child in node.children.items():
        yield from _of_node(child, f"{prefix}{name}.")


def _modules(module: Module, path: str = "") -> Iterator[tuple[str, _Norm]]:
    if structure.is_folded(module):
        yield from _below_node(module.architecture, path)
        return
    yield path, _norm(module.norm, module.type) if module.params else None
    for name, child in module.children.items():
        yield from _modules(child, f"{path}.{name}" if path else name)


def _below_node(node: Any, path: str) -> Iterator[tuple[str, _Norm]]:
    yield path, _norm(node.norm, node.type) if node.params else None
    for name, child in node.children.items():
        yield from _below_node(child, f"{path}.{name}" if path else name)


def _children(module: Module) -> Iterator[tuple[str, _Norm]]:
    known = module.architecture if structure.is_folded(module) else module
    for name in known.children:
        yield name, None


def _norm(kind: str | None, type: str) -> _Norm:
    return (kind, type.rpartition(".")[2]) if kind else None


_LISTED = {
    "named_parameters": _parameters,
    "named_modules": _modules,
    "named_children": _children,
}
