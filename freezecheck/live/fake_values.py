"""What fake tensors answer: the dispatcher of `--fake`.

An operation on fake tensors gives fake ones. One on real tensors alone is done for real,
unless it makes something large out of nothing, or one of them has been written to with
what has no values: then it has none from then on. Where a value decides, the answer is the
one that lets the script go on: 1, True, every entry; nothing is ever NaN or infinite.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from freezecheck.live.values import torch

_SMALL = 2**24  # entries up to which a tensor that is made out of nothing is made for real
_MAKES = ("aten::new_", "aten::repeat")  # these make something large out of a small tensor


class _Inside(threading.local):
    """What this thread is in the middle of."""

    all_fake = False


class Dispatcher:
    """Stands before a FakeTensorMode's own `dispatch`.

    It is called with the mode switched off, so what it does to real tensors is done
    for real; fake ones bring their mode with them.
    """

    def __init__(self, mode: Any) -> None:
        self.mode = mode
        self._shapes_only = mode.dispatch
        self._inside = _Inside()
        self._overwritten: dict[int, Any] = {}  # key of a storage -> weak storage

    def __call__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """One operation. `types` are the classes of tensors with a dispatch of their own."""
        kwargs = _on_cpu(kwargs) if kwargs else {}
        name = func.name()
        if not (types or self._inside.all_fake or _large(name, args) or self._touches(args)):
            return func(*args, **kwargs)
        answer = _ANSWERS.get(name)
        if answer is not None:
            found = answer(self, func, *args, **kwargs)
            if found is not NotImplemented:
                return found
        with self._all_fake():  # torch asks the mode again for the parts of an operation
            result = self._shapes_only(func, types, args, kwargs)
        collective = name.startswith("c10d::")  # these do not say that they write
        if collective or func._schema.is_mutable:
            self._overwrite(func._schema, args, kwargs, everything=collective)
        return result

    @contextlib.contextmanager
    def _all_fake(self) -> Iterator[None]:
        """Inside, also small tensors are fake."""
        before, self._inside.all_fake = self._inside.all_fake, True
        try:
            yield
        finally:
            self._inside.all_fake = before

    def like(self, tensor: Any) -> Any:
        """A fake tensor of the same shape, strides and type as a real one."""
        with self.mode, self._all_fake():
            return torch().empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)

    def empty(self, *shape: int, dtype: Any = None) -> Any:
        """A fake tensor; of positions, if no type is given."""
        with self.mode, self._all_fake():
            return torch().empty(shape, dtype=dtype or torch().int64)

    def is_fake(self, tensor: Any) -> bool:
        """It has no values, or none that could be known."""
        return bool(self.mode.is_our_fake(tensor)) or self._touches((tensor,))

    def _overwrite(
        self, schema: Any, args: Sequence[Any], kwargs: dict[str, Any], *, everything: bool
    ) -> None:
        """Real tensors that an operation wrote to, of which it knew the shapes alone."""
        from torch.multiprocessing.reductions import StorageWeakRef

        for position, argument in enumerate(schema.arguments):
            alias = argument.alias_info
            if not (everything or (alias is not None and alias.is_write)):
                continue
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            for tensor in given if isinstance(given, (list, tuple)) else (given,):
                if type(tensor) in (torch().Tensor, torch().nn.Parameter):
                    weak = StorageWeakRef(tensor.untyped_storage())
                    self._overwritten[weak.cdata] = weak

    def _touches(self, args: Sequence[Any]) -> bool:
        """One of the tensors was written to with what has no values."""
        if not self._overwritten:
            return False
        for arg in args:
            if isinstance(arg, (list, tuple)):
                if self._touches(arg):
                    return True
            elif isinstance(arg, torch().Tensor) and not self.mode.is_our_fake(arg):
                if arg.layout is not torch().strided:
                    continue
                key = arg.untyped_storage()._cdata
                weak = self._overwritten.get(key)
                if weak is not None and not weak.expired():
                    return True
                self._overwritten.pop(key, None)
        return False


def _on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Whatever accelerator is asked for, the CPU stands for it; `meta` stays `meta`."""
    kwargs = dict(kwargs)
    device = kwargs.get("device")
    if device is not None and torch().device(device).type not in ("cpu", "meta"):
        kwargs["device"] = torch().device("cpu")
    if kwargs.get("pin_memory"):
        kwargs["pin_memory"] = False
    return kwargs


def _large(name: str, args: Sequence[Any]) -> bool:
    """The operation makes a large tensor, of the size that it is told."""
    if args and isinstance(args[0], torch().Tensor) and not name.startswith(_MAKES):
        return False
    return any(
        isinstance(arg, (list, tuple))
        and all(isinstance(n, int) for n in arg)
        and math.prod(arg) > _SMALL
        for arg in args[:2]
    )


