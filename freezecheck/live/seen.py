"""Gradients, modes and flags: as they are now, or as a run saw them when they counted.

A step uses the gradients of its own moment and a forward the modes of its own; a GAN
freezes each half while the other one steps. By the time that everything is captured,
any of them may have changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from freezecheck.live import values
from freezecheck.snapshot import Param


@dataclass(slots=True)
class Seen:
    """What a run noted earlier, by the id of the object; `grads` None: nothing was noted."""

    grads: Mapping[int, str] | None
    modes: Mapping[int, bool]
    flags: Mapping[int, bool]

    def param(self, name: str, tensor: Any, model: int) -> Param:
        """The record of a parameter; its stage and its places in optimizers come later."""
        return Param(
            name,
            tensor.shape,
            tensor.numel(),
            values.names[tensor.dtype],
            values.names[tensor.device],
            self.trainable(tensor),
            model,
            grad=self.grad(tensor),
        )

    def grad(self, tensor: Any) -> str | None:
        """The kind of a tensor's gradient; see `snapshot.Param.grad`."""
        if self.grads is not None:
            return self.grads.get(id(tensor))
        # Asking a non-leaf for its gradient warns.
        grad = tensor.grad if tensor.is_leaf or tensor.retains_grad else None
        return None if grad is None else values.gradient(grad)

    def mode(self, module: Any) -> bool:
        """Whether a module is in train mode."""
        return self.modes.get(id(module), module.training)

    def trainable(self, tensor: Any) -> bool:
        """Whether a tensor requires grad."""
        return self.flags.get(id(tensor), tensor.requires_grad)
