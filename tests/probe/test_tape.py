"""A replayed training is the training itself, down to the bits; what cannot be replayed is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

from freezecheck.live.patches import Patches
from freezecheck.live.program import Taped
from freezecheck.live.tape import Tape
from freezecheck.probe.batches import Batches
from freezecheck.probe.faithful import deviates, problem, whole
from freezecheck.probe.replayed import Replayed
from freezecheck.probe.saved import Saved


@dataclass
class Recording:
    """What a training loop did, and how things were before it."""

    tapes: list[Taped] = field(default_factory=list)
    optimizer: Any = None
    saved: Any = None
    reached: list[torch.Tensor] = field(default_factory=list)

    @property
    def model(self) -> Any:
        return whole(self.tapes)

    @property
    def setup(self) -> Replayed:
        return Replayed(
            model=self.model,
            optimizer=self.optimizer,
            batches=Batches(self.tapes),
            scaler=self.tapes[0].scaler,
            device=torch.device("cpu"),
            peaks=[],
            steps=30,
            max_steps=60,
            remembered=True,
        )


@contextmanager
def recording(*modules: nn.Module, scaler: Any = None) -> Iterator[Recording]:
    """Records what is trained within the block."""
    heard = Recording()

    def begin() -> None:
        heard.optimizer = next(iter(tape._optimizers))
        heard.saved = Saved(list(modules), [heard.optimizer], (), [scaler] if scaler else ())

    def stepped(optimizer: Any, *_: Any) -> None:
        taped = tape.cut(optimizer)
        if taped is not None:
            heard.tapes.append(taped)

    def failed(error: Exception) -> None:
        raise error

    patches = Patches()
    tape = Tape(patches, failed, begin)
    tape.install()
    hook = register_optimizer_step_post_hook(stepped)
    before = torch.nn.Module.__call__, torch._C._len_torch_function_stack()
    try:
        yield heard
    finally:
        hook.remove()
        patches.undo()
    assert torch._C._len_torch_function_stack() == before[1] - 1
    assert torch.nn.Module.__call__ is not before[0]
    heard.reached = weights(heard)


def weights(heard: Recording) -> list[torch.Tensor]:
    params = [p for group in heard.optimizer.param_groups for p in group["params"]]
    buffers = list(heard.model.buffers()) if heard.tapes else []
    return [t.detach().clone() for t in (*params, *buffers)]


def replay(heard: Recording) -> list[float]:
    """Train again from the start, at the script's own rates; the losses of the steps."""
    losses = []
    setup = heard.setup
    heard.saved.restore()
    for taped in heard.tapes:
        for group, options in zip(heard.optimizer.param_groups, taped.rates):
            group.update(options)
        heard.optimizer.zero_grad()
        losses.append(float(setup.descend(taped)[0]))
        if setup.scaler is None:
            heard.optimizer.step()
        else:
            setup.scaler.step(heard.optimizer)
            setup.scaler.update()
    return losses


def check(heard: Recording, steps: int) -> Replayed:
    """The oracle: the weights that the script reached are reached again."""
    assert problem(heard.tapes) is None
    assert len(heard.tapes) == steps
    losses = replay(heard)
    assert losses == [float(sum(b.value for b in t.backwards)) for t in heard.tapes]
    assert all(torch.equal(a, b) for a, b in zip(heard.reached, weights(heard), strict=True))
    heard.saved.restore()
    setup = heard.setup
    with torch.no_grad():
        loss, outputs, targets = setup.run(heard.tapes[0])
    assert float(loss) == pytest.approx(losses[0])
    assert outputs is None or len(outputs) == len(targets)
    heard.saved.restore()
    assert deviates(heard.tapes[0], heard.optimizer, setup.scaler) is None
    heard.saved.restore()
    with torch.no_grad():
        next(heard.model.parameters()).mul_(1.5)
    assert deviates(heard.tapes[0], heard.optimizer, setup.scaler) is not None
    heard.saved.restore()
    return setup


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
