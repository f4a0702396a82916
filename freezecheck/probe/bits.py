"""The bytes under tensors, copied and written back where they were.

Memory is copied as bytes, storage by storage, so that tied tensors and views of one flat buffer are
copied once, and NaNs, quantised and complex values come back as the same bits.
"""

from __future__ import annotations

import math
from typing import Any

from freezecheck.live import values

_AMPLE = 0.25  # of the free memory: gradients, moments and activations may be yet to come


class Bits:
    """`add` tensors, then `copy`; `write` puts the bytes back as often as it is called."""

    def __init__(self) -> None:
        self._storages: dict[int, _Storage] = {}

    def add(self, tensor: Any) -> None:
        """A strided tensor whose memory is to be copied; one without memory is passed over."""
        storage = tensor.untyped_storage()
        if storage.device.type == "meta" or tensor.numel() == 0:
            return
        first = tensor.storage_offset() * tensor.element_size()
        last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride()))
        end = min(first + (last + 1) * tensor.element_size(), storage.nbytes())
        if first < end:  # the storage of a sharded tensor may be empty just now
            here = self._storages.setdefault(storage._cdata, _Storage(storage))
            here.spans.append((first, end))

    def copy(self, offload: bool | None) -> int:
        """Copy what was added: beside the original, or to (pinned) memory of the CPU; None: there
        where there is no ample room on a GPU. Returns the number of bytes. Raises torch's
        out-of-memory error if there is no room."""
        storages = self._storages.values()
        if offload is not None:
            return sum(storage.copy(offload) for storage in storages)
        try:
            return self.copy(self._crowded())
        except values.torch().cuda.OutOfMemoryError:  # by others' doing, or in pieces
            for storage in storages:
                storage.copies.clear()
            return self.copy(True)

    def _crowded(self) -> bool:
        """Copies would take so much of some GPU that the steps may lack it."""
        needs: dict[Any, int] = {}
        for storage in self._storages.values():
            device = storage.storage.device
            needs[device] = needs.get(device, 0) + storage.needed
        return any(need > _AMPLE * _free(device) for device, need in needs.items())

    def write(self) -> None:
        """Make all memory what it was."""
        for storage in self._storages.values():
            storage.write()

    def original(self, tensor: Any) -> Any:
        """The values under `tensor` when they were copied, laid out as it is. A view of the copy:
        only to be read. Raises KeyError for memory that was not copied."""
        here = self._storages[tensor.untyped_storage()._cdata]
        first = tensor.storage_offset() * tensor.element_size()
        for (start, end), copy in zip(here.spans, here.copies):
            if start <= first < end:
                offset, rest = divmod(first - start, tensor.element_size())
                assert rest == 0
                empty = values.torch().empty(0, dtype=tensor.dtype, device=copy.device)
                return empty.set_(copy.untyped_storage(), offset, tensor.shape, tensor.stride())
        raise KeyError(tensor)


def _free(device: Any) -> float:
    """Bytes that can be had on a device, those included that torch keeps for later."""
    if device.type != "cuda":
        return math.inf
    cuda = values.torch().cuda
    kept = cuda.memory_reserved(device) - cuda.memory_allocated(device)
    return float(cuda.mem_get_info(device)[0] + kept)


class _Storage:
    """The copied stretches of one piece of memory."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage
        self.size = storage.nbytes()
        self.spans: list[tuple[int, int]] = []
        self.copies: list[Any] = []

    @property
    def needed(self) -> int:
        """To be copied."""
        self.spans = _joined(self.spans)
        return sum(end - start for start, end in self.spans)

    def copy(self, offload: bool) -> int:
        torch, size = values.torch(), self.needed
        for span in self.spans:
            here = self._bytes(span)
            if offload and here.device.type != "cpu":
                pinned = here.device.type == "cuda"
                copy = torch.empty(here.shape, dtype=here.dtype, device="cpu", pin_memory=pinned)
                self.copies.append(copy.copy_(here))
            else:
                self.copies.append(here.clone())
        return size

    def write(self) -> None:
        torch = values.torch()
        if self.storage.nbytes() != self.size:
            self.storage.resize_(self.size)
        for span, copy in zip(self.spans, self.copies):
            here = self._bytes(span)
            # Comparing costs a wait on a GPU. On the CPU it spares memory that is mapped from a
            # file, perhaps for reading only, of which every page written to is a page more.
            if here.device.type != "cpu" or not torch.equal(here, copy):
                here.copy_(copy)

    def _bytes(self, span: tuple[int, int]) -> Any:
        torch, (start, end) = values.torch(), span
        empty = torch.empty(0, dtype=torch.uint8, device=self.storage.device)
        return empty.set_(self.storage, start, (end - start,), (1,))


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same bytes in stretches that do not overlap, in order."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined
