"""The objects that together make up the state of models, optimizers and schedulers, each of which
can be put back.

The objects stay who they are: others hold them, too. Only what they hold is put back, in place:
attributes of a module, entries of a container, the memory and the gradient of a tensor.
"""

from __future__ import annotations

import random
import sys
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

from freezecheck.live import values
from freezecheck.probe.bits import Bits

_ATOMS = frozenset({NoneType, bool, int, float, complex, str, bytes, type, FunctionType})
_CODE = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
# Attributes below which objects of any class are state: what an optimizer keeps for a parameter,
# and the callables of a LambdaLR (whose attributes torch's own `state_dict` has, too).
_OWN = ("state", "param_groups", "lr_lambdas")


class Attributes:
    """An object's attributes and its class, which lazy modules and parametrizations change."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._kind = type(owner)
        self._lazy = hasattr(type(owner), "cls_to_become")
        self._own = () if isinstance(owner, values.torch().nn.Module) else _OWN
        self._saved = {k: v for k, v in vars(owner).items() if not self._foreign(k)}

    def _foreign(self, name: str) -> bool:
        """Hooks belong to those who hung them there. A lazy module's are its own, and go with its
        first forward pass."""
        return "_hook" in name and name.startswith("_") and not self._lazy

    def held(self) -> Iterator[tuple[Any, bool]]:
        """What it holds, and whether objects of any class count there."""
        return ((value, name in self._own) for name, value in self._saved.items())

    def restore(self) -> None:
        """In place."""
        if type(self._owner) is not self._kind:
            self._owner.__class__ = self._kind
        now = vars(self._owner)
        for name in [k for k in now if k not in self._saved and not self._foreign(k)]:
            del now[name]
        for name, value in self._saved.items():
            if name not in now or now[name] is not value:
                now[name] = value


class Contents:
    """The entries of a list, dict, set or deque, in their order."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self._saved = list(_entries(container))

    def held(self) -> Iterable[Any]:
        """What is in it."""
        if isinstance(self._container, dict):
            return (item for pair in self._saved for item in pair)
        return self._saved

    def restore(self) -> None:
        """In place."""
        here, saved = self._container, self._saved
        if self._unchanged():
            return
        if isinstance(here, list):
            list.__setitem__(here, slice(None), saved)
        elif isinstance(here, dict):
            # Past what a subclass makes of them; some forbid `update`.
            kind = OrderedDict if isinstance(here, OrderedDict) else dict
            kind.clear(here)
            for key, value in saved:
                kind.__setitem__(here, key, value)
        elif isinstance(here, set):
            set.clear(here)
            set.update(here, saved)
        else:
            deque.clear(here)
            deque.extend(here, saved)

    def _unchanged(self) -> bool:
        here, saved = self._container, self._saved
        if len(here) != len(saved):
            return False
        if isinstance(here, dict):
            return all(k is a and v is b for (k, v), (a, b) in zip(_entries(here), saved))
        return all(now is before for now, before in zip(here, saved))


def _entries(container: Any) -> Iterable[Any]:
    return dict.items(container) if isinstance(container, dict) else container


class Tensor:
    """A tensor: where its memory is, whether it is trainable, its gradient. Its values are in
    `Bits`."""

    def __init__(self, tensor: Any, bits: Bits) -> None:
        self._tensor = tensor
        self._kind = type(tensor)
        self._leaf = tensor.is_leaf
        self._trainable = tensor.requires_grad
        self._grad = tensor.grad if self._leaf else None
        self._parts = _parts(tensor)
        self._alias = None if self._parts else tensor.data
        if self._alias is not None:
            _add_bytes(self._alias, bits)

    def held(self) -> Iterable[Any]:
        """Its gradient, the tensors that it wraps, and its attributes."""
        return self._grad, *self._parts.values(), vars(self._tensor)

    def place(self) -> None:
        """Be of the same class again, on the same memory."""
        tensor = self._tensor
        if type(tensor) is not self._kind:
            tensor.__class__ = self._kind
        for name, part in self._parts.items():
            if getattr(tensor, name) is not part:
                setattr(tensor, name, part)
        if self._alias is not None and not _same_memory(tensor.data, self._alias):
            tensor.data = self._alias

    def restore(self) -> None:
        """Flag and gradient; after all tensors are in their places."""
        tensor, torch = self._tensor, values.torch()
        if not self._leaf:
            return
        if not tensor.is_leaf:  # something of a graph was written into it
            tensor.detach_()
        if tensor.requires_grad is not self._trainable:
            torch.Tensor.requires_grad.__set__(tensor, self._trainable)  # a recorder does not hear
        if tensor.grad is not self._grad:
            tensor.grad = self._grad


