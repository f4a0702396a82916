"""What a name can stand for while a text is run in the mind.

Numbers, strings, None, True, False and tuples are themselves. Modules, parameters,
groups, optimizers and schedulers are those of `program.py`. The rest is here.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    from freezecheck.finding import Site
    from freezecheck.program import Event, Module, Param
    from freezecheck.source.scope import Scope

CONSTANTS = (str, int, float, bool, type(None), bytes, complex, type(Ellipsis))


class Unknown:
    """A value that is not known. Two of the same `key` are equal.

    `origin` is the module and the attribute that it was read from: it may turn out to
    be a module.
    """

    __slots__ = ("key", "origin")

    def __init__(self, key: str, origin: tuple[Any, str] | None = None) -> None:
        # Keys of keys grow without end in a loop; of a long one its beginning and a sum will do.
        self.key = key if len(key) <= 400 else f"{key[:200]}~{len(key)}~{crc32(key.encode())}"
        self.origin = origin

    def __repr__(self) -> str:
        return f"Unknown({self.key})"


class Library:
    """Something that a library defines, by its dotted name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Library({self.name})"


class Function:
    """A function of the file's own, or a lambda; `owner` is the class it is defined in."""

    __slots__ = ("defaults", "name", "node", "owner", "scope")

    def __init__(
        self,
        node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda,
        scope: Scope,
        owner: Class | None = None,
    ) -> None:
        self.node = node
        self.scope = scope
        self.owner = owner
        self.name = getattr(node, "name", "<lambda>")
        self.defaults: dict[str, Any] = {}

    @property
    def decorators(self) -> list[ast.expr]:
        """Its decorators, outermost first."""
        return getattr(self.node, "decorator_list", [])


class Class:
    """A class of the file's own. `bases` are values; `members` what its body binds."""

    __slots__ = ("bases", "members", "name", "node", "scope")

    def __init__(self, node: ast.ClassDef, bases: list[Any], scope: Scope) -> None:
        self.node = node
        self.name = node.name
        self.bases = bases
        self.scope = scope
        self.members: dict[str, Any] = {}

    def mro(self) -> list[Class]:
        """Its own classes, most derived first (depth first, which is near enough)."""
        found = [self]
        for base in self.bases:
            if isinstance(base, Class):
                found += [c for c in base.mro() if c not in found]
        return found

    def libraries(self) -> list[str]:
        """Dotted names of the library classes that it descends from."""
        return [b.name for c in self.mro() for b in c.bases if isinstance(b, Library)]

    def find(self, name: str, after: Class | None = None) -> Any:
        """What a class of the file's own defines under that name, or None; behind class
        `after` in the order of resolution, where given."""
        chain = self.mro()
        if after in chain:
            chain = chain[chain.index(after) + 1 :]
        return next((c.members[name] for c in chain if name in c.members), None)


class Instance:
    """An object of one of the file's own classes that is no module."""

    __slots__ = ("attributes", "cls", "key")

    def __init__(self, cls: Class | None, key: str = "") -> None:
        self.cls = cls
        self.key = key
        self.attributes: dict[str, Any] = {}


class Object(Instance):
    """An object of a library's class, or of a class of the file's own that descends from one:
    `type` is the library's. `open`: it was made with arguments that are not known."""

    __slots__ = ("open", "type")

    def __init__(self, type: str, cls: Class | None, key: str) -> None:
        super().__init__(cls, key)
        self.type = type
        self.open = False


class Method:
    """A method of an object: of its class where `function` is given, else the library's own."""

    __slots__ = ("function", "name", "owner")

    def __init__(self, owner: Any, name: str, function: Any = None) -> None:
        self.owner = owner
        self.name = name
        self.function = function


class Super:
    """`super()` in a method of class `cls`."""

    __slots__ = ("cls", "owner")

    def __init__(self, owner: Any, cls: Class) -> None:
        self.owner = owner
        self.cls = cls


class Partial:
    """`functools.partial`."""

    __slots__ = ("args", "function", "keywords")

    def __init__(self, function: Any, args: list[Any], keywords: dict[str, Any]) -> None:
        self.function = function
        self.args = args
        self.keywords = keywords


class List:
    """A list, or a set. `open`: it may hold more than `items`."""

    __slots__ = ("items", "open")

    def __init__(self, items: Iterable[Any] = (), open: bool = False) -> None:
        self.items = list(items)
        self.open = open


STATE = "<state>"  # the key, in a `state_dict()`, of what stands for all its tensors


class Dict:
    """A dict with constants as keys. `open`: it may hold more."""

    __slots__ = ("items", "open")

    def __init__(self, items: dict[Any, Any] | None = None, open: bool = False) -> None:
        self.items = items or {}
        self.open = open

    def pairs(self) -> list[tuple[Any, Any]]:
        """Its items, as iterating gives them: names of a `state_dict()` are not known."""
        return [(Unknown("name") if k == STATE else k, v) for k, v in self.items.items()]


def taken(container: List | Dict, depth: int = 3) -> None:
    """One of its values was taken, it is not known which: each may be added to."""
    values = container.items.values() if isinstance(container, Dict) else container.items
    for value in values if depth else ():
        if isinstance(value, (List, Dict)):
            value.open = True
            taken(value, depth - 1)


