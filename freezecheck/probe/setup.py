"""What a probe trains, and how one batch of it goes through."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from freezecheck.live import values
from freezecheck.live.batch import to
from freezecheck.probe.batches import Batches, parted
from freezecheck.warmup import Progress


class NoLoss(ValueError):
    """A model that is to return its own loss returned none."""


@dataclass(slots=True, kw_only=True)
class Setup:
    """What is trained, and at which rates; how a batch goes through is said by what is derived."""

    model: Any
    optimizer: Any
    batches: Batches
    scaler: Any = None
    device: Any
    peaks: list[float]
    falls: bool = False  # the rates are known to come down again
    steps: int
    max_steps: int
    progress: Callable[[Progress], None] = lambda progress: None

    def batch(self, step: int) -> Any:
        """The batch of a step (from 0), on the device."""
        return to(self.batches.batch(step), self.device)

    def run(self, batch: Any) -> tuple[Any, Any, Any]:
        """(loss, outputs, targets) of one forward pass; outputs are None where they are no tensor."""
        raise NotImplementedError

    def descend(self, batch: Any) -> tuple[Any, Any]:
        """Gradients of a batch, as a step takes them: (loss, outputs), without history."""
        loss, outputs, _ = self.run(batch)
        if not loss.requires_grad:
            raise ValueError("the loss hangs on no trainable parameter")
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        return loss.detach(), None if outputs is None else outputs.detach()

    def criterion(self) -> Callable[[Any, Any], Any] | None:
        """The loss of (outputs, targets); None where it is within the model."""
        return None


@dataclass(slots=True, kw_only=True)
class Given(Setup):
    """A model, a loss and batches as the arguments of a call."""

    loss: Callable[..., Any] | None
    forward: Callable[[Any, Any], Any] | None
    whole: bool = False  # the loss is given more than the scores: a tuple of several outputs

    def run(self, batch: Any) -> tuple[Any, Any, Any]:
        args, keywords, targets = parted(batch, self.loss)
        with self._autocast():
            if self.forward is not None:
                out = self.forward(self.model, batch)
            else:
                out = self.model(*args, **keywords)
            scores = part(out, "logits")
            self.whole = isinstance(out, tuple)
            if self.loss is None:
                value = _own_loss(out)
            elif targets is None:
                value = self.loss(out)
            else:
                value = self.loss(out if self.whole or scores is None else scores, targets)
        torch = values.torch()
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise TypeError("the loss must be one number: a tensor with one element")
        return value.reshape(()), scores if isinstance(scores, torch.Tensor) else None, targets

    def criterion(self) -> Callable[[Any, Any], Any] | None:
        return None if self.whole else self.loss

    def _autocast(self) -> Any:
        """Half precision where a scaler asks for it and the caller has not switched it on."""
        torch, kind = values.torch(), self.device.type
        if self.scaler is None or not self.scaler.is_enabled() or self.forward is not None:
            return contextlib.nullcontext()
        if torch.is_autocast_enabled(kind):
            return contextlib.nullcontext()
        return torch.autocast(kind, torch.float16 if kind == "cuda" else None)


def _own_loss(out: Any) -> Any:
    """The loss that a model returns: alone, as `loss`, first of a tuple, or as a dict of parts."""
    loss = part(out, "loss")
    if loss is not None and not (isinstance(out, values.torch().Tensor) and out.numel() != 1):
        return loss
    if isinstance(out, Mapping) and out and all(_is_number(v) for v in out.values()):
        return sum(out.values())
    raise NoLoss("the model returns no loss: give `loss`, or `forward` that returns one")


def part(out: Any, name: str) -> Any:
    """That entry of a model's output; the output itself where it is a tensor."""
    if isinstance(out, values.torch().Tensor):
        return out
    if isinstance(out, Mapping):
        return out.get(name)
    if hasattr(out, name):
        return getattr(out, name)
    return out[0] if isinstance(out, tuple) and out else None


def _is_number(value: Any) -> bool:
    return isinstance(value, values.torch().Tensor) and value.numel() == 1
