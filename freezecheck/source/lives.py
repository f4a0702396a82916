"""What training loops of frameworks have in common: batches, a step, a validation pass."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from freezecheck import program
from freezecheck.program import Module, Optimizer, Scheduler
from freezecheck.source import calls, modules, optim
from freezecheck.source.calls import Call
from freezecheck.source.machine import Machine
from freezecheck.source.values import Class, Dict, Function, Instance, List, Tensor, Unknown

PASSES = 2
_EPOCHS = 8


def own(m: Machine, owner: Any, name: str, args: list[Any], node: Any, **named: Any) -> Any:
    """Run a method that a class of the file's own defines; NotImplemented where none does.

    It is given as many of the arguments as it takes.
    """
    cls = getattr(owner, "cls", None)
    found = cls.find(name) if isinstance(cls, Class) else None
    if not isinstance(found, Function):
        return NotImplemented
    spec = found.node.args
    taken = {a.arg for a in (*spec.args, *spec.kwonlyargs)}
    if spec.kwarg is None:
        named = {k: v for k, v in named.items() if k in taken}
    if spec.vararg is None:
        args = args[: len(spec.args) - 1]
    return calls.invoke(m, found, [owner, *args], named, node)


def defines(owner: Any, name: str) -> bool:
    """A class of the file's own, among those of `owner`, defines this method."""
    cls = getattr(owner, "cls", None)
    return isinstance(cls, Class) and isinstance(cls.find(name), Function)


def batch(m: Machine, number: int = 0) -> Unknown:
    """Something that a loader gives."""
    m.streams.add("<batch>[")
    return Unknown(f"<batch>[{number}]")


def epochs(m: Machine, node: Any, numbers: Iterable[int], last: Any = None) -> Iterator[int]:
    """The epochs to go through: the first two, and those around telling numbers."""
    chosen = {0, 1, *(n + d for n in numbers for d in (-1, 0, 1))}
    if isinstance(last, int) and last > 0:
        chosen = {n for n in chosen if n < last}
    for number in sorted(n for n in chosen if n >= 0)[:_EPOCHS]:
        with m.passing(node, number):
            yield number


def compared_with_epoch(cls: Class | None, owner: Any) -> set[int]:
    """The numbers that the methods of a class compare an epoch with."""
    found: set[int] = set()
    for each in cls.mro() if cls is not None else ():
        for part in ast.walk(each.node):
            if isinstance(part, ast.Compare) and "epoch" in ast.unparse(part):
                found.update(_numbers(part, owner))
    return found


def _numbers(part: ast.Compare, owner: Any) -> Iterator[int]:
    for node in ast.walk(part):
        value: Any = None
        if isinstance(node, ast.Constant):
            value = node.value
        elif isinstance(node, ast.Attribute):
            value = owner.attributes.get(node.attr)
        values = value.items if isinstance(value, (List, Dict)) else (value,)
        yield from (v for v in values if isinstance(v, int) and not isinstance(v, bool))


def loss_of(value: Any) -> Any:
    """The loss in what a training step gives."""
    if isinstance(value, Dict):
        return value.items.get("loss")
    if isinstance(value, (tuple, List)):
        items = value.items if isinstance(value, List) else value
        return items[0] if items else None
    return value


def backward(m: Machine, loss: Any, node: Any) -> None:
    """The framework calls backward."""
    m.event(program.BACKWARD, node, loss if isinstance(loss, Tensor) else None)


def step(m: Machine, optimizer: Any, node: Any) -> None:
    """The framework steps an optimizer."""
    if isinstance(optimizer, Optimizer):
        optim.step(m, optimizer, node)
    elif isinstance(optimizer, Instance):
        own(m, optimizer, "step", [], node)


def zero_grad(m: Machine, subject: Any, node: Any) -> None:
    """The framework clears gradients."""
    if isinstance(subject, (Optimizer, Module)):
        m.event(program.ZERO_GRAD, node, subject, value=True)


def schedule(m: Machine, schedulers: Iterable[Any], node: Any) -> None:
    """The framework steps schedulers."""
    for scheduler in schedulers:
        if isinstance(scheduler, Scheduler):
            scheduler.steps.append(m.event(program.SCHEDULE, node, scheduler))


def validate(m: Machine, module: Module, node: Any, run: Callable[[], Any]) -> None:
    """A validation pass after which each module has the mode that it had."""
    before = {each.id: each.training for each in module.walk()}
    modules.turn(m, module, False, node)
    with m.gradient(False):
        run()
    _restore(m, module, before, node)


def _restore(m: Machine, module: Module, before: dict[int, bool | None], node: Any) -> None:
    every = {before.get(each.id, each.training) for each in module.walk()}
    value = before.get(module.id, module.training)
    m.write_mode(node, module, value, deep=len(every) == 1, via="validation")
    if len(every) > 1:
        for child in module.children.values():
            _restore(m, child, before, node)


def call(m: Machine, function: Any, args: list[Any], node: Any) -> Any:
    """Call a value that the program handed to the framework."""
    return calls.call(m, function, Call(node, args))
