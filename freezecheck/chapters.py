"""The phases of a run in words: what trains in each, and what changed at its beginning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from freezecheck.finding import Site
from freezecheck.phases import Phase
from freezecheck.records import dataclass
from freezecheck.snapshot import FOREIGN, Param, Snapshot, count, summarise
from freezecheck.timeline import FLAG, GROUP, LOAD, OPTIMIZER, REPLACE, SCHEDULER, Event, Timeline


@dataclass(frozen=True, slots=True)
class Chapter:
    """One phase. Steps and epochs count from 1."""

    first: int
    last: int
    epoch: int | None  # at the first step; None: no loader to tell by
    trains: str  # the stages that the steps move, or will when a warm-up has begun; empty: none
    rates: tuple[float, ...]  # their learning rates at the first step, smallest first
    changes: tuple[str, ...]  # since the phase before; empty in the first one


def chapters(phases: Sequence[Phase], past: Timeline) -> tuple[Chapter, ...]:
    """The story of a run."""
    told = []
    for index, phase in enumerate(phases):
        changes: Iterable[str] = ()
        if index:
            before = phases[index - 1]
            changes = _changes(before.snapshot, phase.snapshot, past, before.events, phase.events)
        moving, lrs = _moving(phase.snapshot)
        told.append(
            Chapter(
                phase.first,
                phase.last,
                phase.epoch,
                stages(phase.snapshot, moving),
                tuple(sorted(lrs)),
                tuple(changes),
            )
        )
    return tuple(told)


def _moving(now: Snapshot) -> tuple[list[Param], set[float]]:
    """The tensors that train, and the rates at which they do in the first step."""
    from freezecheck.moves import RATE, predict
    from freezecheck.rates import tops

    peaks = [tops(now, index) for index in range(len(now.optimizers))]
    moved: list[Param] = []
    lrs: set[float] = set()
    for p, move in zip(now.params, predict(now)):
        held = [h for h in p.held if h.optimizer not in now.superseded]
        if p.model == FOREIGN or not held:
            continue
        learns = p.trainable and p.grad not in (None, "zero")
        warming_up = move.why == RATE and any(peaks[h.optimizer][h.group] for h in held)
        if move.moves or (learns and (move.moves is None or warming_up)):
            moved.append(p)
            lrs.update(now.optimizers[h.optimizer].groups[h.group].lr for h in held)
    return moved, lrs


def _changes(
    before: Snapshot, now: Snapshot, past: Timeline, since: int, until: int
) -> Iterator[str]:
    """What is different, the most telling first. Events `since` ... `until` lie between."""
    old = {before.path(p.model, p.name): p for p in before.owned}
    known = [(old[path], p) for p in now.owned if (path := now.path(p.model, p.name)) in old]
    flags = past.until(until)
    for verb, flag in (("unfrozen", True), ("frozen", False)):
        turned = [p for was, p in known if p.trainable is flag and was.trainable is not flag]
        yield from _turned(now, verb, turned, flags, flag)
    yield from _structure(before, now, past.events[since:until])
    yield from _modes(before, now)
    for event in past.events[since:until]:
        line = _TOLD[event.kind](event) if event.kind in _TOLD else ""
        if line:
            yield line


def _turned(
    now: Snapshot, verb: str, params: list[Param], past: Timeline, flag: bool
) -> Iterator[str]:
    """`layer4 unfrozen at train.py:63, in no optimizer`, one for each line that did it."""
    sites: dict[str, Site | None] = {}
    for event in past.of(FLAG):
        if event.value is flag:
            sites.update(dict.fromkeys(event.names, event.site))
    missing = {id(p) for p in now.missing}
    parts: dict[tuple[Site | None, bool], list[Param]] = {}
    for p in params:
        site = sites.get(now.path(p.model, p.name))
        parts.setdefault((site, id(p) in missing), []).append(p)
    for (site, lost), members in parts.items():
        where = f" at {site}" if site else ""
        yield f"{stages(now, members)} {verb}{where}{', in no optimizer' if lost else ''}"


def _structure(before: Snapshot, now: Snapshot, events: Sequence[Event]) -> Iterator[str]:
    """Parameters that came, went, or took another's place."""
    place = next((e for e in reversed(events) if e.kind == REPLACE), None)
    old = {before.path(p.model, p.name) for p in before.owned}
    names = {now.path(p.model, p.name) for p in now.owned}
    new = [p for p in now.owned if now.path(p.model, p.name) not in old]
    if place is not None:
        yield f"{summarise(list(place.names))} put in place at {place.site}"
    elif new:
        yield f"new: {stages(now, new)}"
    gone = sorted(old - names)
    if gone:
        yield f"gone: {summarise(gone)}"


def _modes(before: Snapshot, now: Snapshot) -> Iterator[str]:
    """`20 BatchNorm layers put in eval mode at train.py:29`."""
    was = {(n.model, n.path): n.training for n in before.norms if n.has_stats}
    for mode in (True, False):
        turned = [
            n for n in now.norms if n.training is mode and was.get((n.model, n.path)) is (not mode)
        ]
        if turned:
            sites = {n.site for n in turned}
            (site,) = sites if len(sites) == 1 else (None,)
            what = count(len(turned), "BatchNorm layer")
            where = f" at {site}" if site else ""
            yield f"{what} put in {'train' if mode else 'eval'} mode{where}"
    quiet = {(d.model, d.path): d.training for d in before.dropouts if d.p > 0}
    for mode, verb in ((True, "on"), (False, "off")):
        turned_too = [
            d
            for d in now.dropouts
            if d.training is mode and quiet.get((d.model, d.path)) is (not mode)
        ]
        if turned_too:
            yield f"{count(len(turned_too), 'dropout layer')} switched {verb}"


def _built(event: Event) -> str:
    rates = ", ".join(sorted({f"{rate:g}" for rate in event.data["rates"]}))
    tensors = count(len(event.names), "tensor")
    return f"{event.subject} ({event.value}) built{_at(event)}: {tensors}, lr {rates}"


def _grouped(event: Event) -> str:
    tensors = count(len(event.names), "tensor")
    return f"group added to {event.subject}{_at(event)}: {tensors}, lr {event.data['lr']:g}"


def _scheduled(event: Event) -> str:
    return f"{event.subject} ({event.value}) built{_at(event)}"


def _loaded(event: Event) -> str:
    return f"state loaded into {event.subject or event.value}{_at(event)}"


def _at(event: Event) -> str:
    return f" at {event.site}" if event.site else ""


_TOLD: dict[str, Callable[[Event], str]] = {
    OPTIMIZER: _built,
    GROUP: _grouped,
    SCHEDULER: _scheduled,
    LOAD: _loaded,
}


def stages(now: Snapshot, params: Iterable[Param]) -> str:
    """Parameters in words: by stage where all of one are among them, else how many of it."""
    chosen: dict[tuple[int, int], list[Param]] = {}
    for p in params:
        chosen.setdefault((p.model, p.stage), []).append(p)
    named = [(_stage(now, *key, members), key) for key, members in sorted(chosen.items())]
    if len(named) == len(now.by_stage) and all(
        len(chosen[key]) == len(members) for key, members in now.by_stage.items() if members
    ):
        return "everything"
    return summarise([name for name, _ in named], 6)


def _stage(now: Snapshot, model: int, stage: int, members: list[Param]) -> str:
    every = now.by_stage[model, stage]
    name = now.path(model, now.models[model].stages[stage].name)
    if len(members) == len(every):
        return name
    if len(members) <= 2:
        return ", ".join(now.path(model, p.name) for p in members)
    return f"{len(members)} of {len(every)} tensors of {name}"
