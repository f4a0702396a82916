"""Tensors without storage: a script's setup is inspected without the memory that it needs.

Torch's own FakeTensorMode knows the shape, type and aliases of every result without
computing it. It is entered for good right after `import torch`. Three things are ours:

- What is known stays known. Parameters and float buffers are fake, and what comes out of
  them is; indices, labels, masks and counters are small and real, so that samplers,
  loops and tests that hang on them go as they would (`fake_values`).
- There is no accelerator: `.cuda()` and `device="cuda"` mean the CPU.
- What is saved to a file stays in memory, and is loaded from there (`fake_files`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from freezecheck.live import fake_failure, fake_files, fake_memory, values
from freezecheck.live.fake_values import Dispatcher
from freezecheck.live.patches import Patches
from freezecheck.live.values import torch


def install(patches: Patches, note: Callable[..., None]) -> None:
    """Let this process go on with fake tensors. `note` hears what they would take
    (`fake_memory`), and what ended the script for lack of values (`fake_failure`)."""
    mode = _mode()
    ours = Dispatcher(mode)
    patches.put(mode, "dispatch", ours)
    patches.put(values.hidden, "test", ours.is_fake)
    _tensors(patches)
    _parameters(patches, ours)
    _buffers(patches, ours)
    _moves(patches)
    _loaders(patches)
    _no_cuda(patches)
    _process_groups(patches)
    fake_files.install(patches, ours.is_fake)
    fake_memory.install(patches, note)
    fake_failure.install(patches, note)
    mode.__enter__()
    patches.later(lambda: mode.__exit__(None, None, None))


def _mode() -> Any:
    """Torch's own mode. Its import looks for the compiler's back end, which takes long, is not
    needed, and complains when Python ends."""
    missing = "triton" not in sys.modules
    if missing:
        sys.modules["triton"] = None  # type: ignore[assignment]
    try:
        from torch._subclasses.fake_tensor import FakeTensorMode

        return FakeTensorMode(allow_non_fake_inputs=True)
    finally:
        if missing:
            del sys.modules["triton"]


def _is_plain(tensor: Any) -> bool:
    """A real tensor of torch's own class with storage."""
    return (
        type(tensor) in (torch().Tensor, torch().nn.Parameter)
        and not tensor.is_meta
        and tensor.layout is torch().strided
    )


