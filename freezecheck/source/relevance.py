"""Does it matter which way a branch goes? Most branches print, log or choose a file name.

A branch that matters is decided, and both ways are tried. Of one that does not, only
the names that it binds are forgotten.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from freezecheck.program import Module, Optimizer, Param, Scheduler
from freezecheck.source.machine import Machine
from freezecheck.source.scope import MISSING
from freezecheck.source.values import Class, Dict, Function, Iterator, List, Unknown, is_constant

# Words that an identifier has if it may touch what we follow: what is done to a model,
_DONE = (
    r"require\w*grad|freez|frozen"
    r"|train(?!_?(load|data|set|dl|ds|path|dir|file|loss|acc|step|idx|size|batch|ing$))"
    r"|^eval$|optim|sched|^step$|backward|parallel|shard|load_state|lora|peft|pretrain|^weights$"
    r"|^SGD$|Adam|RMSprop|^fit$"
)
# and what it is built of. In its own constructor and `forward`, choices of this kind are legion,
# and of no consequence for training.
_BUILT = (
    r"grad|param|compile|adapter|weights|^fc$|classifier|^head|Linear|Sequential|Conv|Norm|^apply$"
    r"|modules|children|^wrap|prepare|register|softmax|requires|training|regulari[sz]er"
)
_DEEDS = re.compile(_DONE, re.IGNORECASE)
_WORDS = re.compile(f"{_DONE}|{_BUILT}", re.IGNORECASE)
_QUIET = frozenset("print log info debug warning write add_scalar log_metrics append_log".split())
_THINGS = (Module, Param, Optimizer, Scheduler, Class, List, Dict, Iterator)


def matters(m: Machine, body: list[ast.stmt]) -> bool:
    """Which way a branch with these statements goes may change what we follow."""
    return any(_speaks(m, statement) for statement in body) or any(
        isinstance(_bound(m, name), _THINGS) for name in names(body)
    )


def _bound(m: Machine, name: str) -> Any:
    value = m.scope.get(name)
    if isinstance(value, (List, Dict)):
        items = value.items.values() if isinstance(value, Dict) else value.items
        return (
            None if all(is_constant(item) or isinstance(item, Unknown) for item in items) else value
        )
    return None if value is MISSING else value


def _speaks(m: Machine, statement: ast.stmt, depth: int = 0) -> bool:
    kind = type(statement)
    if kind in (ast.Return, ast.Break, ast.Continue) and not m.building:
        return True
    if kind is ast.Expr:
        value = statement.value  # type: ignore[attr-defined]
        if isinstance(value, ast.Call) and _called(value) in _QUIET:
            return False
    if m.building:
        return any(_DEEDS.search(word) for word in words(statement))
    if speaks_of(statement):
        return True
    for node in ast.walk(statement):
        if isinstance(node, (ast.Return, ast.Break, ast.Continue)) and depth == 0:
            return True
        if isinstance(node, ast.Call) and depth < 3 and _calls_one_that_speaks(m, node, depth):
            return True
    return False


def _calls_one_that_speaks(m: Machine, call: ast.Call, depth: int) -> bool:
    """It calls a function of the file's own that may touch what we follow."""
    function = m.scope.get(call.func.id) if isinstance(call.func, ast.Name) else None
    if not isinstance(function, Function) or not isinstance(function.node.body, list):
        return False
    inner = [each for each in function.node.body if not isinstance(each, ast.Return)]
    return any(_speaks(m, each, depth + 1) for each in inner)


def speaks_of(node: ast.AST) -> bool:
    """One of its identifiers is a word for what we follow."""
    return any(_WORDS.search(word) for word in words(node))


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


_seen: dict[int, tuple[ast.AST, frozenset[str]]] = {}


def words(statement: ast.AST) -> frozenset[str]:
    """The identifiers in a statement."""
    entry = _seen.get(id(statement))
    if entry is not None and entry[0] is statement:
        return entry[1]
    found: set[str] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
    _seen[id(statement)] = statement, frozenset(found)
    return _seen[id(statement)][1]


def names(body: list[ast.stmt]) -> set[str]:
    """The names that statements bind."""
    return {
        node.id
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    }


def forget(m: Machine, body: list[ast.stmt], node: Any) -> None:
    """Names bound in a branch that may or may not be taken are not known behind it."""
    for name in names(body):
        m.scope.set(name, Unknown(f"{name}{m.spot(node)}"))


def reset() -> None:
    """Let go of the trees that were looked at."""
    _seen.clear()
