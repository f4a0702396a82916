"""The rows of the table: what each stage of a model holds, and what happens to it.

Rows are numbers. `report.table` turns them into words, `report.json` prints them
as they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import reduce
from operator import add

from freezecheck.moves import predict
from freezecheck.snapshot import Snapshot, Stage

REPLACED = "its optimizer was replaced"
MANY = 16  # rows after which alike neighbours of different size are shown as one

_NUMBER = re.compile(r"\d+$")


@dataclass(slots=True)
class Row:
    """One stage, or several neighbours that are alike; counts are then sums.

    `moving` (of which `moving_frozen`), `unknown` and `still` (why not -> how
    many) count tensors at the next step. `places` are the (optimizer, group) that hold any of them.
    """

    stages: list[Stage]
    tensors: int = 0
    parameters: int = 0
    trainable_tensors: int = 0
    trainable_parameters: int = 0
    batchnorm: Counter[str] = field(default_factory=Counter)  # "train" / "eval" -> layers
    dropout: Counter[str] = field(default_factory=Counter)
    places: list[tuple[int, int]] = field(default_factory=list)
    moving: int = 0
    moving_frozen: int = 0
    unknown: int = 0
    still: Counter[str] = field(default_factory=Counter)

    @property
    def kind(self) -> str:
        """ "stem", "head" or ""."""
        return self.stages[0].kind

    def rates(self, now: Snapshot) -> list[float]:
        """The learning rates of its groups, smallest first."""
        return sorted({now.optimizers[i].groups[j].lr for i, j in self.places})

    def decays(self, now: Snapshot) -> list[float]:
        """The weight decays of its groups, smallest first."""
        return sorted({now.optimizers[i].groups[j].weight_decay for i, j in self.places})

    def __add__(self, other: Row) -> Row:
        return Row(
            self.stages + other.stages,
            self.tensors + other.tensors,
            self.parameters + other.parameters,
            self.trainable_tensors + other.trainable_tensors,
            self.trainable_parameters + other.trainable_parameters,
            self.batchnorm + other.batchnorm,
            self.dropout + other.dropout,
            sorted({*self.places, *other.places}),
            self.moving + other.moving,
            self.moving_frozen + other.moving_frozen,
            self.unknown + other.unknown,
            self.still + other.still,
        )


_FIGURES = [f.name for f in fields(Row) if f.name != "stages"]


def rows(now: Snapshot, model: int) -> list[Row]:
    """One row per stage of a model, in the order of the stages."""
    result = [Row([stage]) for stage in now.models[model].stages]
    moves = {id(p): move for p, move in zip(now.params, predict(now))}
    for index, row in enumerate(result):
        places: set[tuple[int, int]] = set()
        for param in now.by_stage[model, index]:
            row.tensors += 1
            row.parameters += param.numel
            if param.trainable:
                row.trainable_tensors += 1
                row.trainable_parameters += param.numel
            steps = [held for held in param.held if held.optimizer not in now.superseded]
            places.update((held.optimizer, held.group) for held in steps)
            move = moves[id(param)]
            if param.held and not steps:
                row.still[REPLACED] += 1
            elif move.moves:
                row.moving += 1
                row.moving_frozen += not param.trainable
            elif move.moves is None:
                row.unknown += 1
            else:
                row.still[move.why] += 1
        row.places = sorted(places)
    for norm in now.batchnorms():
        if norm.model == model:
            result[norm.stage].batchnorm[_mode(norm.training)] += 1
    for dropout in now.dropouts:
        if dropout.model == model and dropout.p > 0:
            result[dropout.stage].dropout[_mode(dropout.training)] += 1
    return result


def _mode(training: bool) -> str:
    return "train" if training else "eval"


def collapse(rows: Iterable[Row]) -> list[Row]:
    """Join neighbours of one numbered family that are the same in everything, and
    where the table is still long, those that differ in nothing but their sizes."""
    short = _join(rows, _same)
    return short if len(short) <= MANY else _join(short, _alike)


def _join(rows: Iterable[Row], belongs: Callable[[list[Row], Row], bool]) -> list[Row]:
    """Add up runs of rows; `belongs` says whether a row continues a run."""
    runs: list[list[Row]] = []
    for row in rows:
        if runs and belongs(runs[-1], row):
            runs[-1].append(row)
        else:
            runs.append([row])
    return [reduce(add, run) for run in runs]


def _same(run: list[Row], row: Row) -> bool:
    """A layer of the same family (`layers.0`, `layers.1`) with the same figures."""
    first = run[0]
    return _family(first.stages[0].name) == _family(row.stages[0].name) and all(
        getattr(first, name) == getattr(row, name) for name in (*_FIGURES, "kind")
    )


def _alike(run: list[Row], row: Row) -> bool:
    """A part of the same module that is treated alike, whatever its size."""
    return _treatment(run[0]) == _treatment(row) and all(
        set(modes) == set(other)
        for earlier in run
        for modes, other in ((earlier.batchnorm, row.batchnorm), (earlier.dropout, row.dropout))
        if modes and other
    )


def _treatment(row: Row) -> tuple[object, ...]:
    return (
        row.kind,
        _family(row.stages[0].name.partition(".")[0]),
        row.trainable_tensors == row.tensors,
        row.trainable_tensors > 0,
        row.places,
        row.moving > 0,
        row.moving_frozen > 0,
        row.unknown > 0,
        set(row.still),
    )


def _family(name: str) -> str:
    return _NUMBER.sub("", name)
