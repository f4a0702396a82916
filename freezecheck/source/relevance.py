"""Does it matter which way a branch goes? Most branches print, log or choose a file name.

A branch that matters is decided, and both ways are tried. Of one that does not, only
the names that it binds are forgotten.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import Any

from freezecheck.program import Module, Optimizer, Param, Scheduler
from freezecheck.source import digest
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
    if isinstance(statement, ast.Expr):
        value = statement.value
        if isinstance(value, ast.Call) and _called(value) in _QUIET:
            return False
    if m.building:
        return does(statement)
    inner = digest.of(statement)
    if speaks_of(statement) or (inner.leaves and depth == 0):
        return True
    return depth < 3 and any(_one_speaks(m, name, depth) for name in inner.calls)


def _one_speaks(m: Machine, name: str, depth: int) -> bool:
    """A function of the file's own may touch what we follow."""
    function = m.scope.get(name)
    if not isinstance(function, Function) or not isinstance(function.node.body, list):
        return False
    inner = [each for each in function.node.body if not isinstance(each, ast.Return)]
    return any(_speaks(m, each, depth + 1) for each in inner)


@cache
def _kind(word: str) -> int:
    """2: a word for what is done to a model, 1: for what it is built of, 0: for neither."""
    return 2 if _DEEDS.search(word) else 1 if _WORDS.search(word) else 0


def speaks_of(node: ast.AST) -> bool:
    """One of its identifiers is a word for what we follow."""
    return any(map(_kind, digest.of(node).words))


def does(node: ast.AST) -> bool:
    """One of its identifiers is a word for what is done to a model."""
    return any(_kind(word) == 2 for word in digest.of(node).words)


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def names(body: list[ast.stmt]) -> set[str]:
    """The names that statements bind."""
    return set().union(*(digest.of(statement).binds for statement in body))


def forget(m: Machine, body: list[ast.stmt], node: Any) -> None:
    """Names bound in a branch that may or may not be taken are not known behind it."""
    for name in names(body):
        m.scope.set(name, Unknown(f"{name}{m.spot(node)}"))
