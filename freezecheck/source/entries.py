"""Where a file can be entered: as a script, and by each function and class that the script
itself never gets to, with arguments of which nothing is known."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from typing import Any

from freezecheck.source import calls, digest
from freezecheck.source.calls import Call
from freezecheck.source.machine import Machine
from freezecheck.source.values import Class, Function, Instance, Unknown

# Words without which a function does nothing that a rule speaks about.
_DEEDS = re.compile(
    r"require\w*grad|freez|frozen|^optim|optimizer|^SGD$|^Adam|^backward$|^step$|sched|trainable"
    r"|from_pretrained|^eval$|^train$|parameters$|Parallel$|load_state_dict|^compile$|^fit|Trainer"
    r"|^out_(features|channels)$|track_running|^checkpoint$",
    re.IGNORECASE,
)


class Entry:
    """One way in. `nodes` are the functions that it is there for, `ways` how many ways
    through it are tried."""

    def __init__(
        self, name: str, run: Callable[[Machine], None], nodes: list[Any], ways: int
    ) -> None:
        self.name = name
        self.run = run
        self.nodes = nodes
        self.ways = ways

    def covered(self, reached: set[int]) -> bool:
        """All of it has been run already."""
        return all(id(node) in reached for node in self.nodes)


def script(tree: ast.Module) -> Entry:
    """The file itself, as `python train.py` runs it."""

    def run(m: Machine) -> None:
        m.scope.names["__name__"] = "__main__"
        m.run(tree.body)

    return Entry("", run, [], 32)


def define(m: Machine, tree: ast.Module) -> None:
    """The definitions of a file, as an import makes them."""
    m.scope.names["__name__"] = m.file.name
    m.run(tree.body)


def others(tree: ast.Module) -> Iterator[Entry]:
    """Functions and classes, those that call others first; they need `define`."""
    for node in reversed(_definitions(tree)):
        if isinstance(node, ast.ClassDef):
            yield from _class(node)
        elif _matters(node):
            yield Entry(node.name, _function(node), [node], 12)


def _definitions(tree: ast.Module) -> list[Any]:
    found: list[Any] = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.append(node)
        elif isinstance(node, (ast.If, ast.Try)):
            found += [n for n in ast.walk(node) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return found


def _matters(node: Any) -> bool:
    return any(_DEEDS.search(word) for word in digest.of(node).words)


def _function(node: Any) -> Callable[[Machine], None]:
    def run(m: Machine) -> None:
        function = m.scope.get(node.name)
        if isinstance(function, Function):
            calls.invoke(m, function, [], {}, None)

    return run


def _class(node: ast.ClassDef) -> Iterator[Entry]:
    """Each method that matters, of an object made of what is not known; the whole life of a
    LightningModule that the file does not fit itself."""
    methods = [
        each for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    life = [each for each in methods if each.name in ("configure_optimizers", "training_step")]
    if len(life) == 2:
        yield Entry(node.name, _life(node, life[-1]), life, 16)
    for each in reversed(methods):
        if _matters(each) or (each.name == "__init__" and _may_hide(each)):
            yield Entry(f"{node.name}.{each.name}", _method(node, each), [each], 6)


def _may_hide(node: Any) -> bool:
    """A constructor sets an attribute to a list or a dict, which may hold modules, or to what
    a method makes of a parameter."""
    plain = (ast.List, ast.ListComp, ast.Dict, ast.DictComp, ast.Tuple)
    return any(
        isinstance(each, ast.Assign)
        and (isinstance(each.value, plain) or _is_made_of_parameter(each.value))
        and isinstance(each.targets[0], ast.Attribute)
        for each in ast.walk(node)
    )


def _is_made_of_parameter(value: ast.expr) -> bool:
    """`nn.Parameter(...).cuda()`."""
    made = value.func.value if _is_method_call(value) else None  # type: ignore[attr-defined]
    return isinstance(made, ast.Call) and ast.unparse(made.func).endswith("Parameter")


def _is_method_call(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute)


def _method(node: ast.ClassDef, method: Any) -> Callable[[Machine], None]:
    def run(m: Machine) -> None:
        cls = m.scope.get(node.name)
        if not isinstance(cls, Class):
            return
        made = instance(m, cls, node)
        function = cls.find(method.name)
        if isinstance(function, Function) and method.name != "__init__":
            calls.invoke(m, function, [made], {}, None)

    return run


def _life(node: ast.ClassDef, step: Any) -> Callable[[Machine], None]:
    def run(m: Machine) -> None:
        from freezecheck.source import lightning

        cls = m.scope.get(node.name)
        if lightning.is_lightning(cls):
            place = ast.copy_location(ast.Pass(), step)
            place.end_lineno, place.end_col_offset = step.lineno, step.col_offset + len("def")
            lightning.live_alone(m, instance(m, cls, node), place)

    return run


def instance(m: Machine, cls: Class, node: Any, known: dict[str, Any] | None = None) -> Any:
    """An object of a class, made with arguments that are not known, but for some."""
    start = cls.find("__init__")
    names = [a.arg for a in start.node.args.args[1:]] if isinstance(start, Function) else []
    given = {
        name: Unknown(name)
        for name in names
        if isinstance(start, Function) and name not in start.defaults
    }
    made = calls.make(m, cls, Call(node, [], {**given, **(known or {})}))
    return made if made is not None else Instance(cls, "self")
