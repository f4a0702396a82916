"""Loops over (name, thing) pairs in a file: `for name, p in model.named_parameters()`.

Found by the line that asks for the names, also where `enumerate` or a variable
stands between (`pairs = list(model.named_parameters())`, `for n, p in pairs`).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from typing import Any

from freezecheck.names.literals import Scope
from freezecheck.records import dataclass

METHODS = {
    "named_parameters": "parameters",
    "named_modules": "modules",
    "named_children": "children",
}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_TRANSPARENT = ("enumerate", "iter", "list", "reversed", "sorted", "tqdm", "tuple")


@dataclass(slots=True)
class Loop:
    """One loop. `node` is a `for` or a comprehension, `name` and `thing` its variables."""

    node: ast.AST
    name: str
    thing: str
    parent: ast.AST | None
    scope: Scope


def by_line(tree: ast.AST) -> dict[tuple[int, str], list[Loop]]:
    """Loops by the lines of the call that asks for their names, and its method."""
    return _File(tree).loops()


class _File:
    def __init__(self, tree: ast.AST) -> None:
        self._tree = tree
        self._parents = {c: node for node in ast.walk(tree) for c in ast.iter_child_nodes(node)}
        self._stored: dict[ast.AST, Counter[str]] = {}
        self._assigned: dict[ast.AST, dict[str, ast.expr]] = {}

    def loops(self) -> dict[tuple[int, str], list[Loop]]:
        """See `by_line`."""
        calls: dict[tuple[int, str], list[ast.Call]] = {}
        for node in self._parents:
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in METHODS
            ):
                for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                    calls.setdefault((line, node.func.attr), []).append(node)
        found: dict[tuple[int, str], list[Loop]] = {}
        for key, asking in calls.items():
            # Several calls on one line are told apart only if all ask the same module.
            if len({ast.dump(call.func) for call in asking}) == 1:
                loops = [loop for call in asking for loop in self._over(call, later=False)]
                if loops:
                    found[key] = loops
        return found

    def _over(self, call: ast.AST, later: bool) -> Iterator[Loop]:
        """The loops that go through what `call` gives, at once or `later`, from a variable."""
        node, indexed = call, False
        while _is_transparent(up := self._parents.get(node), node):
            indexed = indexed or up.func.id == "enumerate"  # type: ignore[union-attr]
            node = up  # type: ignore[assignment]
        if isinstance(up, (ast.For, ast.AsyncFor)) and up.iter is node:
            yield from self._loop(up, up.target, indexed, later)
        elif isinstance(up, ast.comprehension) and up.iter is node:
            yield from self._loop(self._parents[up], up.target, indexed, later)
            if _hands_pairs_on(self._parents[up]):
                yield from self._over(self._parents[up], later)
        elif isinstance(up, ast.Assign) and isinstance(up.targets[0], ast.Name) and not indexed:
            function, variable = self._function(up), up.targets[0].id
            if self._sets(function)[variable] == 1:
                for name in ast.walk(function):
                    if (
                        isinstance(name, ast.Name)
                        and name.id == variable
                        and isinstance(name.ctx, ast.Load)
                    ):
                        yield from self._over(name, later=True)

    def _loop(self, node: ast.AST, target: ast.expr, indexed: bool, later: bool) -> Iterator[Loop]:
        """The loop at `node`, if it unpacks pairs."""
        pair = _pair(target)
        if indexed and pair:
            pair = _pair(pair[1])
        if not pair or not all(isinstance(part, ast.Name) for part in pair):
            return
        name, thing = pair[0].id, pair[1].id  # type: ignore[attr-defined]
        body = node.body if isinstance(node, (ast.For, ast.AsyncFor)) else []
        within = _stores(*body)
        if name not in within:  # else its tests are on other strings than the names
            scope = self._scope(node, body, within, later)
            yield Loop(node, name, thing, self._parents.get(node), scope)

    def _scope(
        self, node: ast.AST, body: list[ast.stmt], within: Counter[str], later: bool
    ) -> Scope:
        """The variables of the tests in a loop; `within` are those that its body sets."""
        inner = [n for statement in body for n in ast.walk(statement) if isinstance(n, ast.For)]
        around: dict[str, ast.expr] = {}
        for loop in (*inner, *self._outer(node)):
            if isinstance(loop.target, ast.Name):
                around.setdefault(loop.target.id, loop.iter)
        turning = {loop.target.id for loop in inner if isinstance(loop.target, ast.Name)}
        hidden = {name for name, times in within.items() if name not in turning or times > 1}
        function = self._function(node)
        if later:
            sets = self._sets(function)
            hidden |= {name for name, times in sets.items() if times > 1 and name not in around}
        return Scope(around, self._assignments(function), hidden)

    def _outer(self, node: ast.AST) -> Iterator[Any]:
        """The loops around `node`, up to its function."""
        if isinstance(node, COMPREHENSIONS):
            yield from node.generators
        up = self._parents.get(node)
        while up is not None and not isinstance(up, FUNCTIONS):
            if isinstance(up, (ast.For, ast.AsyncFor)):
                yield up
            elif isinstance(up, (*COMPREHENSIONS, ast.DictComp)):
                yield from up.generators
            up = self._parents.get(up)

    def _function(self, node: ast.AST) -> ast.AST:
        """The function around, or the whole file."""
        while node in self._parents and not isinstance(node, FUNCTIONS):
            node = self._parents[node]
        return node

    def _sets(self, function: ast.AST) -> Counter[str]:
        """How often a function sets each of its variables."""
        if function not in self._stored:
            self._stored[function] = _stores(function)
        return self._stored[function]

    def _assignments(self, function: ast.AST) -> dict[str, ast.expr]:
        """What the variables that are set once are set to."""
        if function not in self._assigned:
            self._assigned[function] = {
                n.targets[0].id: n.value
                for n in ast.walk(function)
                if isinstance(n, ast.Assign)
                and isinstance(n.targets[0], ast.Name)
                and self._sets(function)[n.targets[0].id] == 1
            }
        return self._assigned[function]


def _is_transparent(up: ast.AST | None, node: ast.AST) -> bool:
    """`enumerate(...)` and the like, which hand on what they get."""
    return (
        isinstance(up, ast.Call)
        and isinstance(up.func, ast.Name)
        and up.func.id in _TRANSPARENT
        and up.args[:1] == [node]
    )


def _hands_pairs_on(node: ast.AST) -> bool:
    """`[(n, p) for n, p in model.named_parameters() if p.requires_grad]`: pairs as before."""
    if not isinstance(node, (ast.ListComp, ast.GeneratorExp)) or len(node.generators) != 1:
        return False
    generator = node.generators[0]
    names = [[getattr(part, "id", None) for part in _pair(e)] for e in (generator.target, node.elt)]
    tested = {n.id for test in generator.ifs for n in ast.walk(test) if isinstance(n, ast.Name)}
    return names[0] == names[1] != [] and names[0][0] not in tested


def _pair(target: ast.expr) -> list[ast.expr]:
    """The two parts of `a, b`; nothing for anything else."""
    return target.elts if isinstance(target, ast.Tuple) and len(target.elts) == 2 else []


def _stores(*nodes: ast.AST) -> Counter[str]:
    """How often each variable is set in `nodes`."""
    return Counter(
        n.id
        for node in nodes
        for n in ast.walk(node)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    )