# -- answers: each is given the dispatcher, the operation and its arguments ----------


def _scalar(ours: Dispatcher, func: Any, tensor: Any) -> Any:
    """`.item()`, `if tensor:`"""
    if tensor.dtype is torch().bool:
        return True
    return 1.0 if tensor.is_floating_point() else 1


def _equal(ours: Dispatcher, func: Any, one: Any, other: Any) -> bool:
    """Two tensors are equal if they are the same memory; other ones hardly ever are."""
    if one.shape != other.shape or one.storage_offset() != other.storage_offset():
        return False
    return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)


def _close(ours: Dispatcher, func: Any, *args: Any, **tolerances: Any) -> bool:
    """Which scripts assert."""
    return True


def _never(ours: Dispatcher, func: Any, tensor: Any) -> Any:
    """`isnan`: False everywhere, without the memory for it."""
    return torch().tensor(False).expand(tensor.shape)


def _same(ours: Dispatcher, func: Any, one: Any, other: Any) -> Any:
    """`x == x`, with which torch asks for NaN."""
    return torch().tensor(True).expand(one.shape) if one is other else NotImplemented


def _infinite(ours: Dispatcher, func: Any, tensor: Any, number: Any) -> Any:
    """`x != inf`"""
    if not isinstance(number, float) or not math.isinf(number):
        return NotImplemented
    return torch().tensor(func.name() == "aten::ne.Scalar").expand(tensor.shape)


def _nonzero(ours: Dispatcher, func: Any, tensor: Any) -> Any:
    return ours.empty(tensor.numel(), tensor.dim())


def _positions(ours: Dispatcher, indices: Sequence[Any]) -> list[Any] | None:
    """Indices with positions in the place of masks, so that the shape of the result is known;
    None if there are no masks. A mask without values chooses every entry."""
    found: list[Any] = []
    for index in indices:
        if index is None or index.dtype not in (torch().bool, torch().uint8):
            found.append(index)
        elif ours.is_fake(index):
            found.extend(ours.empty(index.numel()) for _ in range(index.dim()))
        else:
            found.extend(index.nonzero(as_tuple=True))
    masks = any(new is not old for new, old in zip(found, indices))
    return found if masks or len(found) != len(indices) else None


def _index(ours: Dispatcher, func: Any, tensor: Any, indices: Sequence[Any], *rest: Any) -> Any:
    """`x[mask]` and `x[mask] = y`"""
    found = _positions(ours, indices)
    if found is None:
        return NotImplemented
    with ours.mode:
        return func(tensor, found, *rest)


def _masked_select(ours: Dispatcher, func: Any, tensor: Any, mask: Any) -> Any:
    chosen = mask.expand(torch().broadcast_shapes(tensor.shape, mask.shape))
    number = chosen.numel() if ours.is_fake(mask) else int(chosen.sum())
    return ours.empty(number, dtype=tensor.dtype)


def _unique(ours: Dispatcher, func: Any, tensor: Any, *rest: Any, **options: Any) -> Any:
    """All entries differ."""
    number = tensor.numel()
    return (
        ours.empty(number, dtype=tensor.dtype),
        ours.empty(*tensor.shape),
        ours.empty(number),
    )


def _bincount(ours: Dispatcher, func: Any, tensor: Any, weights: Any = None, least: int = 0) -> Any:
    return ours.empty(max(least, 1), dtype=None if weights is None else weights.dtype)


def _unscale(ours: Dispatcher, func: Any, gradients: Any, found: Any, scale: Any) -> None:
    """A gradient scaler finds no infinity, and its scale changes no shape."""


def _nms(ours: Dispatcher, func: Any, boxes: Any, *rest: Any) -> Any:
    """No box covers another one."""
    return ours.empty(boxes.shape[0])


_ANSWERS: dict[str, Callable[..., Any]] = {
    "aten::_local_scalar_dense": _scalar,
    "aten::equal": _equal,
    "aten::allclose": _close,
    "aten::isnan": _never,
    "aten::isinf": _never,
    "aten::eq.Tensor": _same,
    "aten::eq.Scalar": _infinite,
    "aten::ne.Scalar": _infinite,
    "aten::nonzero": _nonzero,
    "aten::index.Tensor": _index,
    "aten::index_put": _index,
    "aten::index_put_": _index,
    "aten::masked_select": _masked_select,
    "aten::_unique2": _unique,
    "aten::unique_consecutive": _unique,
    "aten::bincount": _bincount,
    "aten::_amp_foreach_non_finite_check_and_unscale_": _unscale,
    "torchvision::nms": _nms,
}
