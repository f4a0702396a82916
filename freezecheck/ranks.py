"""Processes that train together, side by side: what the rules that compare them are given."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from freezecheck.phases import Phase
from freezecheck.records import dataclass, replace
from freezecheck.snapshot import Param, Shared, Snapshot
from freezecheck.timeline import BACKWARD, FLAG, OPTIMIZER, REPLACE, STEP, WRAP, Timeline


@dataclass(frozen=True, slots=True)
class Rank:
    """One process, as it was at the step at which it is compared with the others.

    `now` is of that very step if `exact`, else of an earlier one since which nothing but
    values has changed. `past` is what had happened by then.
    """

    number: int
    now: Snapshot
    past: Timeline
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Copy:
    """What one process has of the parameters that it shares with others, by their names."""

    rank: Rank
    shared: Shared
    params: dict[str, Param]

    def symbol(self, name: str) -> str:
        """A parameter as the events of this process name it."""
        return self.rank.now.path(self.shared.model, name)


Record = tuple[Timeline, Sequence[Phase], Snapshot | None]  # the snapshot where no step was taken


def moments(records: Iterable[Record]) -> Iterator[tuple[int, list[Rank]]]:
    """The processes of a run side by side, each time that the setup of one of them changes.

    With the step, from 1, or 0 where none of them had taken one. What
    has not got to the same point of the script is not compared: what one process has frozen,
    another may yet be about to freeze.
    """
    stepped: list[tuple[Timeline, Sequence[Phase]]] = []
    waiting: dict[tuple[int, ...], list[Rank]] = defaultdict(list)
    for past, phases, snapshot in records:
        if phases:
            stepped.append((past, phases))
        elif snapshot is not None and snapshot.rank is not None:
            reached = tuple(len([*past.of(kind)]) for kind in (BACKWARD, STEP))
            waiting[reached].append(Rank(snapshot.rank, snapshot, past, exact=False))
    for ranks in waiting.values():
        yield 0, [*ranks, *_ahead(ranks[0], stepped)]
    for step in sorted({phase.first for _, phases in stepped for phase in phases}):
        ranks = [rank for past, phases in stepped for rank in _at(step, past, phases)]
        yield step, ranks


def _ahead(behind: Rank, stepped: Iterable[tuple[Timeline, Sequence[Phase]]]) -> Iterator[Rank]:
    """Processes at their first step, where another waits for them, perhaps for ever, that had
    settled all when they built an optimizer: from there on the waiting one has been heard."""
    for past, phases in stepped:
        for rank in _at(1, past, phases[:1]):
            events = iter(rank.past.events)
            _ = any(event.kind == OPTIMIZER for event in events)  # up to there
            settled = not any(event.kind in (FLAG, REPLACE, WRAP) for event in events)
            if settled and _what(rank) == _what(behind):
                yield replace(rank, exact=False)


def _what(rank: Rank) -> list[object]:
    return [(shared.by, shared.ranks, shared.names) for shared in rank.now.shared]


def _at(step: int, past: Timeline, phases: Sequence[Phase]) -> Iterator[Rank]:
    """A process at a step, if it got there."""
    for phase in phases:
        number = phase.snapshot.rank
        if phase.first <= step <= phase.last and number is not None:
            exact = phase.first == step
            yield Rank(number, phase.snapshot, past.until(phase.events), exact)


def copies(ranks: Iterable[Rank]) -> Iterator[list[Copy]]:
    """The copies of each thing that several of these processes share, in the order of the ranks."""
    found: dict[object, list[Copy]] = defaultdict(list)
    for rank in sorted(ranks, key=lambda r: r.number):
        seen: Counter[object] = Counter()
        for shared in rank.now.shared:
            kind = (shared.by, shared.ranks)
            wanted = set(shared.names)
            params = {p.name: p for p in rank.now.of_model(shared.model) if p.name in wanted}
            found[kind, seen[kind]].append(Copy(rank, shared, params))
            seen[kind] += 1
    return (group for group in found.values() if len(group) > 1)