def _tensors(patches: Patches) -> None:
    """What is asked of a tensor's values outside the dispatcher."""
    from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

    def ones(tensor: Any) -> Any:
        with unset_fake_temporarily():
            return torch().ones(
                tensor.shape, dtype=tensor.dtype, requires_grad=tensor.requires_grad
            )

    def numpy(self: Any, *, force: bool = False) -> Any:
        return ones(self).numpy(force=force)

    def tolist(self: Any) -> Any:
        return ones(self).tolist()

    def deepcopy(self: Any, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            memo[id(self)] = self.detach().clone().requires_grad_(self.requires_grad)
        return memo[id(self)]

    def formatted(self: Any, spec: str) -> str:
        return format(self.item() if self.dim() == 0 else str(self), spec)

    patches.put(FakeTensor, "numpy", numpy)
    patches.put(FakeTensor, "tolist", tolist)
    patches.put(FakeTensor, "__deepcopy__", deepcopy)
    patches.put(FakeTensor, "__format__", formatted)


def _parameters(patches: Patches, ours: Dispatcher) -> None:
    """Every parameter is fake, and still an instance of `nn.Parameter`, through whose
    attributes the recorder hears of frozen flags."""
    from torch._subclasses.fake_tensor import FakeTensor

    base = torch().nn.Parameter

    class Parameter(FakeTensor, base):  # type: ignore[misc, valid-type]
        """A fake tensor that is a parameter."""

        __module__ = base.__module__
        __torch_function__ = torch()._C._disabled_torch_function_impl

        def __new__(cls, data: Any = None, requires_grad: bool = True) -> Any:
            return new(base, data, requires_grad)

        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            if id(self) not in memo:
                memo[id(self)] = new(base, self.detach().clone(), self.requires_grad)
            return memo[id(self)]

        __repr__ = base.__repr__
        __reduce_ex__ = FakeTensor.__reduce_ex__

    original = base.__new__

    def new(cls: Any, data: Any = None, requires_grad: bool = True, **options: Any) -> Any:
        if cls is base and data is None:
            data = torch().empty(0)
        if cls is not base or not (_is_plain(data) or isinstance(data, FakeTensor)):
            return original(cls, data, requires_grad, **options)
        fake = data.detach() if isinstance(data, FakeTensor) else ours.like(data)
        fake.__class__ = Parameter
        fake._is_param = True
        torch().Tensor.requires_grad.__set__(fake, requires_grad)
        return fake

    patches.put(base, "__new__", staticmethod(new))


def _buffers(patches: Patches, ours: Dispatcher) -> None:
    """Float buffers are fake, as what is written into them is; the rest are masks, positions and
    counters, whose values are known."""

    def register(
        original: Any, self: Any, name: str, tensor: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if tensor is not None and _is_plain(tensor) and tensor.is_floating_point():
            tensor = ours.like(tensor)
        return original(self, name, tensor, *args, **kwargs)

    patches.around(torch().nn.Module, "register_buffer", register)


def _moves(patches: Patches) -> None:
    """`Module.to` and the like. Torch's own would swap fake parameters for others, which it
    refuses where somebody holds a weak reference to them."""
    from torch._subclasses.fake_tensor import FakeTensor

    def move(tensor: Any, function: Callable[[Any], Any]) -> Any:
        with torch().no_grad():
            moved = function(tensor)
        if moved is tensor:
            return tensor
        if isinstance(tensor, FakeTensor) and isinstance(moved, FakeTensor):
            tensor.data = moved
            return tensor
        return moved

    def apply(self: Any, fn: Callable[[Any], Any], recurse: bool = True) -> Any:
        if recurse:
            for child in self.children():
                child._apply(fn)
        for name, old in self._parameters.items():
            if old is None:
                continue
            gradient = old.grad
            new = move(old, fn)
            if new is not old:
                new = self._parameters[name] = torch().nn.Parameter(new, old.requires_grad)
            if gradient is not None:
                new.grad = move(gradient, fn)
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = fn(buffer)
        return self

    patches.put(torch().nn.Module, "_apply", apply)


def _loaders(patches: Patches) -> None:
    """Batches are made in this process: workers would send them through shared memory, which
    fake tensors have none of."""
    loader = torch().utils.data.DataLoader

    def iterator(original: Any, self: Any) -> Any:
        before = self.num_workers, self.timeout
        self.num_workers, self.timeout = 0, 0
        try:
            return original(self)
        finally:
            self.num_workers, self.timeout = before

    patches.around(loader, "_get_iterator", iterator)


_NOTHING = (
    "set_device synchronize empty_cache reset_peak_memory_stats reset_max_memory_allocated"
    " reset_accumulated_memory_stats init"
).split()
_ZERO = (
    "current_device memory_allocated memory_reserved max_memory_allocated max_memory_reserved"
).split()


def _no_cuda(patches: Patches) -> None:
    """Scripts that look for a GPU find none; those that take it for granted may go on."""
    cuda = torch().cuda
    patches.put(cuda, "is_available", lambda: False)
    patches.put(cuda, "device_count", lambda: 0)
    patches.put(torch().Tensor, "pin_memory", lambda self, *args, **kwargs: self)
    for name in _NOTHING:
        patches.put(cuda, name, lambda *args, **kwargs: None)
    for name in _ZERO:
        patches.put(cuda, name, lambda *args, **kwargs: 0)


def _process_groups(patches: Patches) -> None:
    """Collectives answer at once, whether the other ranks are there or not."""
    distributed = torch().distributed
    if not distributed.is_available():
        return

    def init(original: Any, *args: Any, **kwargs: Any) -> Any:
        from torch.testing._internal.distributed.fake_pg import FakeStore

        rank, size = kwargs.get("rank", -1), kwargs.get("world_size", -1)
        return original(
            "fake",
            store=FakeStore(),
            rank=int(os.environ.get("RANK", 0)) if rank < 0 else rank,
            world_size=int(os.environ.get("WORLD_SIZE", 1)) if size < 0 else size,
        )

    def unshared(state: Any, bucket: Any) -> Any:
        future: Any = torch().futures.Future()
        future.set_result(bucket.buffer())
        return future

    unshared.__annotations__.clear()  # DistributedDataParallel compares them with its own
    replicated = torch().nn.parallel.DistributedDataParallel
    register = replicated.register_comm_hook

    def wrap(original: Any, self: Any, module: Any, *args: Any, **kwargs: Any) -> None:
        kwargs.update(device_ids=None, output_device=None)
        original(self, module, **kwargs)
        register(self, None, unshared)

    patches.around(distributed, "init_process_group", init)
    patches.around(replicated, "__init__", wrap)
    patches.put(replicated, "register_comm_hook", lambda self, state, hook: None)
    # SyncBatchNorm refuses the CPU; among ranks that hold no values there is nothing to share.
    patches.put(replicated, "_passing_sync_batchnorm_handle", lambda self, module: None)
    norms = torch().nn.modules.batchnorm
    patches.put(norms.SyncBatchNorm, "forward", norms._BatchNorm.forward)
