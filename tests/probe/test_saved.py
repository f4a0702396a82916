"""What was saved is restored: compared with all that was there, and with a twin that was never
probed."""

from __future__ import annotations

import contextlib
import gc
import random
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
import torch.distributed.fsdp
from described import ambient, described, difference
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from setups import Eccentric, Interruption, Setup, interrupted_at, norms, seed, setups
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations
from torch.optim import lr_scheduler

from freezecheck.probe.saved import Saved, generators_of, restored

# -- the proof ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    setup=setups(),
    before=st.integers(0, 3),
    gradients=st.booleans(),
    at=st.one_of(st.none(), st.integers(1, 3000)),
    offload=st.booleans(),
)
def test_everything_is_as_it_was_and_training_goes_on_like_a_twin(
    setup: tuple[Any, ...], before: int, gradients: bool, at: int | None, offload: bool
) -> None:
    outcomes = []
    for probed in (False, True):
        seed()
        subject = Setup(*setup)
        for _ in range(before):
            subject.step()
        if not gradients:
            subject.optimizer.zero_grad()
        if probed:
            was, switches = described(vars(subject)), ambient()

            def probe(subject: Setup = subject) -> None:
                with restored(*subject.saved(), offload=offload):
                    if at is None:
                        subject.step(), subject.mistreat()
                    else:
                        interrupted_at(at, lambda: (subject.step(), subject.step()))

            probe()
            assert ambient() == switches
            assert not difference(was, described(vars(subject)))
        outcomes.append(
            (
                [subject.step().hex() for _ in range(3)],
                described(vars(subject), identity=False),
                ambient(),
            )
        )
    assert not difference(*outcomes)


# -- interrupts -----------------------------------------------------------------------


