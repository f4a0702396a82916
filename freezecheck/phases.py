"""A run as a story in phases: consecutive steps in which the setup stayed the same."""

from __future__ import annotations

from freezecheck.records import dataclass
from freezecheck.snapshot import Snapshot


@dataclass(slots=True)
class Phase:
    """Steps with one setup: who is trainable, who is in which optimizer, which mode is on.

    Steps count from 1; several optimizers that take turns step together in one.
    """

    first: int
    last: int
    snapshot: Snapshot  # just before its first step
    events: int = 0  # of the timeline, that had happened when its first step was done
    epoch: int | None = None  # at its first step, from 1; None: no loader to tell by

    def __str__(self) -> str:
        """`steps 1-40`, `step 41`."""
        return (
            f"step {self.first}" if self.first == self.last else f"steps {self.first}-{self.last}"
        )
