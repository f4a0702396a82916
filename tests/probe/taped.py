"""A training loop recorded, and replayed: the oracle of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

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
        (heard.optimizer,) = tape._gradients.optimizers
        heard.saved = Saved(list(modules), [heard.optimizer], (), [scaler] if scaler else ())

    def stepping(*_: Any) -> None:
        if heard.saved is None:
            begin()

    def stepped(optimizer: Any, *_: Any) -> None:
        taped = tape.cut(optimizer)
        if taped is not None:
            heard.tapes.append(taped)

    def failed(error: Exception) -> None:
        raise error

    patches = Patches()
    tape = Tape(patches, failed)
    tape.expect(begin)
    tape.install()
    hooks = [register_optimizer_step_pre_hook(stepping), register_optimizer_step_post_hook(stepped)]
    before = torch.nn.Module.__call__, torch._C._len_torch_function_stack()
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()
        patches.undo()
    assert torch._C._len_torch_function_stack() == before[1] - 1
    assert torch.nn.Module.__call__ is not before[0]
    if heard.optimizer is not None:
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
        for group in heard.optimizer.param_groups:
            for weight in group["params"]:
                weight.add_(3 * torch.randn_like(weight))
    assert deviates(heard.tapes[0], heard.optimizer, setup.scaler) is not None
    heard.saved.restore()
    return setup
