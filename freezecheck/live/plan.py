"""How far a command is to be run and what is kept from it: the options of `inspect`, `watch` and
`probe` that its processes must know. They find it in the folder of the run."""

from __future__ import annotations

import json
import os

from freezecheck.plain import decode, encode
from freezecheck.records import dataclass

_NAME = "plan"


@dataclass(frozen=True, slots=True)
class Probing:
    """The script is trained for some steps, which are then probed."""

    steps: int = 30
    groups: bool = False  # each parameter group's critical rate, too
    dry: bool = False  # only what it would take
    after: int = 0  # steps of the script that go before

    @property
    def max_steps(self) -> int:
        """Of a warm-up that is not decided after `steps`."""
        return 2 * self.steps

    @property
    def recorded(self) -> int:
        """Steps that are recorded."""
        return 3 if self.dry else self.max_steps


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to be; the default is one untouched step."""

    steps: int | None = 1  # optimizer steps until it is stopped; None: until it ends by itself
    batches: int | None = None  # to which each loader's epochs are cut; None: whole epochs
    weights: bool = True  # False: pretrained weights are not fetched
    fake: bool = False  # tensors without storage
    sandbox: bool = False  # every file that is written is discarded
    watch: bool = False  # the run is for real: nothing is stopped, cut or kept from it
    probe: Probing | None = None

    @property
    def first_step(self) -> bool:
        """The run is over once every optimizer has stepped."""
        return self.steps == 1 and not self.watch

    def write(self, folder: str) -> None:
        """Leave it for the processes of the run."""
        with open(os.path.join(folder, _NAME), "w", encoding="utf-8") as file:
            json.dump(encode(self), file)


def read(folder: str) -> Plan:
    """The plan of the run that `folder` belongs to."""
    with open(os.path.join(folder, _NAME), encoding="utf-8") as file:
        return decode(Plan, json.load(file))
