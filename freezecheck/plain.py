"""Plain data to JSON and back.

A `Snapshot` taken in the user's process is checked and shown in another, so
every record must survive the trip. Records are dataclasses of scalars, tuples,
lists, dicts and other records; their annotations say how to read them back.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def encode(value: Any) -> Any:
    """`value` in terms that `json.dumps(..., allow_nan=False)` accepts.

    Fields that equal their default are left out: a snapshot of 100,000
    parameters is mostly defaults.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    import dataclasses  # slow to import, and only a run needs it

    if dataclasses.is_dataclass(value):
        return {
            name: encode(item)
            for name, default in _fields(type(value))
            if (item := getattr(value, name)) != default or default is dataclasses.MISSING
        }
    raise TypeError(f"{type(value).__name__} is not plain data")


def decode(kind: type[T], data: Any) -> T:
    """The `kind` that `encode` turned into `data`."""
    return _decode(kind, data)


def _list_fields(kind: Any) -> list[tuple[str, Any]]:
    """The encoded fields of a record and their defaults."""
    import dataclasses

    return [
        (f.name, f.default if f.default_factory is dataclasses.MISSING else f.default_factory())
        for f in dataclasses.fields(kind)
        if f.init
    ]


_fields: Callable[[Any], list[tuple[str, Any]]] = cache(_list_fields)
_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def _decode(kind: Any, data: Any) -> Any:
    import dataclasses

    if kind is Any or data is None:
        return _decode_any(data)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        choices = [a for a in args if a is not type(None)]
        return _decode(choices[0], data) if len(choices) == 1 else _decode_any(data)
    if origin is tuple:
        return tuple(_decode(args[0], item) for item in data)
    if origin is list:
        return [_decode(args[0], item) for item in data]
    if origin is dict:
        return {key: _decode(args[1], item) for key, item in data.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{name: _decode(hints[name], item) for name, item in data.items()})
    if kind is float:
        return _decode_any(data)
    return data


def _decode_any(data: Any) -> Any:
    if isinstance(data, dict):
        if data.keys() == {"float"}:
            return float(data["float"])
        return {key: _decode_any(item) for key, item in data.items()}
    if isinstance(data, list):
        return tuple(_decode_any(item) for item in data)
    return data
