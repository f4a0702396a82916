"""A replayed training is the training itself, down to the bits; what cannot be replayed is said."""

from __future__ import annotations

import copy
import math
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from described import described, difference
from hypothesis import given, settings
from hypothesis import strategies as st
from taped import check, recording, replay
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from freezecheck.probe.faithful import alike, deviates, problem, whole
from freezecheck.probe.judge import judged
from freezecheck.warmup import CLASSES, SAFE, UNSAFE

# -- plain loops --------------------------------------------------------------------------


def net(outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, outputs)
    )


def data(steps: int, size: int = 5) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for _ in range(steps):
        yield torch.randn(size, 6), torch.randint(3, (size,))


Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def module(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.CrossEntropyLoss(label_smoothing=0.1)(model(x), y)


def functional(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


def by_hand(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    logs = model(x).log_softmax(1)
    return 0.9 * -logs[range(len(y)), y].mean() - 0.1 * logs.mean()


def mixup(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    share, order = 0.3, torch.randperm(len(x))
    out = model(share * x + (1 - share) * x[order])
    return share * F.cross_entropy(out, y) + (1 - share) * F.cross_entropy(out, y[order])


def penalized(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    loss = F.cross_entropy(model(x), y)
    loss += 1e-2 * sum(p.square().sum() for p in model.parameters())
    return loss


def summed(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(())
    for part in (slice(0, 2), slice(2, None)):
        total += F.cross_entropy(model(x[part]), y[part]) / 2
    return total


def written(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out = model(x)
    out[:, 0] += 1
    out[0] = 0
    return F.cross_entropy(out.clamp_(-3, 3), y)


def views(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    one, two = (F.normalize(model(x + 0.1 * torch.randn_like(x)), dim=1) for _ in range(2))
    return F.cross_entropy(one @ two.T / 0.5, torch.arange(len(x)))


def noisy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(F.dropout(model(x), 0.2), F.one_hot(y, 3).float())


def pseudo(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        guesses = model(x).argmax(1)
    return F.cross_entropy(model(x), y) + 0.1 * F.cross_entropy(model(x + 0.1), guesses)


def half(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.cross_entropy(model(x) + model(-x), y)


@torch.autocast("cpu", torch.bfloat16)
def decorated(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        return x

    @staticmethod
    def backward(context: Any, grad: torch.Tensor) -> torch.Tensor:
        return 2 * grad


def custom(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(Doubled.apply(model(x)), y)


LOSSES: list[Loss] = [
    module,
    functional,
    by_hand,
    mixup,
    penalized,
    summed,
    written,
    views,
    noisy,
    pseudo,
    half,
    decorated,
    custom,
]

BY_NAME = {loss.__name__: loss for loss in LOSSES}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_any_loss_is_replayed_to_the_bit(loss: Loss):
    torch.manual_seed(0)
    model = net()
    with recording(model) as heard:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        for x, y in data(4):
            optimizer.zero_grad()
            value = loss(model, x, y)
            value.backward()
            optimizer.step()
            schedule.step()
            model.eval()
            with torch.no_grad():
                model(x).argmax(1).eq(y).float().mean().item()
            F.cross_entropy(model(x), y).item()  # validated without no_grad
            model.train()
    check(heard, 4)
    assert heard.model is model
    assert all(taped.samples in (2, 5) for taped in heard.tapes)


# -- steps of several parts ---------------------------------------------------------------


@pytest.mark.parametrize("unscaled", [True, False])
def test_a_scaler_accumulation_and_clipping(unscaled: bool):
    torch.manual_seed(0)
    model = net()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    with recording(model, scaler=scaler) as heard:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        for _ in range(3):
            for x, y in data(3):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = F.cross_entropy(model(x), y)
                scaler.scale(loss / 3).backward()
            if unscaled:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    setup = check(heard, 3)
    assert setup.scaler is scaler
    assert [taped.samples for taped in heard.tapes] == [15] * 3
    assert setup.criterion() is not None


def test_looking_at_a_step_leaves_the_scaler_alone():
    torch.manual_seed(0)
    model = net()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with recording(model, scaler=scaler) as heard:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        for x, y in data(2):
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    heard.saved.restore()
    another = torch.amp.GradScaler("cpu", init_scale=32.0)
    for _ in range(2):
        assert deviates(heard.tapes[0], optimizer, another) is None
        heard.saved.restore()


def test_a_step_that_the_scaler_skips_is_none():
    torch.manual_seed(0)
    model = net()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    with recording(model, scaler=scaler) as heard:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        for index, (x, y) in enumerate(data(3)):
            loss = F.cross_entropy(model(x), y) * (1e20 if index == 0 else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert problem(heard.tapes) is None
    assert [len(taped.backwards) for taped in heard.tapes] == [1, 1]
    assert heard.tapes[0].backwards[0].value < 10


@pytest.mark.parametrize("clip", [nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_])
def test_clipping_of_a_generator(clip: Callable[..., Any]):
    torch.manual_seed(0)
    model = net()
    with recording(model) as heard:
        clip = getattr(nn.utils, clip.__name__)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for x, y in data(3):
            F.cross_entropy(model(x), y).backward()
            clip((p for p in model.parameters()), 0.01)
            optimizer.step()
            model.zero_grad()
    check(heard, 3)


def test_two_models_one_after_the_other_beside_a_teacher():
    torch.manual_seed(0)
    backbone, head, teacher = net(4), nn.Linear(4, 3), net().eval()
    with recording(backbone, head) as heard:
        optimizer = torch.optim.SGD(
            [{"params": backbone.parameters()}, {"params": head.parameters(), "lr": 0.5}], lr=0.1
        )
        for x, y in data(3):
            with torch.no_grad():
                wanted = teacher(x)
            logits = head(F.relu(backbone(x)))
            soft = F.kl_div(logits.log_softmax(1), wanted.softmax(1), reduction="batchmean")
            loss = 0.5 * F.cross_entropy(logits, y) + soft
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            optimizer.step()
    setup = check(heard, 3)
    assert heard.tapes[0].modules == [backbone, head]
    assert list(heard.model.children()) == [backbone, head]
    _, outputs, targets = setup.run(heard.tapes[0])
    assert outputs.shape == (5, 3)
    assert targets.shape == (5,)
    owner = nn.ModuleDict({"backbone": backbone, "head": head})
    around = nn.Sequential(owner, teacher)
    assert whole(heard.tapes, [teacher, around, owner]) is owner


def test_steps_driven_by_closures():
    torch.manual_seed(0)
    model = net()
    with recording(model) as heard:
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
        for x, y in data(2):

            def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
    assert problem(heard.tapes) is None
    assert [len(taped.backwards) for taped in heard.tapes] == [1, 1]
    heard.saved.restore()
    assert deviates(heard.tapes[0], optimizer) is None


def test_the_criterion_of_a_step_is_the_script_s_own():
    torch.manual_seed(0)
    model = net()
    weight = torch.tensor([1.0, 2.0, 3.0])
    with recording(model) as heard:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            for x, y in data(2):
                (F.cross_entropy(model(x), y, weight, reduction="sum") / 10).backward()
            optimizer.step()
            optimizer.zero_grad()
    setup = check(heard, 2)
    criterion = setup.criterion()
    assert criterion is not None
    out, y = torch.randn(5, 3), torch.randint(3, (5,))
    own = F.cross_entropy(out, y, weight, reduction="sum") / 10 * 2
    assert float(criterion(out, y)) == pytest.approx(float(own))
    assert setup.batches.held() == heard.tapes


@pytest.mark.parametrize(
    "loss", [mixup, penalized, pseudo, by_hand], ids=lambda loss: loss.__name__
)
def test_a_loss_of_more_than_outputs_and_targets_is_no_criterion(loss: Loss):
    torch.manual_seed(0)
    model = net()
    with recording(model) as heard:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in data(1):
            loss(model, x, y).backward()
            optimizer.step()
    assert heard.setup.criterion() is None


def test_what_is_asked_of_the_model():
    """Pixels put in a row are in their places again; what contrasts two views is no classification."""
    torch.manual_seed(0)
    model = nn.Conv2d(2, 3, 1)
    with recording(model) as heard:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        labels = torch.randint(3, (4, 5, 5))
        out = model(torch.randn(4, 2, 5, 5))
        F.cross_entropy(out.permute(0, 2, 3, 1).reshape(-1, 3), labels.view(-1)).backward()
        optimizer.step()
    _, outputs, targets = check(heard, 1).run(heard.tapes[0])
    assert torch.equal(outputs, model(heard.tapes[0].calls[0].given[0][0].tensor))
    assert torch.equal(targets, labels)
    model = net()
    with recording(model) as heard:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in data(1):
            views(model, x, y).backward()
            optimizer.step()
    assert heard.setup.run(heard.tapes[0])[1:] == (None, None)


# -- any loop -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loop:
    """A training loop as people write it."""

    losses: tuple[str, ...]  # of the micro-batches of a step
    optimizer: str
    clip: str
    autocast: bool
    scaler: bool
    closure: bool
    zeros: bool  # gradients are zeros, not None
    first: bool  # they are set to zero before the forward pass
    frozen: int  # layers
    resting: bool  # BatchNorm in eval mode
    schedule: bool


LOOPS = st.builds(
    Loop,
    losses=st.lists(
        st.sampled_from([loss.__name__ for loss in LOSSES]), min_size=1, max_size=3
    ).map(tuple),
    optimizer=st.sampled_from(["SGD", "AdamW", "Adagrad", "RMSprop"]),
    clip=st.sampled_from(["", "clip_grad_norm_", "clip_grad_value_"]),
    autocast=st.booleans(),
    scaler=st.booleans(),
    closure=st.booleans(),
    zeros=st.booleans(),
    first=st.booleans(),
    frozen=st.integers(0, 2),
    resting=st.booleans(),
    schedule=st.booleans(),
)


def trained(loop: Loop, model: nn.Sequential, scaler: Any) -> None:
    """Three steps of the loop."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = getattr(torch.optim, loop.optimizer)(weights, lr=0.02)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)

    def gradients() -> None:
        if loop.first:
            optimizer.zero_grad(set_to_none=not loop.zeros)
        for name in loop.losses:
            x, y = next(data(1))
            with torch.autocast("cpu", torch.bfloat16, enabled=loop.autocast):
                loss = BY_NAME[name](model, x, y) / len(loop.losses)
            (loss if scaler is None else scaler.scale(loss)).backward()
        if loop.clip:
            if scaler is not None:
                scaler.unscale_(optimizer)
            getattr(nn.utils, loop.clip)(model.parameters(), 0.05)

    def closure() -> None:
        with torch.enable_grad():
            gradients()

    for _ in range(3):
        if loop.closure and scaler is None:
            optimizer.step(closure)
        else:
            gradients()
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
        if not loop.first:
            optimizer.zero_grad(set_to_none=not loop.zeros)
        if loop.schedule:
            schedule.step()


@settings(max_examples=25, deadline=None)
@given(loop=LOOPS, seed=st.integers(0, 99))
def test_any_loop_is_replayed_to_the_bit(loop: Loop, seed: int):
    torch.manual_seed(seed)
    model = net()
    for layer in list(model)[: loop.frozen]:
        layer.requires_grad_(False)
    if loop.resting:
        model[1].eval()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0) if loop.scaler else None
    with recording(model, scaler=scaler) as heard, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a scheduler misses the step within the scaler's
        trained(loop, model, scaler)
    check(heard, 3)


# -- what people build -----------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.state: Any = None

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        out, state = self.cells(x, state)
        return self.head(out[:, -1]), state

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The state goes from step to step, its gradients do not."""
        out, state = self(x.unsqueeze(1), self.state)
        self.state = tuple(part.detach() for part in state)
        return F.cross_entropy(out, y)


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 4), nn.Linear(2, 6)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        mean, log = self.encode(x).chunk(2, 1)
        out = self.decode(mean + torch.exp(0.5 * log) * torch.randn_like(mean))
        return F.mse_loss(out, x) - 0.1 * (1 + log - mean.pow(2) - log.exp()).mean()


class Averaged(nn.Module):
    """Learns what the average of its own former weights says."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            for average, weight in zip(self.target.parameters(), self.online.parameters()):
                average.lerp_(weight, 0.1)
            wanted = self.target(x + 0.1)
        return -F.cosine_similarity(self.online(x), wanted).mean()


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        one, two = self.body(x), self.body(x + 0.1)
        both = (one, two.detach()), (two, one.detach())
        return -sum(F.cosine_similarity(*pair).mean() for pair in both) / 2


class Frozen(nn.Module):
    """The statistics of the body go on all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = net().requires_grad_(False), nn.Linear(3, 3)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            features = self.body(x)
        return F.cross_entropy(self.head(features), y)


class Checkpointed(nn.Module):
    reentrant = False

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.Linear(8, 3))

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x.requires_grad_()
        return F.cross_entropy(checkpoint(self.body, x, use_reentrant=self.reentrant), y)


class Reentrant(Checkpointed):
    reentrant = True


class Plain(nn.Module):
    """Weights without modules around them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6))

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        each = F.cross_entropy(F.linear(x, self.weight), y, reduction="none")
        return ((1 - torch.exp(-each)) ** 2 * each).mean()


KINDS = [Recurrent, Variational, Averaged, Siamese, Frozen, Checkpointed, Reentrant, Plain]


@pytest.mark.parametrize("kind", KINDS)
def test_what_people_build_is_replayed_to_the_bit(kind: type[Any]):
    torch.manual_seed(0)
    model = kind()
    with recording(model) as heard:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for x, y in data(3):
            optimizer.zero_grad()
            model.loss(x, y).backward()
            optimizer.step()
    check(heard, 3)


# -- what cannot be replayed ----------------------------------------------------------------

Step = Callable[[nn.Module, Any, torch.Tensor, torch.Tensor], None]


def penalty(model: nn.Module, optimizer: Any, x: torch.Tensor, y: torch.Tensor) -> None:
    x.requires_grad_()
    loss = F.cross_entropy(model(x), y)
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    (loss + slope.square().sum()).backward()
    optimizer.step()
    optimizer.zero_grad()


def hooked(model: nn.Module, optimizer: Any, x: torch.Tensor, y: torch.Tensor) -> None:
    seen: list[torch.Tensor] = []
    handle = model[0].register_forward_hook(lambda module, given, out: seen.append(out))  # type: ignore[operator, index]
    loss = F.cross_entropy(model(x), y) + seen[0].square().mean()
    handle.remove()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def both_modes(model: nn.Module, optimizer: Any, x: torch.Tensor, y: torch.Tensor) -> None:
    loss = F.cross_entropy(model(x), y)
    model.eval()
    loss = loss + F.cross_entropy(model(x), y)
    model.train()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def kept(model: nn.Module, optimizer: Any, x: torch.Tensor, y: torch.Tensor) -> None:
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def by_own_clipping(model: nn.Module, optimizer: Any, x: torch.Tensor, y: torch.Tensor) -> None:
    F.cross_entropy(model(x), y).backward()
    for p in model.parameters():
        assert p.grad is not None
        p.grad.clamp_(-0.01, 0.01)
    optimizer.step()
    optimizer.zero_grad()


def moved(model: nn.Module, optimizer: Any, x: torch.Tensor, y: torch.Tensor) -> None:
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        for p in model.parameters():
            p.clamp_(-0.1, 0.1)


def aliased(model: nn.Module, optimizer: Any, x: torch.Tensor, y: torch.Tensor) -> None:
    out = model(x)
    out.detach()[0] = 0
    F.mse_loss(out, torch.zeros(5, 3)).backward()
    optimizer.step()
    optimizer.zero_grad()


REFUSED: list[tuple[Step, str]] = [
    (penalty, "gradients of gradients"),
    (hooked, "whose making was not seen"),
    (both_modes, "different modes"),
    (kept, "not set to zero"),
    (by_own_clipping, "other means than clipping"),
    (moved, "weights are changed"),
    (aliased, "shares its memory"),
]


@pytest.mark.parametrize(
    ("step", "reason"), REFUSED, ids=lambda each: getattr(each, "__name__", "")
)
def test_what_cannot_be_replayed_is_said(step: Step, reason: str):
    torch.manual_seed(0)
    model = net()
    with recording(model) as heard:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in data(3):
            step(model, optimizer, x, y)
    told = problem(heard.tapes)
    assert told is not None
    assert reason in told
    assert "\n" not in told


def test_gradients_that_are_changed_unseen_show_when_the_step_is_replayed():
    torch.manual_seed(0)
    model = net()
    with recording(model) as heard:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in data(2):
            F.cross_entropy(model(x), y).backward()
            for p in model.parameters():
                p.grad.data.mul_(0.5)
            optimizer.step()
            optimizer.zero_grad()
    heard.saved.restore()
    assert "other gradients" in str(deviates(heard.tapes[0], optimizer))


def test_an_input_that_was_overwritten_is_refused():
    torch.manual_seed(0)
    model, buffer = net(), torch.zeros(5, 6)
    with recording(model) as heard:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in data(2):
            buffer.copy_(x)
            F.cross_entropy(model(buffer), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    with pytest.raises(ValueError, match="overwritten"):
        heard.setup.run(heard.tapes[0])
    assert "overwritten" in str(problem(heard.tapes))


def test_steps_count_until_something_else_is_frozen():
    torch.manual_seed(0)
    model = net()
    with recording(model) as heard:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for index, (x, y) in enumerate(data(4)):
            model[0].requires_grad_(index > 1)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert alike(heard.tapes) == heard.tapes[:2]


def test_gradients_that_were_thrown_away_count_for_nothing():
    torch.manual_seed(0)
    model = net()
    with recording(model) as heard:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in data(2):
            x.requires_grad_()
            F.cross_entropy(model(x), y).backward()
            optimizer.zero_grad()
            F.cross_entropy(model((x + 0.1 * x.grad.sign()).detach()), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert [len(taped.backwards) for taped in heard.tapes] == [1, 1]
    losses = replay(heard)
    assert losses == [float(taped.backwards[0].value) for taped in heard.tapes]


def test_gradients_left_over_and_then_thrown_away_do_not_matter():
    """As of a loop that zeroes at the last of its micro-batches only."""
    torch.manual_seed(0)
    model = net()
    with recording(model) as heard:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for index, (x, y) in enumerate(data(4)):
            if index % 2:
                optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if index % 2:
                optimizer.step()
    assert problem(heard.tapes) is None
    assert [len(taped.backwards) for taped in heard.tapes] == [1, 1]


def test_nothing_is_kept_of_what_is_no_step():
    """Notes of a validation pass go with its tensors."""
    model = net()
    with recording(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batch = torch.randn(5, 6)
        F.cross_entropy(model(batch).softmax(1), torch.zeros(5).long()).item()
        alive = weakref.ref(batch)
        del batch
        assert alive() is None
        del optimizer


# -- the probe ------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "zone"), [(0.02, SAFE), (30.0, UNSAFE)])
def test_a_loop_that_was_recorded_is_probed(rate: float, zone: str):
    """At a thousandth of its rate, then at the rate itself; afterwards all is as it was."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    with recording(model) as heard:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate / 1000, momentum=0.9)
        for _ in range(30):
            y = torch.randint(4, (32,))
            x = torch.randn(32, 6) + 2 * F.one_hot(y, 6)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 50.0)
            optimizer.step()
    heard.saved.restore()
    before = described([model, optimizer], identity=False)
    setup = replace(heard.setup, remembered=False, peaks=[rate])
    report = judged(setup, heard.saved, None, ())
    heard.saved.restore()
    assert difference(before, described([model, optimizer], identity=False)) == ""
    assert report.zone == zone, str(report)
    assert report.warmup.task == CLASSES
    assert report.warmup.samples == 256
    assert report.warmup.level == pytest.approx(math.log(4), abs=0.05)
    assert report.warmup.eval.accuracy is not None