def _add_bytes(alias: Any, bits: Bits) -> None:
    """Have all memory of a tensor copied, whatever its layout."""
    torch = values.torch()
    if alias.layout is torch.strided:
        bits.add(alias)
    elif alias.layout is torch.sparse_coo:
        bits.add(alias._indices())
        bits.add(alias._values())
    elif alias.layout in (torch.sparse_csr, torch.sparse_bsr):
        for part in (alias.crow_indices(), alias.col_indices(), alias.values()):
            bits.add(part)
    elif alias.layout in (torch.sparse_csc, torch.sparse_bsc):
        for part in (alias.ccol_indices(), alias.row_indices(), alias.values()):
            bits.add(part)


def _parts(tensor: Any) -> dict[str, Any]:
    """The tensors that a wrapper consists of (a DTensor's local shard), by attribute."""
    flatten = getattr(type(tensor), "__tensor_flatten__", None)
    if flatten is None or hasattr(tensor, "fake_mode"):
        return {}
    return {name: getattr(tensor, name) for name in flatten(tensor)[0]}


def _same_memory(a: Any, b: Any) -> bool:
    torch = values.torch()
    if a.layout is not torch.strided or b.layout is not torch.strided:
        return False
    return (
        a.untyped_storage()._cdata == b.untyped_storage()._cdata
        and a.dtype == b.dtype
        and a.storage_offset() == b.storage_offset()
        and a.shape == b.shape
        and a.stride() == b.stride()
    )


class Stream:
    """The state of a generator of random numbers: torch's, Python's or NumPy's."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        if hasattr(generator, "bit_generator"):
            self._generator = generator.bit_generator
            self._saved = self._generator.state
        else:
            self._saved = getattr(generator, self._name("get"))()

    def _name(self, verb: str) -> str:
        return f"{verb}state" if isinstance(self._generator, random.Random) else f"{verb}_state"

    def restore(self) -> None:
        """As it was."""
        if hasattr(self._generator, "state"):
            self._generator.state = self._saved
        else:
            getattr(self._generator, self._name("set"))(self._saved)


class Array:
    """A NumPy array's values."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._saved = array.copy()

    def restore(self) -> None:
        """In place."""
        if self._array.flags.writeable:
            self._array[...] = self._saved


class Pieces:
    """All pieces that can be reached from `roots`, in the order in which they were found.

    Ways lead through attributes of modules, optimizers, schedulers and scalers (and of the roots,
    whatever they are), through containers, and from tensors to their gradients. Other objects
    (a model's configuration, a Trainer) are kept as they are referred to, not as they are inside.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self.bits = Bits()
        self.tensors: list[Tensor] = []
        self.others: list[Attributes | Contents | Stream | Array] = []
        self.modules: list[Any] = []
        self._seen: dict[int, Any] = {}
        self._kinds = _stateful()
        roots = list(roots)
        stack = [(root, True) for root in roots]
        while stack:
            item, free = stack.pop()
            if type(item) not in _ATOMS and id(item) not in self._seen:
                stack.extend(self._take(item, free))
        for root in roots:
            if id(root) not in self._seen:
                raise TypeError(f"{type(root).__name__}: there is nothing to save in one")

    def _take(self, item: Any, free: bool) -> Iterable[tuple[Any, bool]]:
        """Keep a piece of `item`; returns what it leads to. `free`: whatever its class is."""
        torch = values.torch()
        piece: Any
        if isinstance(item, torch.Tensor):
            piece = Tensor(item, self.bits)
            self.tensors.append(piece)
            self._seen[id(item)] = item
            return [(held, free) for held in piece.held()]
        if isinstance(item, (tuple, frozenset)):
            piece, further = None, [(held, free) for held in item]
        elif isinstance(item, (list, dict, set, deque)):
            piece = Contents(item)
            further = [(held, free) for held in piece.held()]
        elif isinstance(item, _generators()):
            piece, further = Stream(item), []
        elif _is_array(item):
            piece, further = Array(item), []
        elif isinstance(item, self._kinds) or (free and _plain(item)):
            piece = Attributes(item)
            further = list(piece.held())
            if isinstance(item, torch.nn.Module):
                self.modules.append(item)
        else:
            return []
        self._seen[id(item)] = item
        if piece is not None:
            self.others.append(piece)
        return further


def _stateful() -> tuple[type, ...]:
    """Classes whose attributes are always state."""
    torch = values.torch()
    schedulers = torch.optim.lr_scheduler
    return (
        torch.nn.Module,
        torch.optim.Optimizer,
        schedulers.LRScheduler,
        schedulers.ReduceLROnPlateau,
        torch.amp.GradScaler,
    )


def _generators() -> tuple[type, ...]:
    kinds = [random.Random, values.torch().Generator]
    if "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        kinds += [numpy.random.Generator, numpy.random.RandomState]
    return tuple(kinds)


def _is_array(item: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(item, numpy.ndarray)


def _plain(item: Any) -> bool:
    return not isinstance(item, _CODE) and isinstance(getattr(item, "__dict__", None), dict)
