"""What a probe asks of a device: how often the host waits for it, where the copies lie, what becomes of
it when memory runs out. Tests marked `gpu` need CUDA; the others count on the CPU what would wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import freezecheck
from freezecheck.probe import bits, steps
from freezecheck.probe.batches import Batches
from freezecheck.probe.initial import Initial
from freezecheck.probe.saved import Saved, restored
from freezecheck.probe.setup import Given

CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")],
)
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def network(device: str = "cpu") -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4)
    ).to(device)


def blobs() -> list[Any]:
    draws = torch.Generator().manual_seed(1)
    labels = torch.randint(4, (512,), generator=draws)
    inputs = torch.randn(512, 16, generator=draws) + 3 * F.one_hot(labels, 16)
    return list(zip(inputs.split(32), labels.split(32)))


def setup(device: str, lr: float, scaled: bool, fused: bool = False) -> Given:
    model = network(device)
    return Given(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=lr, fused=fused),
        batches=Batches(blobs()),
        scaler=torch.amp.GradScaler(device) if scaled else None,
        device=torch.device(device),
        peaks=[lr],
        steps=30,
        max_steps=60,
        loss=F.cross_entropy,
        forward=None,
    )


# -- waits -------------------------------------------------------------------------------

_WAITING = """_local_scalar_dense is_nonzero nonzero equal masked_select unique_dim _unique _unique2
    bincount""".split()
_READING = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu}


class Waits(TorchDispatchMode):
    """Counts the operators that make a host wait for its GPU, were there one."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put_") and any(
            each is not None and each.dtype == torch.bool for each in args[1]
        )
        self.count += masked or name in _WAITING
        return func(*args, **(kwargs or {}))


