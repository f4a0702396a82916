"""What a batch is made of, whatever a loader gives: tensors in tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from freezecheck.live import values

TARGETS = ("labels", "label", "targets", "target", "y")  # keys of a batch that is a dict


def tensors(batch: Any) -> Iterator[Any]:
    """All of them, at any depth."""
    if isinstance(batch, values.torch().Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors(value)
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            yield from tensors(value)


def to(batch: Any, device: Any) -> Any:
    """The batch with its tensors on a device."""
    if isinstance(batch, values.torch().Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to(value, device) for value in batch)
    return batch