def small() -> tuple[nn.Module, torch.optim.Optimizer]:
    seed()
    model = norms()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(6, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


def change(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.eval()
    optimizer.zero_grad()
    model(torch.randn(6, 4)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "error", [ValueError, KeyboardInterrupt, torch.OutOfMemoryError, SystemExit]
)
def test_an_exception_passes_through_after_the_restoration(error: type[BaseException]) -> None:
    model, optimizer = small()
    was = described((model, optimizer))

    def probe() -> None:
        with restored(model, optimizer):
            change(model, optimizer)
            raise error("enough")

    with pytest.raises(error, match="enough"):
        probe()
    assert not difference(was, described((model, optimizer)))


@pytest.mark.parametrize("at", [*range(2, 600, 37), *range(600, 1500, 83)])
def test_an_interrupted_restoration_is_finished(at: int) -> None:
    """Whatever raises in the middle of it, and wherever."""
    model, optimizer = small()
    was = described((model, optimizer))
    saved = Saved(model, optimizer)
    change(model, optimizer)
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    assert interrupted_at(at, saved.restore)
    assert handlers == [signal.getsignal(number) for number in signal.valid_signals()]
    assert not difference(was, described((model, optimizer)))


def test_ctrl_c_waits_until_everything_is_restored() -> None:
    model, optimizer = small()
    was = described((model, optimizer))
    heard = []
    handler = signal.signal(
        signal.SIGINT, lambda *_: heard.append(difference(was, described((model, optimizer))))
    )
    try:
        saved = Saved(model, optimizer)
        change(model, optimizer)
        write = saved._pieces.bits.write

        def write_and_interrupt() -> None:
            signal.raise_signal(signal.SIGINT)
            assert not heard
            write()

        saved._pieces.bits.write = write_and_interrupt
        saved.restore()
        assert heard == [""]  # by the handler that was there, when all was as before
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)


def test_restored_in_another_thread() -> None:
    model, optimizer = small()
    was = described((model, optimizer))

    def run() -> None:
        with restored(model, optimizer):
            change(model, optimizer)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not difference(was, described((model, optimizer)))


def test_what_cannot_be_put_back_is_told_and_the_rest_is_put_back() -> None:
    model, optimizer = small()
    weight = model[0].weight.detach().clone()
    saved = Saved(model, optimizer)
    change(model, optimizer)
    saved._pieces.others[0].restore = lambda: 1 / 0
    with pytest.raises(RuntimeError, match="division by zero"):
        saved.restore()
    assert torch.equal(model[0].weight, weight)


def test_global_switches() -> None:
    model, optimizer = small()

    def switches() -> tuple[Any, ...]:
        anomaly = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
        cudnn = torch.backends.cudnn
        return (
            *ambient(),
            anomaly,
            cudnn.benchmark,
            cudnn.deterministic,
            torch.get_autocast_dtype("cpu"),
        )

    was = switches()
    with restored(model, optimizer):
        torch.autocast("cpu", torch.float16).__enter__()  # and never out of it
        torch.autograd.set_detect_anomaly(True, check_nan=False)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
        random.random(), numpy.random.rand(), torch.rand(1)
        different = switches()
    assert switches() == was
    assert all(now != before for now, before in zip(different, was))


# -- kinds of tensors and objects --------------------------------------------------------


def test_tensors_of_all_kinds() -> None:
    model = nn.Module()
    model.sparse = nn.Parameter(torch.eye(3).to_sparse())
    model.register_buffer("csr", torch.eye(3).to_sparse_csr())
    model.register_buffer("meta", torch.empty(2, device="meta"))
    model.register_buffer("complex", torch.randn(3, dtype=torch.cfloat).conj())
    model.register_buffer("scalar", torch.tensor(1.0))
    model.register_buffer("empty", torch.empty(0, 3))
    model.register_buffer("nan", torch.tensor([0x7FC12345], dtype=torch.int32).view(torch.float32))
    with torch.inference_mode():
        model.inference = torch.ones(2)
    model.derived = torch.ones(3, requires_grad=True) * 2
    model.leaf = torch.zeros(3)
    values = {
        "sparse": lambda: model.sparse.detach().to_dense(),
        "csr": lambda: model.csr.to_dense(),
        "complex": lambda: model.complex.clone(),
        "scalar": lambda: model.scalar.clone(),
        "nan": lambda: model.nan.view(torch.int32).clone(),
        "inference": lambda: model.inference.clone(),
        "derived": lambda: model.derived.detach().clone(),
        "leaf": lambda: model.leaf.clone(),
    }
    was = {name: value() for name, value in values.items()}
    objects = dict(vars(model)), dict(model._buffers)
    with restored(model):
        with torch.no_grad():
            model.sparse.data = torch.ones(3, 3).to_sparse()
            for name in ("complex", "scalar", "nan", "derived"):
                getattr(model, name).mul_(0).add_(2)
            model.csr.values().mul_(2)
            model.scalar = torch.tensor(7.0)
        model.leaf.add_(torch.ones(3, requires_grad=True))
        with torch.inference_mode():
            model.inference.add_(1)
    for name, value in values.items():
        assert torch.equal(was[name], value()), name
    assert objects == (dict(vars(model)), dict(model._buffers))
    assert model.leaf.is_leaf
    assert not model.leaf.requires_grad


def test_classes_that_change() -> None:
    """A lazy layer becomes another one; a parametrized one gets a class of its own."""
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    was = described((model, optimizer))
    for _ in range(2):
        with restored(model, optimizer):
            parametrizations.weight_norm(model[1])
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()
            assert type(model[0]) is nn.Linear
        assert type(model[0]) is nn.LazyLinear
        assert type(model[1]) is nn.Linear
        assert not difference(was, described((model, optimizer)))


def test_memory_that_is_not_the_models_is_left_alone() -> None:
    """A parameter may be a part of something larger."""
    large = torch.zeros(10)
    model = nn.Module()
    model.part = nn.Parameter(large[2:4])
    with restored(model):
        large.fill_(1)
    assert large.tolist() == [1, 1, 0, 0, 1, 1, 1, 1, 1, 1]


def test_views_and_ties_are_copied_once() -> None:
    model = Eccentric()
    saved = Saved(model)
    here = 24 * 4 + 12 + 4 + 48  # flat with its view, scratch, the one number of wide, the layer
    assert saved.nbytes == here


def test_what_has_no_state_is_refused() -> None:
    with pytest.raises(TypeError, match="generator"):
        Saved(part for part in norms())


def test_the_original_values_can_be_read_meanwhile() -> None:
    model, optimizer = small()
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    with restored(model, optimizer) as saved:
        change(model, optimizer)
        for name, parameter in model.named_parameters():
            assert torch.equal(saved.original(parameter), parameters[name])
            assert not torch.equal(parameter, parameters[name])
        saved.restore()  # again and again
        assert all(torch.equal(p, parameters[name]) for name, p in model.named_parameters())
        with pytest.raises(KeyError):
            saved.original(torch.ones(2))
        change(model, optimizer)
    assert all(torch.equal(p, parameters[name]) for name, p in model.named_parameters())


def test_objects_that_an_optimizer_keeps_for_a_parameter() -> None:
    class Projector:
        def __init__(self) -> None:
            self.matrix, self.uses = torch.eye(2), 0

    model, optimizer = small()
    projector = optimizer.state[model[0].weight]["projector"] = Projector()
    with restored(model, optimizer):
        projector.matrix.mul_(3)
        projector.uses += 1
    assert projector.matrix.equal(torch.eye(2))
    assert projector.uses == 0


def test_hooks_stay_as_they_are() -> None:
    model, optimizer = small()
    calls = []
    with restored(model, optimizer):
        handle = model.register_forward_hook(lambda *_: calls.append(1))
    model(torch.randn(6, 4))
    assert calls == [1]
    handle.remove()


def test_the_loaders_generators() -> None:
    data = torch.utils.data.TensorDataset(torch.arange(20))
    loader = torch.utils.data.DataLoader(data, shuffle=True, generator=torch.Generator())
    numbers = numpy.random.default_rng(0)
    mine, older = random.Random(0), numpy.random.RandomState(0)

    def order() -> tuple[Any, ...]:
        return [int(x) for (x,) in loader], numbers.random(), mine.random(), older.rand()

    with restored([], generators=[*generators_of(loader), numbers, mine, older]):
        first = order()
    assert order() == first


def test_compiled_and_parallel_models() -> None:
    model, _ = small()
    wrapped = nn.DataParallel(torch.compile(model, backend="eager"))
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=1.0, momentum=0.9)
    was = described(model)
    with restored(wrapped, optimizer):
        change(wrapped, optimizer)
    assert not difference(was, described(model))


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of one."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("wrapper", ["ddp", "ddp with gradients in its buckets", "fsdp"])
@pytest.mark.parametrize("halt", ["forward", "backward", None])
def test_a_sharded_or_parallel_model_in_which_a_pass_is_broken_off(wrapper: str, halt: str) -> None:
    outcomes = []
    for probed in (False, True):
        seed()
        model = norms()
        middle = model[2]
        if wrapper == "fsdp":
            mesh = distributed.init_device_mesh("cpu", (1,))
            for part in (model[0], model[4], model):
                distributed.fsdp.fully_shard(part, mesh=mesh)
        else:
            model = DistributedDataParallel(model, gradient_as_bucket_view="buckets" in wrapper)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        change(model.train(), optimizer)
        if probed:
            with contextlib.suppress(Interruption), restored(model, optimizer):
                handles = []
                if halt == "forward":
                    handles.append(middle.register_forward_hook(interrupt))
                elif halt == "backward":
                    handles.append(middle.register_full_backward_hook(interrupt))
                change(model, optimizer)
            for handle in handles:
                handle.remove()
        for _ in range(3):
            change(model, optimizer)
        outcomes.append([torch.sum(p.detach()).item() for p in model.parameters()])
    assert outcomes[0] == outcomes[1]