class Iterator:
    """A generator, a `filter`, the result of `parameters()`: read once, when it is read.

    `spent`: it was. `gave`: something was in it then.
    """

    __slots__ = ("_make", "gave", "open", "spent")

    def __init__(self, make: Callable[[], tuple[list[Any], bool]]) -> None:
        self._make = make
        self.spent = False
        self.gave = False
        self.open = False

    def take(self) -> list[Any]:
        """What is left in it: nothing the second time."""
        if self.spent:
            return []
        self.spent = True
        items, self.open = self._make()
        self.gave = bool(items)
        return items

    def peek(self) -> list[Any]:
        """What is left in it, which stays there."""
        if self.spent:
            return []
        items, open = self._make()
        self._make = lambda: (items, open)
        return items


class Name:
    """The name of a parameter that stands for several, or of a module's unlisted parts.

    It begins with `prefix`, and what follows is not known. Tests on it take the
    parameter apart. `lower`: it was lowered.
    """

    __slots__ = ("lower", "of", "prefix")

    def __init__(self, of: Param | Module, prefix: str, lower: bool = False) -> None:
        self.of = of
        self.prefix = prefix
        self.lower = lower


class Tensor:
    """A tensor that is no parameter.

    `copy`: how it was made from a parameter, if it was ("data", "detach", "state_dict").
    `through` are the modules that it came out of, newest last. `cut`: it does not require
    grad, and why ("no_grad", "detach", "data", ...). `made`: "softmax", ... if it is the
    result of one. `live` are the FORWARD events through which its gradient goes back,
    `lost` those that it came out of and cannot go back to, with the place of the cut.
    `needs`: it requires grad; None where that is not known.
    """

    __slots__ = ("copy", "cut", "live", "loss", "lost", "made", "needs", "param", "through")

    def __init__(
        self,
        through: tuple[Module, ...] = (),
        *,
        cut: str = "",
        copy: str = "",
        made: str = "",
        loss: bool = False,
        param: Param | None = None,
        live: tuple[Event, ...] = (),
        lost: dict[Event, Site] | None = None,
        needs: bool | None = None,
    ) -> None:
        self.through = through
        self.cut = cut
        self.copy = copy
        self.made = made
        self.loss = loss
        self.param = param
        self.live = live
        self.lost = lost or {}
        self.needs = False if cut else needs

    def severed(self, how: str, site: Site, copy: str = "") -> Tensor:
        """The same values, without a way back for gradients from `site` on."""
        return Tensor(
            self.through,
            cut=how,
            copy=copy,
            made=self.made,
            loss=self.loss,
            param=self.param,
            lost={**self.lost, **dict.fromkeys(self.live, site)},
        )


def joined(tensors: Iterable[Tensor], *, made: str = "", loss: bool = False) -> Tensor:
    """What is computed from tensors."""
    found = list(tensors)
    live = tuple(dict.fromkeys(event for tensor in found for event in tensor.live))
    alive = set(live)
    return Tensor(
        tuple(dict.fromkeys(module for tensor in found for module in tensor.through)),
        cut=found[0].cut if found and all(tensor.cut for tensor in found) else "",
        made=made,
        loss=loss or any(tensor.loss for tensor in found),
        live=live,
        lost={e: site for tensor in found for e, site in tensor.lost.items() if e not in alive},
        needs=any_of(tensor.needs for tensor in found),
    )


def any_of(answers: Iterable[bool | None]) -> bool | None:
    """Whether one of them is true; None where that hangs on one that is not known."""
    every = set(answers)
    return True if True in every else None if None in every else False


class Stream:
    """Something to loop over whose items are made as they are asked for: a `range`, a
    loader. `length` is None where it is not known; then `limit` may be the key of the
    value that it is."""

    __slots__ = ("at", "length", "limit")

    def __init__(
        self, at: Callable[[int], Any], length: int | None = None, limit: str | None = None
    ) -> None:
        self.at = at
        self.length = length
        self.limit = limit


class Foreign:
    """A value of a library that is no part of PyTorch: it says itself what is done with it."""

    __slots__ = ()

    def named(self, name: str) -> None:
        """It is bound to a name."""

    def load(self, m: Any, name: str, node: Any) -> Any:
        """`value.name`."""
        return Method(self, name)

    def store(self, m: Any, target: Any, name: str, value: Any) -> None:
        """`value.name = ...`."""

    def call(self, m: Any, given: Any) -> Any:
        """`value(...)`."""
        return Unknown(m.spot(given.node))

    def sliced(self, parts: list[Any]) -> Any:
        """`value[a:b:c]`."""
        return self


class GradMode:
    """`torch.no_grad()`, `torch.enable_grad()`: a context in which gradients are on or not."""

    __slots__ = ("on",)

    def __init__(self, on: bool) -> None:
        self.on = on


class ParamGroups:
    """`optimizer.param_groups`."""

    __slots__ = ("optimizer",)

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer


def is_constant(value: Any) -> bool:
    """It is a value that Python itself can compute with."""
    return isinstance(value, CONSTANTS) or (
        isinstance(value, tuple) and all(is_constant(item) for item in value)
    )


def key_of(value: Any) -> str:
    """A text that equal values share, for recognising a condition."""
    if isinstance(value, Unknown):
        return value.key
    if isinstance(value, Library):
        return value.name
    if is_constant(value):
        return repr(value)
    if isinstance(value, Instance) and value.key:
        return value.key
    return f"<{type(value).__name__} {id(value)}>"