class Reads(TorchFunctionMode):
    """Counts the methods that on a CPU need no operator."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in _READING
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def waits() -> Iterator[list[int]]:
    """How often the host would have waited within the block."""
    total = [0]
    with Reads() as reads, Waits() as operators:
        yield total
    total[0] = reads.count + operators.count


@pytest.mark.parametrize("wait", ["item", "bool", "tolist", "mask", "cpu"])
def test_the_count_knows_what_waits(wait: str):
    numbers = torch.arange(3.0)
    with waits() as count:
        numbers * 2 + numbers.sum()
        if wait == "item":
            numbers.sum().item()
        elif wait == "bool":
            bool((numbers > 1).any())
        elif wait == "tolist":
            numbers.tolist()
        elif wait == "mask":
            numbers[numbers > 1]
        else:
            numbers.cpu()
    assert count == [1]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("lr", "taken"), [(0.01, 30), (0.0, 60)])
def test_the_host_waits_once_in_ten_steps(scaled: bool, lr: float, taken: int):
    """More often than in the same steps alone, where a gradient scaler waits, and AdamW reads its own
    count of steps."""
    probing = setup("cpu", lr, scaled)
    with restored(probing.model, probing.optimizer, None, probing.scaler) as saved:
        course = steps.Course(Initial(probing.model, saved), classes=4)
        with waits() as ours:
            steps.warm_up(probing, None, course)
    assert len(course.losses) == taken
    alone = setup("cpu", lr, scaled)
    with waits() as theirs:
        for step in range(taken):
            inputs, labels = alone.batches.batch(step)
            alone.optimizer.zero_grad()
            with torch.autocast("cpu", enabled=scaled):
                loss = F.cross_entropy(alone.model(inputs), labels)
            if scaled:
                alone.scaler.scale(loss).backward()
                alone.scaler.step(alone.optimizer)
                alone.scaler.update()
            else:
                loss.backward()
                alone.optimizer.step()
    assert ours[0] - theirs[0] == taken // 10


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("lr", [0.01, 0.0])
def test_no_step_waits_for_a_gpu(lr: float, monkeypatch: pytest.MonkeyPatch):
    reads = []
    read = steps._read

    def allowed(*args: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")
        reads.append(read(*args))
        torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(steps, "_read", allowed)
    probing = setup("cuda", lr, scaled=False, fused=True)
    with restored(probing.model, probing.optimizer) as saved:
        course = steps.Course(Initial(probing.model, saved), classes=4)
        torch.cuda.set_sync_debug_mode("error")
        try:
            steps.warm_up(probing, None, course)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(reads) == len(course.losses) // 10


# -- the same on a GPU -------------------------------------------------------------------


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("lr", [1e-3, 1e-2, 30.0, 1e4])
def test_the_verdict_is_that_of_the_cpu(lr: float):
    reports = []
    for device in ("cpu", "cuda"):
        model = network(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        reports.append(freezecheck.probe(model, optimizer, blobs(), F.cross_entropy))
    assert reports[0].zone == reports[1].zone
    assert reports[0].codes() == reports[1].codes()


def state(model: nn.Module, optimizer: Any, scaler: Any) -> Any:
    """Bits of all tensors, modes, the scaler and the random states, of the GPU too."""
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    for kept in optimizer.state.values():
        tensors += [value for value in kept.values() if isinstance(value, torch.Tensor)]
    random = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        random += torch.cuda.get_rng_state_all()
    return (
        [t.detach().cpu().contiguous().view(-1).view(torch.uint8).tolist() for t in tensors],
        [t.data_ptr() for t in tensors],
        [m.training for m in model.modules()],
        [[v for k, v in g.items() if k != "params"] for g in optimizer.param_groups],
        scaler.state_dict(),
        [each.tolist() for each in random],
    )


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("offload", [False, True, None])
@pytest.mark.parametrize("lr", [0.01, 1e5])
def test_all_is_restored_in_half_precision_too(
    device: str, offload: bool | None, lr: float, monkeypatch: pytest.MonkeyPatch
):
    if offload is not None:
        monkeypatch.setattr(bits.Bits, "_crowded", lambda self: offload)
    model = network(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    scaler = torch.amp.GradScaler(device, growth_interval=3)
    with torch.autocast(device):
        loss = model(torch.randn(8, 16, device=device)).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    before = state(model, optimizer, scaler)
    report = freezecheck.probe(model, optimizer, blobs(), F.cross_entropy, scaler=scaler)
    assert report.zone == ("safe" if lr < 1 else "unsafe")
    assert state(model, optimizer, scaler) == before


# -- where the copies lie ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "broken", "tries"),
    [(1e9, False, [False]), (1e3, False, [True]), (1e9, True, [False, True])],
    ids=["ample", "scarce", "less than said"],
)
def test_copies_lie_on_the_device_where_there_is_room(
    free: float, broken: bool, tries: list[bool], monkeypatch: pytest.MonkeyPatch
):
    asked: list[bool] = []
    copy = bits._Storage.copy

    def copied(storage: Any, offload: bool) -> int:
        if offload not in asked:
            asked.append(offload)
        elif broken and not offload:  # the second one
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return copy(storage, offload)

    monkeypatch.setattr(bits, "_free", lambda device: free)
    monkeypatch.setattr(bits._Storage, "copy", copied)
    model = network()
    weights = [p.detach().clone() for p in model.parameters()]
    saved = Saved(model, offload=None)
    assert asked == tries
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    saved.restore()
    assert all(map(torch.equal, model.parameters(), weights))
    assert all(torch.equal(saved.original(p), p) for p in model.parameters())


def test_memory_that_torch_keeps_is_free(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    assert bits._free(torch.device("cuda", 0)) == 140
    assert bits._free(torch.device("cpu")) > 2**60


# -- exhaustion --------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("at", [1, 20, 50])
def test_exhausted_memory_is_told_and_nothing_is_left_of_it(device: str, at: int):
    """Really exhausted: a petabyte is asked for."""
    model = network(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    left = [at]

    def loss(out: Any, target: Any) -> Any:
        left[0] -= 1
        more = torch.empty(2**50 if left[0] == 0 else 1, device=device)
        return F.cross_entropy(out, target) + 0 * more[:1].zero_().sum()

    scaler = torch.amp.GradScaler(device)
    before = state(model, optimizer, scaler)
    told = r"out of memory with batches of 32 samples; at the peak \d+\.\d GiB"
    with pytest.raises(freezecheck.OutOfMemory, match=told):
        freezecheck.probe(model, optimizer, blobs(), loss)
    assert state(model, optimizer, scaler) == before