def interrupt(*_: Any) -> None:
    """A hook."""
    raise Interruption


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("offload", [False, True])
def test_on_a_gpu(offload: bool) -> None:
    outcomes = []
    for probed in (False, True):
        seed()
        model = norms().cuda()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True, capturable=True)
        scaler = torch.amp.GradScaler("cuda", growth_interval=2)

        def step(model: Any = model, optimizer: Any = optimizer, scaler: Any = scaler) -> None:
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.float16):
                loss = model(torch.randn(6, 4, device="cuda")).float().square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

        step()
        if probed:
            with restored(model, optimizer, None, scaler, offload=offload) as saved:
                copies = [c for s in saved._pieces.bits._storages.values() for c in s.copies]
                assert offload is not any(c.is_cuda for c in copies)
                step()
                with torch.cuda.stream(torch.cuda.Stream()):
                    step()
            del copies
        step()
        here = [p.detach().cpu() for p in model.parameters()]
        state = [v.cpu() for s in optimizer.state.values() for v in s.values()]
        outcomes.append(([described(t, identity=False) for t in here + state], scaler.state_dict()))
    assert outcomes[0] == outcomes[1]


@pytest.mark.slow
@pytest.mark.frameworks
def test_lora_under_accelerate() -> None:
    accelerate, peft, transformers = map(
        pytest.importorskip, ("accelerate", "peft", "transformers")
    )
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11, n_positions=9)
    outcomes = []
    for probed in (False, True):
        seed()
        plain = transformers.GPT2LMHeadModel(config)
        lora = peft.LoraConfig(target_modules=["c_attn"], lora_dropout=0.3, fan_in_fan_out=True)
        model = peft.get_peft_model(plain, lora)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
        scheduler = lr_scheduler.LinearLR(optimizer)
        parts = accelerate.Accelerator(cpu=True).prepare(model, optimizer, scheduler)

        def steps(parts: Any = parts) -> list[str]:
            model, optimizer, scheduler = parts
            tokens, losses = torch.arange(6).view(1, 6), []
            for _ in range(3):
                loss = model(input_ids=tokens, labels=tokens).loss
                loss.backward()
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                losses.append(loss.item().hex())
            return losses

        steps()
        if probed:
            with restored(*parts):
                steps()
                model.merge_adapter()
        outcomes.append(
            (
                steps(),
                described(
                    [dict(model.named_parameters()), optimizer.state, scheduler], identity=False
                ),
            )
        )
    assert not difference(*outcomes)


def test_nothing_is_kept_afterwards() -> None:
    model, optimizer = small()
    gc.disable()  # by reference counting alone, at once
    try:
        with restored(model, optimizer) as saved:
            copies = [
                weakref.ref(c) for s in saved._pieces.bits._storages.values() for c in s.copies
            ]
            change(model, optimizer)
            added = weakref.ref(next(iter(optimizer.state.values()))["exp_avg"])
        assert copies
        assert not [copy for copy in copies if copy() is not None]
        kept = weakref.ref(model[0].weight)
        assert added() is not None
        model[0] = nn.Identity()
        optimizer.param_groups.clear()
        optimizer.state.clear()
        assert kept() is None
        assert added() is None
    finally:
        gc.enable()
    with pytest.raises(RuntimeError, match="forgotten"):
        saved.restore()


def test_the_lint_path_does_not_import_it() -> None:
    code = "import sys, freezecheck; print([m for m in sys.modules if m.startswith('freezecheck.probe')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
