"""The forecast, case by case; each live one is held against the step itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from freezecheck import Forecast, forecast, moves
from freezecheck.moves import predict
from freezecheck.snapshot import Group, Held, Model, Optimizer, Param, Snapshot


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # The gradient of a bias before BatchNorm is noise, which rounding swallows.
        self.backbone = nn.Sequential(
            nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4)
        )
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.backbone(x))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def backward(model: nn.Module) -> None:
    torch.manual_seed(1)
    model(torch.randn(8, 4)).square().mean().backward()


def zero(model: nn.Module) -> None:
    for p in model.parameters():
        p.grad = torch.zeros_like(p)


def agreed(model: nn.Module, optimizer: Any) -> Forecast:
    """The forecast, after the step has proved it right."""
    answer = forecast(model, optimizer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for one in optimizer if isinstance(optimizer, list) else [optimizer]:
        one.step()
    for name, p in model.named_parameters():
        if answer[name].moves is not None:
            assert answer[name].moves is not torch.equal(before[name], p), answer[name]
    return answer


def whys(answer: Forecast) -> set[str]:
    return {m.why for m in answer}


# -- plain data -----------------------------------------------------------------------


def test_prediction_needs_no_torch() -> None:
    code = "import sys, freezecheck.moves; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def snapshot(family: str = "SGD", grad: str | None = "nonzero", **options: Any) -> Snapshot:
    group = Group(options.get("lr", 0.1), options.get("weight_decay", 0.0), 1, 4, options)
    param = Param("w", (4,), 4, "float32", "cpu", True, 0, grad=grad, held=(Held(0, 0),))
    return Snapshot(
        models=[Model("model", "Net", True)],
        params=[param],
        optimizers=[Optimizer("optimizer", f"torch.optim.{family}", True, family, groups=[group])],
    )


def test_prediction_survives_json() -> None:
    now = snapshot("AdamW", grad="zero", weight_decay=0.1)
    again = Snapshot.from_dict(json.loads(json.dumps(now.to_dict())))
    assert predict(again) == predict(now) == (moves.Movement("w", True, moves.DECAY),)


@pytest.mark.parametrize(
    ("now", "moving", "why"),
    [
        (snapshot(), True, moves.GRADIENT),
        (snapshot(grad=None), False, moves.NO_GRADIENT),
        (snapshot(grad="zero"), False, moves.ZERO),
        (snapshot(grad="unknown"), None, "cannot say: the gradient or the rate cannot be read"),
        (snapshot(lr=0.0), False, moves.RATE),
        (snapshot(lr=float("nan")), None, "cannot say: the gradient or the rate cannot be read"),
        (snapshot("Lion"), None, "cannot say: unknown optimizer Lion"),
        (
            snapshot("Adam", grad="sparse"),
            None,
            "cannot say: step() of Adam will raise on this gradient",
        ),
        (
            snapshot("SparseAdam"),
            None,
            "cannot say: step() of SparseAdam will raise on this gradient",
        ),
        (snapshot("Rprop", lr=0.0), True, moves.GRADIENT),
    ],
)
def test_one_tensor(now: Snapshot, moving: bool | None, why: str) -> None:
    assert predict(now) == (moves.Movement("w", moving, why),)


def test_decay_that_rounds_away() -> None:
    """1 - rate * decay is exactly 1 well below epsilon, and never well above it."""
    shares = {1e-9: False, 6e-8: None, 1e-6: True}
    for share, moving in shares.items():
        [movement] = predict(snapshot("AdamW", grad="zero", lr=1.0, weight_decay=share))
        assert movement.moves is moving


def test_state_that_does_not_fit() -> None:
    now = snapshot("Adam")
    now.params[0].held[0].mismatch = "exp_avg has shape (3,), the parameter (4,)"
    assert predict(now)[0].why == "cannot say: exp_avg has shape (3,), the parameter (4,)"


# -- live -----------------------------------------------------------------------------


def test_head_only(net: Net) -> None:
    net.backbone.requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters())
    backward(net)
    answer = agreed(net, optimizer)
    assert answer.moving == {"fc.weight": "gradient", "fc.bias": "gradient"}
    assert set(answer.still.values()) == {"frozen"}
    assert not answer.unknown


def test_unfrozen_after_the_optimizer(net: Net) -> None:
    net.backbone.requires_grad_(False)
    optimizer = torch.optim.SGD((p for p in net.parameters() if p.requires_grad), lr=0.1)
    net.requires_grad_(True)
    backward(net)
    answer = agreed(net, optimizer)
    assert answer.still == dict.fromkeys(
        (n for n, _ in net.named_parameters() if n.startswith("backbone")), "in no optimizer"
    )


def test_no_backward_yet(net: Net) -> None:
    assert whys(agreed(net, torch.optim.SGD(net.parameters(), lr=0.1))) == {"no gradient"}


def test_stale_gradient_of_a_frozen_tensor(net: Net) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    backward(net)
    net.fc.requires_grad_(False)
    assert agreed(net, optimizer)["fc.weight"] == moves.Movement(
        "fc.weight", True, "stale gradient"
    )
    optimizer.zero_grad()
    assert agreed(net, optimizer)["fc.weight"].why == "frozen"


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
        lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
        lambda p: torch.optim.NAdam(p, lr=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9),
    ],
)
def test_momentum_moves_what_was_frozen(net: Net, make: Callable[..., Any], to_none: bool) -> None:
    optimizer = make(net.parameters())
    backward(net)
    optimizer.step()
    net.requires_grad_(False)
    optimizer.zero_grad(set_to_none=to_none)
    assert whys(agreed(net, optimizer)) == ({"frozen"} if to_none else {"momentum"})


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.RMSprop(p, lr=0.1),
        lambda p: torch.optim.Adagrad(p, lr=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.0, 0.999)),
        lambda p: torch.optim.Adafactor(p, lr=0.1),
    ],
)
def test_no_momentum_no_movement(net: Net, make: Callable[..., Any]) -> None:
    optimizer = make(net.parameters())
    backward(net)
    optimizer.step()
    zero(net)
    assert whys(agreed(net, optimizer)) == {"gradient is zero"}


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1),
        lambda p: torch.optim.ASGD(p, lr=0.1),
    ],
)
def test_decay_moves_all_but_zeros(net: Net, make: Callable[..., Any]) -> None:
    """BatchNorm's bias is all zeros, which decay leaves alone."""
    zero(net)
    answer = agreed(net, make(net.parameters()))
    assert answer["backbone.1.bias"].why == "gradient is zero"
    assert set(answer.moving.values()) == {"weight decay"}
    assert len(answer.moving) == 6


