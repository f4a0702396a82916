"""Setups inspected without storage: shapes and findings as for real, no memory, clear words."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from freezecheck.live import fake, fake_failure, values
from freezecheck.live.patches import Patches
from freezecheck.memory import Memory, size

HERE = Path(__file__).parent
SCRIPTS = HERE / "scripts"
ROOT = HERE.parent

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the runner is Linux's")


def needs(package: str) -> Any:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


# -- in process ---------------------------------------------------------------------


@contextlib.contextmanager
def faking() -> Iterator[list[tuple[str, ...]]]:
    """The option in force; what the runner would have been told."""
    notes: list[tuple[str, ...]] = []
    patches = Patches()
    fake.install(patches, lambda *words: notes.append(words))
    try:
        yield notes
    finally:
        patches.undo()


def is_fake(tensor: torch.Tensor) -> bool:
    return values.readable(tensor) is None


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(4 * 36, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def test_everything_is_as_before_afterwards():
    before = {
        name: vars(owner).get(name)
        for owner, name in (
            (nn.Parameter, "__new__"),
            (nn.Module, "_apply"),
            (nn.Module, "register_buffer"),
            (torch, "save"),
            (torch, "load"),
            (torch.cuda, "is_available"),
            (torch.utils.data.DataLoader, "_get_iterator"),
        )
    }
    with faking():
        assert is_fake(Net().head.weight)
    assert not is_fake(Net().head.weight)
    assert (torch.ones(2) * 2).tolist() == [2, 2]
    assert values.hidden.test is None
    assert before["__new__"] is vars(nn.Parameter)["__new__"]
    assert before["_apply"] is vars(nn.Module)["_apply"]
    assert before["save"] is torch.save
    assert before["is_available"] is torch.cuda.is_available


def test_parameters_are_fake_parameters():
    with faking():
        weight = Net().head.weight
        assert is_fake(weight)
        assert isinstance(weight, nn.Parameter)
        assert type(weight).__mro__.index(nn.Parameter)  # the recorder hears of its flags there
        assert weight.requires_grad
        assert weight.is_leaf
        twin = type(weight)(weight.data, requires_grad=False)
        assert isinstance(twin, nn.Parameter)
        assert not twin.requires_grad
        assert nn.Parameter(torch.zeros(3), requires_grad=False).requires_grad is False
        assert nn.Parameter(torch.empty(3, device="meta")).is_meta


def test_writes_to_flags_are_heard():
    heard = []
    patches = Patches()
    plain = torch.Tensor.requires_grad

    def write(self: Any, value: bool) -> None:
        plain.__set__(self, value)
        heard.append(value)

    patches.put(nn.Parameter, "requires_grad", property(plain.__get__, write))
    try:
        with faking():
            model = Net()
            heard.clear()
            for param in model.body.parameters():
                param.requires_grad = False
    finally:
        patches.undo()
    assert heard == [False] * 4
    assert not any(p.requires_grad for p in model.body.parameters())
    assert model.head.weight.requires_grad


def test_what_takes_terabytes_takes_nothing():
    with faking():
        model = nn.Sequential(nn.Linear(1_000_000, 1_000_000), nn.Linear(1_000_000, 10))
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.randn(2, 1_000_000)).sum().backward()
        optimizer.step()
        assert optimizer.state[model[0].weight]["exp_avg"].shape == (1_000_000, 1_000_000)
        assert copy.deepcopy(model)[0].weight.shape == (1_000_000, 1_000_000)
        assert is_fake(torch.zeros(1_000_000, 1_000_000))


def test_known_values_stay_known():
    with faking():
        order = torch.randperm(10)
        assert sorted(order.tolist()) == list(range(10))
        mask = torch.arange(6) > 2
        assert int(mask.sum()) == 3
        assert Net()(torch.zeros(6, 3, 8, 8))[mask].shape == (3, 5)
        model = nn.BatchNorm1d(3)
        model(torch.randn(4, 3))
        assert int(model.num_batches_tracked) == 1
        assert is_fake(model.running_mean)
        first, second = torch.utils.data.random_split(range(10), [7, 3])
        assert sorted([*first, *second]) == list(range(10))


def test_a_real_tensor_that_was_written_to_is_known_no_more():
    with faking():
        kept, other = torch.zeros(3), torch.zeros(3)
        view = kept[1:]
        kept.copy_(nn.Linear(2, 3).bias.detach())
        assert is_fake(kept)
        assert is_fake(view)  # the same storage
        assert is_fake(kept + 1)
        assert not is_fake(other)
        assert values.is_zero(other)
        assert values.is_zero(kept) is None


def test_values_are_unknown():
    with faking():
        model = Net()
        norm = model.body[1]
        model(torch.randn(2, 3, 8, 8)).sum().backward()
        assert values.gradient(model.head.weight.grad) == "unknown"
        assert values.fresh_layer(model.head) is None
        assert values.fresh_norm(norm) is None
        assert values.pretrained([norm]) is None
        assert values.is_finite(model.head.weight)
        assert values.number(model.head.bias[0]) != values.number(model.head.bias[0])  # NaN


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda x: x.sum().item(), 1.0),
        (lambda x: float(x.sum()), 1.0),
        (lambda x: int(x.argmax()), 1),
        (lambda x: bool(x.sum() > 0), True),
        (lambda x: bool(torch.isfinite(x).all()), True),
        (lambda x: bool(torch.isnan(x).any() or torch.isinf(x).any()), False),
        (lambda x: bool((x == float("inf")).any()), False),
        (lambda x: torch.equal(x, x * 2), False),
        (lambda x: torch.equal(x, x.detach()), True),
        (lambda x: torch.allclose(x, x * 2), True),
        (lambda x: f"{x.sum():.2f}", "1.00"),
        (lambda x: x.detach().numpy().shape, (4, 5)),
        (lambda x: x.detach().cpu().numpy().mean(), 1.0),
        (lambda x: x.argmax(1).tolist(), [1, 1, 1, 1]),
        (lambda x: len([*x]), 4),
        (lambda x: tuple(x[x > 0].shape), (20,)),
        (lambda x: tuple(torch.nonzero(x).shape), (20, 2)),
        (lambda x: tuple(x.masked_select(x > 0).shape), (20,)),
        (lambda x: tuple(x.argmax(1).unique().shape), (4,)),
        (lambda x: tuple(torch.bincount(x.argmax(1), minlength=5).shape), (5,)),
        (lambda x: x.cuda().device.type, "cpu"),
        (lambda x: x.to("cuda:1").device.type, "cpu"),
        (lambda x: torch.zeros(3, device="cuda").device.type, "cpu"),
        (lambda x: torch.zeros(3).pin_memory().shape, (3,)),
        (lambda x: torch.cuda.is_available(), False),
        (lambda x: torch.cuda.max_memory_allocated(), 0),
    ],
)
def test_answers(ask: Callable[[torch.Tensor], Any], answer: Any):
    with faking():
        assert ask(nn.Linear(3, 5)(torch.randn(4, 3))) == answer


def _pairs() -> list[Any]:
    """What a model does, asked of a real one and of a fake one."""
    vision = lambda: torch.arange(2 * 3 * 8 * 8.0).view(2, 3, 8, 8) / 100  # noqa: E731
    text = lambda: torch.arange(12).view(2, 6)  # noqa: E731
    rows = torch.tensor([0, 2, 1])
    return [
        (Net, lambda m: m(vision())),
        (Net, lambda m: F.cross_entropy(m(vision()), torch.tensor([1, 2]))),
        (Net, lambda m: m(vision()).topk(2, 1).indices),
        (Net, lambda m: m.body(vision())[torch.tensor([True, False])]),
        (Net, lambda m: m.head.weight[rows]),
        (Net, lambda m: m.head.weight.data.index_fill(0, rows, 1.0).half()),
        (Net, lambda m: m.double().head.weight),
        (Net, lambda m: m.head.weight.t().contiguous().view(-1)[::2]),
        (Net, lambda m: copy.deepcopy(m).head.weight),
        (Net, lambda m: torch.stack([p.norm() for p in m.parameters()])),
        (lambda: nn.LSTM(4, 8, 2, batch_first=True), lambda m: m(torch.zeros(2, 5, 4))[0]),
        (lambda: nn.Embedding(20, 8), lambda m: m(text()).masked_fill((text() > 3)[..., None], 0)),
        (lambda: nn.MultiheadAttention(8, 2), lambda m: m(*[torch.zeros(5, 2, 8)] * 3)[1]),
        (
            lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            lambda m: m(torch.zeros(2, 6, 8), src_key_padding_mask=text() > 8),
        ),
        (lambda: nn.EmbeddingBag(20, 8), lambda m: m(text())),
        (lambda: nn.ConvTranspose2d(3, 4, 3, 2), lambda m: m(vision())),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), lambda m: m.weight),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), lambda m: m.weight),
        (lambda: nn.init.orthogonal_(nn.Linear(3, 4).weight), lambda m: m),
    ]


@pytest.mark.parametrize(("build", "use"), _pairs())
def test_shapes_and_types_are_the_real_ones(build: Callable[[], Any], use: Callable[[Any], Any]):
    def facts(tensor: torch.Tensor) -> tuple[Any, ...]:
        return (tuple(tensor.shape), tensor.dtype, tensor.stride(), tensor.requires_grad)

    torch.manual_seed(0)
    real = use(build())
    with faking():
        result = use(build())
        assert is_fake(result)
        assert facts(result) == facts(real)


def test_moving_a_model_keeps_its_parameters():
    with faking():
        model = Net()
        before = list(model.parameters())
        model(torch.randn(2, 3, 8, 8)).sum().backward()
        model.to("cuda").half()
        assert [id(p) for p in model.parameters()] == [id(p) for p in before]
        assert {p.dtype for p in before} == {torch.float16}
        assert {p.grad.dtype for p in before} == {torch.float16}  # type: ignore[union-attr]
        assert model.body[1].running_mean.dtype == torch.float16
        with torch.device("meta"):
            empty = nn.Linear(3, 3)
        assert empty.weight.is_meta
        assert is_fake(empty.to_empty(device="cuda").weight)
        assert not empty.weight.is_meta


def test_what_is_saved_is_loaded_again(tmp_path: Path):
    path, moved = tmp_path / "model.pt", tmp_path / "best.pt"
    with faking():
        model = nn.Linear(100_000, 100_000)
        torch.save({"model": model.state_dict(), "epoch": 3}, path)
        path.rename(moved)
        state = torch.load(moved, map_location="cuda")
        assert state["epoch"] == 3
        assert not model.load_state_dict(state["model"]).missing_keys
        buffer = io.BytesIO()
        torch.save([model.weight], buffer)
        buffer.seek(0)
        assert torch.load(buffer)[0].shape == (100_000, 100_000)
        with pytest.raises(FileNotFoundError):
            torch.load(path)
    assert moved.stat().st_size < 2000


@needs("safetensors")
def test_safetensors_are_holes_of_the_right_shapes(tmp_path: Path):
    from safetensors.torch import load_file

    path = tmp_path / "model.safetensors"
    with faking():
        from safetensors import torch as home

        tensors = {"a": nn.Linear(3, 4).weight, "b": nn.Linear(3, 4).half().bias}
        assert len({t.untyped_storage().data_ptr() for t in tensors.values()}) == 2
        home.save_file(tensors, path, {"format": "pt"})
        home.save_file({"known": torch.arange(3)}, tmp_path / "real.safetensors")
    loaded = load_file(path)
    assert {name: (tuple(t.shape), t.dtype) for name, t in loaded.items()} == {
        "a": ((4, 3), torch.float32),
        "b": ((4,), torch.float16),
    }
    assert load_file(tmp_path / "real.safetensors")["known"].tolist() == [0, 1, 2]


def test_a_real_checkpoint_is_read(tmp_path: Path):
    path = tmp_path / "model.pt"
    torch.save({"model": Net().state_dict(), "classes": torch.arange(5)}, path)
    with faking():
        state = torch.load(path, map_location="cuda:0")
        assert state["classes"].tolist() == [0, 1, 2, 3, 4]
        model = Net()
        model.load_state_dict(state["model"])
        assert is_fake(model.head.weight)
        model.load_state_dict(state["model"], assign=True)
        assert is_fake(model.head.weight)
        assert isinstance(model.head.weight, nn.Parameter)


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "Adagrad"])
def test_the_memory_is_that_of_the_real_setup(kind: str):
    def step() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = Net()
        model.body[0].requires_grad_(False)
        options = {"momentum": 0.9} if kind == "SGD" else {}
        optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1, **options)
        model(torch.randn(2, 3, 8, 8)).sum().backward()
        optimizer.step()
        return model, optimizer

    def held(tensors: Any) -> int:
        return sum(t.untyped_storage().nbytes() for t in tensors)

    model, optimizer = step()
    states = [t for kept in optimizer.state.values() for t in kept.values() if t is not None]
    real = [
        held(model.parameters()),
        held(p.grad for p in model.parameters() if p.grad is not None),
        held(states),
    ]
    del model, optimizer, states
    with faking() as notes:
        kept = step()
        told = [json.loads(words[1]) for words in notes if words[0] == "memory"]
    assert kept
    assert len(told) == 1
    assert told[0][1:] == real[1:]
    assert told[0][0] >= real[0]  # other tests' models may be alive


def test_sizes_in_words():
    assert [size(n) for n in (0, 512, 8_800_000, 7 * 2**30, 2**40)] == [
        "0 B",
        "512 B",
        "8.39 MiB",
        "7 GiB",
        "1,024 GiB",
    ]
    words = str(Memory(2**30, 2**20, 2**21))
    assert words == "parameters 1 GiB, gradients 1 MiB, optimizer state 2 MiB"


def test_what_cannot_be_answered_is_told_from_other_errors():
    with faking():
        x = nn.Linear(3, 5)(torch.randn(4, 3))
        with pytest.raises(Exception) as caught:
            torch.unique(x, dim=0)
        assert fake_failure.reason(caught.value) == "aten.unique_dim.default"
        with pytest.raises(RuntimeError) as caught:
            nn.Linear(3, 5)(torch.randn(4, 4))
        assert fake_failure.reason(caught.value) is None


# -- scripts --------------------------------------------------------------------------


def inspect(folder: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and standard error of `freezecheck inspect`."""
    done = subprocess.run(
        [sys.executable, "-m", "freezecheck", "inspect", "--output-format", "json", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def told(report: dict[str, Any]) -> set[tuple[Any, ...]]:
    return {(f["code"], f["path"], f["line"], f["symbol"]) for f in report["findings"]}


END_TO_END = HERE / "end_to_end" / "scripts"
TWINS = ROOT / "fixtures" / "twins"
TORCHVISION = ROOT / "fixtures" / "torchvision"
slow = pytest.mark.slow
# What is found with values alone, and so left out without them.
ONLY_REAL = {"frozen_weight_still_moves": {"FC206"}, "one_rate_for_all": {"FC301"}}


def _same() -> list[Any]:
    cases = [
        pytest.param(END_TO_END / "plain_loop.py", "--late-unfreeze"),
        pytest.param(END_TO_END / "gan.py", "", marks=slow),
        pytest.param(END_TO_END / "lbfgs.py", "", marks=slow),
        pytest.param(END_TO_END / "amp.py", "", marks=slow),
        pytest.param(END_TO_END / "compiled.py", "", marks=slow),
        pytest.param(END_TO_END / "torchvision_workers.py", "", marks=slow),
        pytest.param(END_TO_END / "accelerate_loop.py", "", marks=[slow, needs("accelerate")]),
        pytest.param(END_TO_END / "lightning_auto.py", "", marks=[slow, needs("lightning")]),
        pytest.param(
            END_TO_END / "hf_trainer.py", "--late-head", marks=[slow, needs("transformers")]
        ),
        pytest.param(TORCHVISION / "efficientnet_b0_two_phases.py", "", marks=slow),
        pytest.param(TORCHVISION / "distillation.py", "", marks=slow),
        pytest.param(TORCHVISION / "regnet_own_train_method.py", "", marks=slow),
    ]
    for name in (
        "exhausted_generator",
        "frozen_batchnorm_in_train_mode",
        "frozen_weight_still_moves",
        "head_swapped_late",
        "one_rate_for_all",
    ):
        cases.append(pytest.param(TWINS / name / "broken.py", "", marks=slow))
    return cases


@linux
@pytest.mark.parametrize(("script", "flag"), _same())
def test_the_same_is_found_without_values(script: Path, flag: str):
    words = [script.name, *filter(None, [flag])]
    code, real, _ = inspect(script.parent, *words)
    fake_code, fakes, error = inspect(script.parent, "--fake", *words)
    missing = ONLY_REAL.get(script.parent.name, set())
    assert told(fakes) == {found for found in told(real) if found[0] not in missing}, error
    assert fake_code == (code if not missing else 0)
    assert [m["parameters"] for m in fakes["models"]] == [m["parameters"] for m in real["models"]]
    assert fakes["run"]["outcome"] == "inspected"
    assert sum("--fake" in remark for remark in fakes["left_out"]) == 1
    assert all(code in "".join(fakes["left_out"]) for code in missing)
    assert fakes["memory"]["parameters"] > 0
    assert real["memory"] is None


@linux
@slow
@needs("PIL")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_script_that_asks_for_values_gets_to_its_step(device: str, tmp_path: Path):
    code, report, error = inspect(tmp_path, "--fake", str(SCRIPTS / "asks_values.py"), device)
    assert code == 0, error
    assert report["run"]["outcome"] == "inspected"
    assert [m["trainable_parameters"] for m in report["models"]] == [11_179_077]
    assert not list(tmp_path.iterdir())  # the checkpoint was kept in memory


@linux
@slow
@pytest.mark.parametrize("how", ["ddp", "fully_shard"])
def test_one_rank_stands_for_all(how: str, tmp_path: Path):
    code, report, error = inspect(tmp_path, "--fake", str(SCRIPTS / "many_gpus.py"), how)
    assert code == 0, error
    (model,) = report["models"]
    assert model["trainable_parameters"] == 323
    share = 4 * 323 if how == "ddp" else 0
    assert report["memory"]["parameters"] >= share
    stages = model["stages"]
    assert all(stage["next_step"]["cannot_say"] == stage["tensors"] for stage in stages)


@linux
def test_what_cannot_run_is_said_in_one_line(tmp_path: Path):
    code, report, error = inspect(tmp_path, "--fake", str(SCRIPTS / "needs_values.py"))
    assert code == 2
    assert report["run"]["outcome"] == "crashed"
    assert len(error.strip().splitlines()) == 1
    assert "needs_values.py:9: aten.unique_dim.default" in error
    assert "--fake" in error
    code, report, error = inspect(tmp_path, str(SCRIPTS / "needs_values.py"))
    assert (code, report["run"]["outcome"]) == (0, "inspected"), error


LARGE = [
    # Of 7 G parameters in 4 bytes, and of 128 adapters; of 69 G in 2, all with Adam's two moments.
    pytest.param(
        "large_lora.py", 25.1, 0.0156, 0.0313, marks=[needs("transformers"), needs("peft")]
    ),
    pytest.param("large_loop.py", 128.5, 128.5, 257.0, marks=needs("transformers")),
]


@linux
@slow
@pytest.mark.parametrize(("script", "parameters", "gradients", "state"), LARGE)
def test_models_that_no_machine_here_could_hold(
    script: str, parameters: float, gradients: float, state: float, tmp_path: Path
):
    runner = (
        "import resource, subprocess, sys;"
        "code = subprocess.call(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", runner, sys.executable, "-m", "freezecheck", "inspect"),
            *("--output-format", "json", "--fake", str(SCRIPTS / script)),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    report = json.loads(done.stdout)
    assert report["run"]["outcome"] == "inspected", done.stderr
    assert report["findings"] == []
    gib = {key: value / 2**30 for key, value in report["memory"].items()}
    expected = {"parameters": parameters, "gradients": gradients, "optimizer_state": state}
    assert gib == pytest.approx(expected, rel=0.01)
    assert int(done.stderr.split()[-1]) < 3 * 2**20  # KiB; the libraries alone take 0.7 GiB
