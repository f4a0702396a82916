"""The batches of a warm-up: any iterable, gone through again where it is short; and what a batch is
made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from freezecheck.live.batch import TARGETS, tensors
from freezecheck.live.program import Taped

HELD = 256  # samples that are looked at before and after
_MOST = 64  # batches that are kept for that


class Batches:
    """`batch(i)` is the batch of step i, the same one whenever it is asked for.

    Batches are kept as they came, on their device. Raises ValueError where there is none.
    """

    def __init__(self, given: Iterable[Any]) -> None:
        self._iterator: Iterator[Any] | None = _begun_late(given)
        self._kept: list[Any] = []

    def batch(self, step: int) -> Any:
        """Counted from 0."""
        while self._iterator is not None and len(self._kept) <= step:
            try:
                self._kept.append(next(self._iterator))
            except StopIteration:
                self._iterator = None
        if not self._kept:
            raise ValueError("there is no batch to probe with")
        return self._kept[step % len(self._kept)]

    @property
    def samples(self) -> int:
        """Of the first batch; 0 while none has been asked for."""
        return size(self._kept[0]) if self._kept else 0

    def held(self) -> list[Any]:
        """The first batches, of `HELD` samples or more if there are as many."""
        chosen: list[Any] = []
        samples = 0
        while samples < HELD and len(chosen) < _MOST:
            batch = self.batch(len(chosen))
            if len(chosen) == len(self._kept):
                break  # from here on they would come again
            chosen.append(batch)
            samples += size(batch)
        return chosen


def _begun_late(given: Iterable[Any]) -> Iterator[Any]:
    """As `iter(given)` at the first batch: a loader draws a seed then."""
    yield from given


def size(batch: Any) -> int:
    """Samples of a batch: the first dimension of its first tensor; 0 where it has none."""
    if isinstance(batch, Taped):
        return batch.samples
    return next((len(t) for t in tensors(batch) if t.dim()), 0)


def parted(batch: Any, loss: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """What the model is called with (arguments and keywords), and the targets, None where it has
    none. A model that returns its own loss gets all of a dict."""
    if isinstance(batch, Mapping):
        key = next((name for name in TARGETS if name in batch), None)
        left = {k: v for k, v in batch.items() if loss is None or k != key}
        return (), left, None if key is None else batch[key]
    if isinstance(batch, (list, tuple)) and len(batch) > 1:
        *inputs, targets = batch
        return (tuple(batch) if loss is None else tuple(inputs)), {}, targets
    if isinstance(batch, (list, tuple)):
        return tuple(batch), {}, None
    return (batch,), {}, None