def test_damped_gradient(net: Net) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, dampening=1)
    zero(net)
    optimizer.step()
    backward(net)
    assert whys(agreed(net, optimizer)) == {"gradient is damped to nothing"}


def test_rate_zero_stops_all_but_nan(net: Net) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    backward(net)
    net.fc.weight.grad[0, 0] = torch.inf
    answer = agreed(net, optimizer)
    assert answer.moving == {"fc.weight": "gradient is not finite"}
    assert set(answer.still.values()) == {"rate 0"}


def test_asgd_uses_the_rate_of_the_step_before(net: Net) -> None:
    optimizer = torch.optim.ASGD(net.parameters(), lr=0.1)
    backward(net)
    agreed(net, optimizer)
    optimizer.param_groups[0]["lr"] = 0.0
    assert whys(agreed(net, optimizer)) == {"gradient"}
    assert whys(agreed(net, optimizer)) == {"rate 0"}


def test_rprop_ignores_the_rate_and_waits_at_a_change_of_sign(net: Net) -> None:
    optimizer = torch.optim.Rprop(net.parameters(), lr=0.0)
    backward(net)
    assert whys(agreed(net, optimizer)) == {"gradient"}
    for p in net.parameters():
        p.grad.neg_()
    assert whys(agreed(net, optimizer)) == {"gradient changed its sign"}
    assert whys(agreed(net, optimizer)) == {"gradient"}


def test_half_precision_divides_by_zero() -> None:
    """Adam's eps of 1e-8 is 0 in float16: a zero gradient may make NaN of a weight."""
    layer = nn.Linear(2, 2).half()
    zero(layer)
    answer = forecast(layer, torch.optim.Adam(layer.parameters()))
    assert whys(answer) == {"cannot say: eps is 0, and 0/0 is NaN"}


