"""The rate that curvature promises to be safe is the one at which an optimizer's steps stop to shrink."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from freezecheck.live.api import take_snapshot
from freezecheck.probe.batches import Batches
from freezecheck.probe.curvature import KNOWN, certified
from freezecheck.probe.hessian import largest
from freezecheck.probe.setup import Given

CURVATURES = torch.tensor([0.3, 5.0, 40.0])
SQUARES = torch.tensor([0.04, 1.0, 4.0])  # the means of squared gradients that Adam has seen

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("SGD", {"momentum": 0.8, "dampening": 0.5, "weight_decay": 3.0}),
    ("SGD", {"dampening": 0.5}),  # without momentum it says nothing
    ("Adam", {}),
    ("Adam", {"betas": (0.5, 0.999), "weight_decay": 3.0}),
    ("AdamW", {"weight_decay": 3.0}),
    ("AdamW", {"amsgrad": True}),
    ("NAdam", {"momentum_decay": 0.0}),  # which keeps the momentum that it begins with
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9}),
]


def state(name: str) -> dict[str, Any]:
    """Of an optimizer that has taken so many steps that its divisor does not change any more."""
    step = torch.tensor(1e12)
    zero = torch.zeros(3)
    if name == "RMSprop":
        return {"step": step, "square_avg": SQUARES.clone(), "momentum_buffer": zero}
    kept = {"step": step, "exp_avg": zero.clone(), "exp_avg_sq": SQUARES.clone()}
    return {**kept, "max_exp_avg_sq": SQUARES.clone(), "mu_product": torch.tensor(0.0)}


class Quadratic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.full((3,), 1e-12))

    def forward(self, _: Any) -> Any:
        return 0.5 * (CURVATURES * self.x.square()).sum()


def made(name: str, options: dict[str, Any], lr: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Quadratic()
    still = {} if name == "SGD" else {"alpha": 1 - 1e-9} if name == "RMSprop" else None
    betas = {"betas": (options.get("betas", (0.9,))[0], 1 - 1e-9)} if still is None else {}
    optimizer = getattr(torch.optim, name)(
        model.parameters(), lr=lr, **{**options, **(still or {}), **betas}
    )
    if name != "SGD":
        optimizer.state[model.x] = state(name)
    return model, optimizer


def setup_of(model: nn.Module, optimizer: Any, batches: Any = (None,), loss: Any = None) -> Any:
    return Given(
        model=model,
        optimizer=optimizer,
        batches=Batches(batches),
        device=torch.device("cpu"),
        peaks=[group["lr"] for group in optimizer.param_groups],
        steps=30,
        max_steps=60,
        loss=loss,
        forward=None,
    )


def promised(setup: Any, group: int = 0) -> float | None:
    now = take_snapshot(setup.model, setup.optimizer)
    record = now.optimizers[0]
    return certified(setup, group, record.family, record.groups[group].options)


@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=lambda v: str(v))
def test_just_below_steps_shrink_and_just_above_they_grow(name: str, options: dict[str, Any]):
    rate = promised(setup_of(*made(name, options, 1.0)))
    assert rate is not None
    assert not grows(*made(name, options, 0.97 * rate))
    assert grows(*made(name, options, 1.03 * rate))


def grows(model: Any, optimizer: torch.optim.Optimizer) -> bool:
    for _ in range(400):
        optimizer.zero_grad()
        model(None).backward()
        optimizer.step()
        if float(model.x.detach().abs().max()) > 1e-9:
            return True
    return False


def test_every_family_is_tried():
    assert {name for name, _ in SETTINGS} == set(KNOWN)


@pytest.mark.parametrize("name", ["Adagrad", "RAdam", "Rprop"])
def test_other_optimizers_are_promised_nothing(name: str):
    model = Quadratic()
    assert promised(setup_of(model, getattr(torch.optim, name)(model.parameters(), lr=1.0))) is None


@pytest.mark.parametrize("options", [{"maximize": True}, {}], ids=str)
def test_nothing_is_promised_without_curvature_upwards(options: dict[str, Any]):
    model = nn.Linear(3, 1)
    batches = [torch.randn(8, 3)]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, **options)

    def loss(out: Any) -> Any:
        return -out.square().mean() if options else out.mean()

    assert promised(setup_of(model, optimizer, batches, loss)) is None


# -- the curvature itself --------------------------------------------------------------


class Once(torch.autograd.Function):
    """The hyperbolic tangent, as a fused kernel has it."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x.tanh())
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Any) -> Any:
        return grad * (1 - ctx.saved_tensors[0] ** 2)


def network(tanh: Callable[[Any], Any]) -> SimpleNamespace:
    torch.manual_seed(0)
    x, y = torch.randn(64, 6), torch.randint(3, (64,))
    weights = [nn.Parameter(torch.randn(8, 6) / 2), nn.Parameter(torch.randn(3, 8) / 2)]
    roots = [torch.rand_like(w) for w in weights]

    def loss(*given: Any) -> Any:
        one, two = given or weights
        return F.cross_entropy(tanh(x @ one.T) @ two.T, y)

    return SimpleNamespace(weights=weights, roots=roots, loss=loss)


def exactly(net: SimpleNamespace, decay: float) -> float:
    """From the whole matrix."""
    blocks = torch.autograd.functional.hessian(net.loss, tuple(net.weights))
    sizes = [w.numel() for w in net.weights]
    matrix = torch.cat(
        [
            torch.cat([b.reshape(m, n) for b, n in zip(row, sizes)], 1)
            for row, m in zip(blocks, sizes)
        ]
    )
    roots = torch.cat([r.flatten() for r in net.roots])
    matrix = roots[:, None] * (matrix + decay * torch.eye(len(matrix))) * roots
    return float(torch.linalg.eigvalsh(matrix.double())[-1])


@pytest.mark.parametrize("tanh", [torch.tanh, Once.apply], ids=["twice", "once"])
def test_the_largest_eigenvalue(tanh: Callable[[Any], Any]):
    net = network(tanh)
    before = [w.detach().clone() for w in net.weights]
    found = largest(net.loss, net.weights, net.roots, 0.1)
    assert found == pytest.approx(exactly(network(torch.tanh), 0.1), rel=0.03)
    assert all(torch.equal(*pair) for pair in zip(before, net.weights))


def test_fused_attention_has_a_curvature():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    x, y = torch.randn(8, 5, 16), torch.randn(8, 5, 16)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    setup = setup_of(layer, optimizer, [(x, y)], F.mse_loss)
    rate = promised(setup)
    assert rate is not None
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert promised(setup) == pytest.approx(rate, rel=1e-3)


def test_sparse_gradients_and_half_precision_have_a_curvature():
    torch.manual_seed(0)
    rates = []
    for sparse, kind in ((False, torch.float32), (True, torch.float32), (False, torch.bfloat16)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(9, 4, sparse=sparse), nn.Flatten(), nn.Linear(12, 3))
        model.to(kind)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        batches = [(torch.randint(9, (32, 3)), torch.randint(3, (32,)))]
        rates.append(promised(setup_of(model, optimizer, batches, F.cross_entropy)))
    assert rates[1] == pytest.approx(rates[0], rel=0.03)
    assert rates[2] == pytest.approx(rates[0], rel=0.1)
