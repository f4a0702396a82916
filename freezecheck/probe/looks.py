"""The same samples, looked at with the weights of a moment: losses, outputs and what goes into the
head."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from freezecheck.live import ranking, values
from freezecheck.live.batch import to
from freezecheck.probe import task
from freezecheck.probe.own import Own, taken_down
from freezecheck.probe.setup import Setup
from freezecheck.trace import Pool
from freezecheck.warmup import CLASSES, Look

_CHUNK = 64  # samples whose scores are ranked together


@dataclass(slots=True)
class Seen:
    """All on the host. `outputs` and `targets` by batch, `features` [samples, features] or None. Of
    outputs that are more than a row for each sample only the first are kept: those of words are large.
    """

    losses: list[float] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)
    features: Any = None

    def look(self, kind: str) -> Look | None:
        """The numbers, None where there are no losses. Batches without labels are passed over."""
        if not self.losses:
            return None
        known = [loss for loss in self.losses if not math.isnan(loss)]
        loss = sum(known) / len(known) if known else math.nan
        if kind != CLASSES or not self.complete:
            return Look(loss)
        scores, labels = self.classes()
        right = (scores.argmax(1) == labels)[(labels >= 0) & (labels < scores.shape[1])]
        return Look(loss, float(right.double().mean()) if len(right) else None)

    def pool(self, kind: str, step: int) -> Pool | None:
        """The scores and labels of a classification as samples for the rank test."""
        if kind != CLASSES or not self.complete:
            return None
        scores, labels = self.classes()
        chunks = zip(scores.split(_CHUNK), labels.split(_CHUNK))
        return ranking.pool(step, list(chunks), -100, ranked=True)

    @property
    def complete(self) -> bool:
        """Every batch gave outputs."""
        return 0 < len(self.outputs) == len(self.losses)

    @property
    def pairs(self) -> list[tuple[Any, Any]]:
        """(outputs, targets) of each batch."""
        return list(zip(self.outputs, self.targets))

    def classes(self) -> tuple[Any, Any]:
        """Scores [samples, classes] and labels [samples] of a classification."""
        torch = values.torch()
        return torch.cat(self.outputs).float(), task.labels(torch.cat(self.targets))


def seen(setup: Setup, held: list[Any], head: Any, *, training: bool) -> Seen:
    """A forward pass of each of the batches, without gradients; in the modes that the model is in,
    or in eval mode."""
    found = Seen()
    entered: list[Any] = []

    def enter(_: Any, given: Any) -> None:
        entered.extend(tensor.detach() for tensor in given[:1])

    try:
        if head is not None:
            head.register_forward_pre_hook(Own(enter))
        with _modes(setup.model, training), values.torch().no_grad():
            for batch in held:
                loss, outputs, targets = setup.run(to(batch, setup.device))
                found.losses.append(float(loss))
                if outputs is not None and (outputs.dim() <= 2 or not found.outputs):
                    found.outputs.append(outputs.detach().cpu())
                    found.targets.append(_host(targets))
    finally:
        taken_down(setup.model.modules())
    if entered and all(t.dim() == 2 for t in entered):
        found.features = values.torch().cat(entered).float().cpu()
    return found


def settled(setup: Setup, held: list[Any]) -> Seen:
    """In eval mode, after the BatchNorm layers that train have gathered their statistics anew with
    the weights of now: at high rates those of the steps before lag behind, which passes."""
    norms = [
        module
        for module in setup.model.modules()
        if isinstance(module, values.torch().nn.modules.batchnorm._BatchNorm)
        and module.training
        and module.track_running_stats
    ]
    before = [module.momentum for module in norms]
    try:
        for module in norms:
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
        seen(setup, held, None, training=True)
        return seen(setup, held, None, training=False)
    finally:
        for module, momentum in zip(norms, before):
            module.momentum = momentum


def head(setup: Setup, batch: Any) -> Any:
    """The module whose output is the model's; None where there is none."""
    made: list[tuple[Any, Any]] = []
    torch = values.torch()
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    try:
        for module in setup.model.modules():
            if isinstance(module, kinds):
                module.register_forward_hook(Own(lambda m, _, out: made.append((m, out))))
        with _modes(setup.model, False), torch.no_grad():
            _, outputs, _ = setup.run(to(batch, setup.device))
    finally:
        taken_down(setup.model.modules())
    if outputs is None:
        return None
    same = (m for m, out in made if out.shape == outputs.shape and _is(out, outputs))
    return next(same, None)


def _is(one: Any, other: Any) -> bool:
    return one is other or one.data_ptr() == other.data_ptr()


def _host(targets: Any) -> Any:
    return targets.detach().cpu() if isinstance(targets, values.torch().Tensor) else targets


@contextlib.contextmanager
def _modes(model: Any, training: bool) -> Iterator[None]:
    """Every module in eval mode within the block, unless modes are left as they are."""
    before = [(module, module.training) for module in model.modules()]
    if not training:
        for module, _ in before:
            module.training = False
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