def test_sparse_gradients() -> None:
    embedding = nn.Embedding(5, 3, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    optimizer = torch.optim.SparseAdam(embedding.parameters(), lr=0.1)
    assert whys(agreed(embedding, optimizer)) == {"gradient"}
    embedding.weight.grad = 0 * embedding.weight.grad
    assert whys(agreed(embedding, optimizer)) == {"momentum"}
    embedding.zero_grad()
    (0 * embedding(torch.tensor([4]))).sum().backward()
    assert whys(agreed(embedding, optimizer)) == {"gradient is zero"}


class Lion(torch.optim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:
        raise NotImplementedError


class Renamed(torch.optim.AdamW):
    """A step of torch's own under another name."""


class Stepping(torch.optim.SGD):
    """A step of its own."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)


def test_optimizers_of_ones_own(net: Net) -> None:
    backward(net)
    for kind in (Lion, Stepping):
        answer = forecast(net, kind(net.parameters()))
        assert set(answer.unknown.values()) == {f"cannot say: unknown optimizer {kind.__name__}"}
        assert len(answer.unknown) == len(answer) == 7
    assert len(agreed(net, Renamed(net.parameters())).moving) == 7


def test_step_replaced_on_the_object(net: Net) -> None:
    backward(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    assert len(forecast(net, optimizer).moving) == 7
    optimizer.step = lambda closure=None: None
    assert len(forecast(net, optimizer).unknown) == 7


def lbfgs(net: Net, **options: Any) -> tuple[torch.optim.LBFGS, Callable[[], torch.Tensor]]:
    optimizer = torch.optim.LBFGS(list(net.parameters()), lr=0.1, **options)
    inputs = torch.randn(8, 4)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = net(inputs).square().mean()
        loss.backward()
        return loss

    return optimizer, closure


def test_lbfgs_at_its_first_step_and_later(net: Net) -> None:
    net.backbone[0].requires_grad_(False)
    optimizer, closure = lbfgs(net)
    assert forecast(net, optimizer)["backbone.0.weight"].why == "frozen"
    assert forecast(net, optimizer)["fc.weight"].moves is None
    closure()
    answer = forecast(net, optimizer)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer.step(closure)
    assert len(answer.moving) == 6
    for name, p in net.named_parameters():
        assert answer[name].moves is not torch.equal(p, before[name])
    later = forecast(net, optimizer)
    assert later["backbone.0.weight"].why == "frozen"
    assert later["fc.weight"].why == "cannot say: LBFGS follows its history"


def test_lbfgs_that_has_converged(net: Net) -> None:
    optimizer, closure = lbfgs(net, tolerance_grad=100.0)
    closure()
    assert whys(forecast(net, optimizer)) == {"gradient within tolerance"}
    before = [p.detach().clone() for p in net.parameters()]
    optimizer.step(closure)
    assert all(map(torch.equal, before, net.parameters()))


def test_several_optimizers(net: Net) -> None:
    one = torch.optim.SGD(net.parameters(), lr=0.0)
    other = torch.optim.SGD(net.fc.parameters(), lr=0.1)
    backward(net)
    answer = agreed(net, [one, other])
    assert set(answer.moving) == {"fc.weight", "fc.bias"}
    named = forecast(net, {"one": one, "other": other})
    assert named.to_dict() == forecast(net, [one, other]).to_dict()


def test_replaced_head_is_foreign(net: Net) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    backward(net)
    net.fc = nn.Linear(4, 2)
    answer = agreed(net, optimizer)
    assert answer["fc.weight"].why == "in no optimizer"
    assert answer["optimizer.param_groups[0]['params'][5]"].why == "gradient"


def test_names_are_those_of_named_parameters_and_ties_are_known() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            shared = nn.Linear(4, 4)
            self.inner = nn.Sequential(nn.Sequential(shared), nn.Linear(4, 4))
            self.again = shared
            self.inner[1].weight = shared.weight

    model = nn.DataParallel(Tied())
    answer = forecast(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert [m.name for m in answer] == [name for name, _ in model.module.named_parameters()]
    assert answer["inner.1.weight"] is answer["inner.0.0.weight"]
    with pytest.raises(KeyError, match=r"'fc\.weight' is no tensor of this forecast"):
        answer["fc.weight"]


def test_values_that_cannot_be_read() -> None:
    with torch.device("meta"):
        layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer.weight.grad = torch.empty_like(layer.weight)
    answer = forecast(layer, optimizer)
    assert answer["weight"].moves is None
    assert answer["bias"].why == "no gradient"


def test_prints_as_a_short_table(net: Net) -> None:
    net.backbone.requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters())
    backward(net)
    assert repr(forecast(net, optimizer)).splitlines() == [
        "the next step moves 2 of 7 tensors",
        "  moves  gradient  2 tensors  10  fc.*",
        "  still  frozen    5 tensors  44  backbone.*",
    ]
    wide = nn.ModuleList(nn.Linear(2, 2) for _ in range(500))
    lines = repr(forecast(wide, Lion(wide.parameters()))).splitlines()
    assert lines[0] == "the next step moves 0 of 1,000 tensors (1,000 cannot be said)"
    assert len(lines) == 2
    assert lines[1].endswith("0.*, 1.* and 498 more")


def test_bad_input(net: Net) -> None:
    with pytest.raises(TypeError, match="forecast needs an optimizer"):
        forecast(net, None)
    with pytest.raises(TypeError, match="optimizer is a list_iterator, not a torch"):
        forecast(net, iter([]))
    with pytest.raises(TypeError, match="model is a SGD, not a torch"):
        forecast(torch.optim.SGD(net.parameters(), lr=0.1), net)
