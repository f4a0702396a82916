"""What a function returned, sorted: models, optimizers, schedulers, batches, losses.

Things are told by what they are: a pair of a model and an optimizer needs no names. Keys of
dicts and fields of dataclasses become their labels, and decide where the thing itself does not
(a criterion with parameters is a module like any other).
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import SimpleNamespace
from typing import Any

from freezecheck.live import values

_LOSS = re.compile(r"loss|criteri|objective", re.IGNORECASE)
_BATCHES = re.compile(r"load|batch|data|^dl$|_dl$", re.IGNORECASE)
_SAMPLES = re.compile(r"dataset|sample|_set$|^ds$|_ds$", re.IGNORECASE)
_HELD_OUT = re.compile(r"val|test|eval|dev|held", re.IGNORECASE)
_DEEPEST = 4  # containers within containers


@dataclass(slots=True)
class Returned:
    """The things returned, each once; keys are labels."""

    models: dict[str, Any] = field(default_factory=dict)
    optimizers: dict[str, Any] = field(default_factory=dict)
    schedulers: dict[str, Any] = field(default_factory=dict)
    loader: Any = None  # an iterable of training batches
    loss: Any = None  # a callable
    others: tuple[str, ...] = ()  # what is none of these, in words


def variables(function: Any, number: int) -> list[str] | None:
    """What a function calls the things of the tuple that it returns, "" for those without a
    name; None if no single `return` of its text has so many."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, SyntaxError, TypeError, ValueError):
        return None
    tuples = [
        node.value.elts
        for node in ast.walk(tree)
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple)
    ]
    fitting = [parts for parts in tuples if len(parts) == number]
    if len(fitting) != 1 or any(isinstance(part, ast.Starred) for part in fitting[0]):
        return None
    return [_variable(part) for part in fitting[0]]


def _variable(part: ast.expr) -> str:
    """`net`; `self.net`; else nothing."""
    return ast.unparse(part) if isinstance(part, (ast.Name, ast.Attribute)) else ""


def sort(returned: Any, function: Any = None) -> Returned:
    """Recognise what `returned`, one object or a container of several, is made of; the things
    of a tuple are called as in the text of the `function` that returned it."""
    found: dict[str, list[tuple[str, Any]]] = {}
    seen: set[int] = set()
    named = type(returned) is tuple and variables(function, len(returned))
    items = zip(named, returned) if named else [("", returned)]
    for label, item in (each for pair in items for each in _items(*pair, _DEEPEST)):
        if id(item) not in seen:
            seen.add(id(item))
            found.setdefault(_kind(label, item), []).append((label, item))
    modules = found.get("model", [])
    models = [m for _, m in modules if next(m.parameters(), None) is not None]
    parts = {id(part) for m in models for part in m.modules() if part is not m}
    bare = [(label, m) for label, m in modules if not any(m is other for other in models)]
    functions = [*found.get("loss", []), *found.get("function", [])]
    if not found.get("loss"):
        functions = [*bare, *functions]  # a criterion of one's own is a module without parameters
    learning = [(label, m) for label, m in found.get("loss", []) if _learns(m)]
    return Returned(
        _labelled([(k, m) for k, m in modules if _learns(m) and id(m) not in parts], "model")
        | _labelled(learning, "loss"),
        _labelled(found.get("optimizer", []), "optimizer"),
        _labelled(found.get("scheduler", []), "scheduler"),
        _training(found.get("loader", [])),
        _one(found.get("loss") or functions),
        tuple(f"{label} ({type(x).__name__})".strip() for label, x in found.get("other", [])),
    )


def _items(label: str, item: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """The things in a container, with their labels; a thing that is none, itself."""
    if item is None:
        return
    inside: list[tuple[str, Any]] | None = None
    if isinstance(item, Mapping):
        inside = [(str(key), value) for key, value in item.items()]
    elif isinstance(item, SimpleNamespace):
        inside = list(vars(item).items())
    elif is_dataclass(item) and not isinstance(item, type) and not _is_module(item):
        inside = [(f.name, getattr(item, f.name, None)) for f in fields(item)]
    elif isinstance(item, tuple) and hasattr(item, "_fields"):
        inside = list(zip(item._fields, item))
    elif isinstance(item, (list, tuple)) and not _is_batches(item):
        several = bool(label) and len(item) > 1
        inside = [(f"{label}[{i}]" if several else label, each) for i, each in enumerate(item)]
    elif _kind(label, item) == "other" and _holds_optimizer(item):
        inside = [(k, v) for k, v in vars(item).items() if _kind(k, v) != "other"]
    if inside is None or not depth:
        yield label, item
        return
    for key, value in inside:
        yield from _items(key, value, depth - 1)


def _kind(label: str, item: Any) -> str:
    """Which of the things a setup is made of this is."""
    torch = values.torch()
    if isinstance(item, torch.optim.Optimizer):
        return "optimizer"
    if isinstance(item, torch.nn.modules.loss._Loss):
        return "loss"
    if _is_module(item):
        return "loss" if _LOSS.search(label) else "model"
    if isinstance(item, torch.amp.GradScaler):
        return "scaler"
    if hasattr(item, "step") and (hasattr(item, "optimizer") or hasattr(item, "optimizers")):
        return "scheduler"
    if isinstance(item, torch.utils.data.DataLoader):
        return "loader"
    if _is_batches(item):
        return "other" if _SAMPLES.search(label) else "loader"
    if hasattr(item, "__next__") or (hasattr(item, "__iter__") and _BATCHES.search(label)):
        return "other" if isinstance(item, (str, bytes, torch.Tensor)) else "loader"
    if callable(item) and not isinstance(item, type):
        return "loss" if _LOSS.search(label) else "function"
    return "other"


def _holds_optimizer(item: Any) -> bool:
    """A trainer of the user's own: an object whose attributes are the setup."""
    optimizer = values.torch().optim.Optimizer
    return any(isinstance(value, optimizer) for value in getattr(item, "__dict__", {}).values())


def _is_module(item: Any) -> bool:
    return isinstance(item, values.torch().nn.Module)


def _learns(module: Any) -> bool:
    """It has parameters of its own."""
    return _is_module(module) and next(module.parameters(), None) is not None


def _is_batches(item: Any) -> bool:
    """A list of batches: pairs or dicts of tensors."""
    if not isinstance(item, (list, tuple)) or not item:
        return False
    first = item[0]
    inside = list(first.values()) if isinstance(first, Mapping) else first
    return (
        isinstance(inside, (list, tuple))
        and bool(inside)
        and isinstance(inside[0], values.torch().Tensor)
    )


def _training(loaders: list[tuple[str, Any]]) -> Any:
    """The loader that is trained on."""
    fitting = [item for label, item in loaders if not _HELD_OUT.search(label)]
    return next(iter(fitting or [item for _, item in loaders]), None)


def _one(candidates: list[tuple[str, Any]]) -> Any:
    """The thing, if there is no choice."""
    return candidates[0][1] if len(candidates) == 1 else None


def _labelled(things: list[tuple[str, Any]], fallback: str) -> dict[str, Any]:
    labels: dict[str, Any] = {}
    for index, (label, item) in enumerate(things):
        label = label or (fallback if len(things) == 1 else f"{fallback}s[{index}]")
        while label in labels:
            label += "'"
        labels[label] = item
    return labels
