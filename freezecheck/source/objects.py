"""Objects of libraries: a `Trainer`, a `GradScaler`. They keep what they were made with;
what their methods do is registered here by those who know (`on`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from freezecheck.source import calls
from freezecheck.source.calls import Call
from freezecheck.source.knowledge import frameworks
from freezecheck.source.machine import Machine
from freezecheck.source.values import Class, Function, Object, Super, Unknown

Behaviour = Callable[[Machine, Any, Call], Any]
_BEHAVIOURS: dict[tuple[str, str], Behaviour] = {}
_met: set[str] = set()


def meet(name: str) -> None:
    """A file imports this: load what is known about its package."""
    home = frameworks.home(name.partition(".")[0])
    if home is not None and home not in _met:
        _met.add(home)
        import_module(f"freezecheck.source.{home}")


def on(kinds: str, *names: str) -> Callable[[Behaviour], Behaviour]:
    """Registers what methods of these names do, of objects of these classes."""

    def register(function: Behaviour) -> Behaviour:
        _BEHAVIOURS.update(((kind, name), function) for kind in kinds.split() for name in names)
        return function

    return register


def make(m: Machine, name: str, given: Call) -> Any:
    """An object of a library's class."""
    kind = frameworks.find(name)
    if kind is None:
        return NotImplemented
    made = Object(kind, None, f"<{kind}{m.spot(given.node)}>")
    _fill(made, given)
    return made


def make_own(m: Machine, cls: Class, given: Call) -> Any:
    """An object of a class of the file's own that descends from one."""
    kind = next(filter(None, map(frameworks.find, cls.libraries())), None)
    if kind is None:
        return NotImplemented
    made = Object(kind, cls, f"<{cls.name}{m.spot(given.node)}>")
    start = cls.find("__init__")
    if isinstance(start, Function):
        calls.invoke(m, start, [made, *given.args], given.keywords, given.node, given.open)
    else:
        _fill(made, given)
    return made


def _fill(made: Object, given: Call) -> None:
    arguments = frameworks.arguments(made.type)
    bound = arguments.bind(given.args, given.keywords)
    made.attributes.update(arguments.defaults)
    made.attributes.update(given.keywords if bound is None else bound)
    made.open = given.open or bound is None


def method(m: Machine, owner: Any, name: str, given: Call) -> Any:
    """A method that such an object has from its library."""
    if isinstance(owner, Super) and isinstance(owner.owner, Object):
        owner = owner.owner
        if name == "__init__":
            _fill(owner, given)
            return None
    if isinstance(owner, Object):
        kind = owner.type
    elif isinstance(owner, Unknown):
        words = re.findall(r"\w+", owner.key[-80:])[-1:]  # "main(accelerator)", "self.scaler"
        kind = frameworks.NAMED.get("".join(words), "")
        meet(kind)
    else:
        return NotImplemented
    function = _BEHAVIOURS.get((kind, name))
    return NotImplemented if function is None else function(m, owner, given)


def act(m: Machine, owner: Object, name: str, given: Call) -> Any:
    """What a library's own method of that name does; NotImplemented where that is not known."""
    function = _BEHAVIOURS.get((owner.type, name))
    return NotImplemented if function is None else function(m, owner, given)


def of_class(m: Machine, name: str, given: Call) -> Any:
    """A method that is called on the class: `BaseFinetuning.freeze(layer)`."""
    path, _, short = name.rpartition(".")
    function = _BEHAVIOURS.get((frameworks.find(path) or "", short))
    return NotImplemented if function is None else function(m, None, given)


calls.PATTERNS[:0] = [make, of_class]
calls.MAKERS.insert(0, make_own)
calls.METHODS.insert(0, method)
