"""One look at every optimizer of a run, each at its own step.

Several optimizers take turns, and what is true at one's step (above all its gradients, but
also who is frozen just then) may not be at the other's. A round keeps what counted for each,
and ends when all have stepped.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

from freezecheck.live import values
from freezecheck.snapshot import Snapshot

# An optimizer that was replaced may be kept alive by its scheduler and never
# step again: after so many steps of another one, it is not waited for.
_PATIENCE = 4


class Round:
    """What was seen from the `first` step of some optimizer to its end."""

    def __init__(self, first: int, epoch: int | None) -> None:
        self.first = first
        self.epoch = epoch
        self.grads: dict[int, str] = {}  # id of a parameter -> gradient at its step
        self.flags: dict[int, bool] = {}  # id of a parameter -> trainable at its step
        self.steps: Counter[int] = Counter()  # id of an optimizer -> steps taken in this round
        self.snapshot: Snapshot | None = None
        self.done = False
        self._captured: list[Any] = []  # weak optimizers, in the order of the snapshot's

    def note(self, optimizer: Any, roots: Iterable[Any]) -> None:
        """Keep the gradients and flags of this moment, which is the optimizer's."""
        tensors = [p for group in optimizer.param_groups for p in group["params"]]
        for p in tensors:
            self.flags.setdefault(id(p), p.requires_grad)
        tensors += [p for root in roots for p in root.parameters()]
        for p in tensors:
            if p.grad is not None and id(p) not in self.grads:
                self.grads[id(p)] = values.gradient(p.grad)

    def captured(self, snapshot: Snapshot, optimizers: Iterable[Any]) -> None:
        """The setup as of the last look, with all that the round has kept."""
        self.snapshot = snapshot
        self._captured = [weakref.ref(o) for o in optimizers]
        for record, reference in zip(snapshot.optimizers, self._captured):
            record.turns = self.steps[id(reference())]

    def stepped(self, optimizer: Any, every: Iterable[Any]) -> bool:
        """Count a step; whether all of `every` optimizer have had their turn."""
        self.steps[id(optimizer)] += 1
        waiting = any(id(o) not in self.steps for o in every)
        return not waiting or max(self.steps.values()) >= _PATIENCE

    def close(self) -> None:
        """Over: whoever has not stepped is idle, if anybody has."""
        self.done = True
        if self.snapshot is None or not self.steps:
            return
        records = self.snapshot.optimizers
        for record, reference in zip(records, self._captured):
            record.idle = (o := reference()) is None or id(o) not in self.steps
        for record in records:
            if record.part_of is not None and not record.idle:
                records[record.part_of].idle = False
