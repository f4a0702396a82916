"""Steps of a script's own training as the batches of a probe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from freezecheck.live import values
from freezecheck.live.program import Call, Taped
from freezecheck.probe import asked
from freezecheck.probe.play import Play
from freezecheck.probe.setup import Setup


@dataclass(slots=True, kw_only=True)
class Replayed(Setup):
    """Batches are `Taped` steps; `scaler` is the one that they were recorded with, if any.

    With `remembered`, random numbers are those that were drawn when a step was recorded.
    Raises ValueError where what was recorded has been overwritten since.
    """

    remembered: bool = False

    def run(self, batch: Taped) -> tuple[Any, Any, Any]:
        """(loss, outputs, targets); what is accumulated over several backward passes is one batch.
        None for outputs and targets where it is not known which these are."""
        play = Play(None, self.remembered)
        with play.going():
            for step in batch.program:
                if isinstance(step, Call):
                    play.call(step)
        loss = sum(play.loss(step) for step in batch.backwards)
        return loss, *asked.pair(batch, play.results)

    def descend(self, batch: Taped) -> tuple[Any, Any]:
        """The gradients of a step, clipped as the script does it."""
        play = Play(self.scaler, self.remembered)
        outputs: Any = None
        with values.torch().enable_grad(), play.going():
            losses = list(play.steps(batch, self.optimizer))
            outputs, _ = asked.pair(batch, play.results)
        return sum(losses), None if outputs is None else outputs.detach()

    def criterion(self) -> Callable[[Any, Any], Any] | None:
        """The script's loss of (outputs, targets), where it hangs on nothing else."""
        return asked.criterion(self.batches.batch(0))
