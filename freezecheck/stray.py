"""Attributes that claim a flag where PyTorch keeps none, judged against the real flags.

A claim counts if nothing below the module bears it out and nothing was done
about it later; a line without effect that the next one makes good is no defect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from freezecheck.finding import Site
from freezecheck.records import dataclass
from freezecheck.snapshot import Param, Snapshot, Stray, count, summarise
from freezecheck.timeline import FLAG, STRAY, Event, Timeline


@dataclass(slots=True)
class Claim:
    """One line's worth of strays that are not so."""

    model: int
    attribute: str
    flag: bool  # what they claim
    on: str  # "module" or "parameter"
    owners: list[str]
    against: list[Param]
    site: Site | None

    def words(self, now: Snapshot) -> str:
        """What was set on what: `requires_grad = False` on 2 modules: layer1, layer2."""
        names = [now.path(self.model, o) or now.models[self.model].label for o in self.owners]
        noun = "module" if self.on == "module" else "tensor"
        listed = f"{count(len(names), noun)}: {summarise(names)}"
        return f"{self.attribute} = {self.flag} was set on {listed}"

    def truth(self) -> str:
        """What the flags really are: 15 tensors (8,393,728 parameters) stay frozen."""
        state = "frozen" if self.flag else "trainable"
        numel = sum(p.numel for p in self.against)
        stay = "stays" if len(self.against) == 1 else "stay"
        return f"{count(len(self.against), 'tensor')} ({numel:,} parameters) {stay} {state}"

    def symbol(self, now: Snapshot) -> str:
        """The first owner."""
        return now.path(self.model, self.owners[0]) or now.models[self.model].label


def claims(now: Snapshot, past: Timeline, wanted: Callable[[Stray], bool]) -> Iterator[Claim]:
    """The claims among `now.strays`, those of one line together."""
    groups: dict[tuple[int, str, bool, str, Site | None], Claim] = {}
    for stray in now.strays:
        if stray.believed is None or not wanted(stray):
            continue
        event = _written(now, past, stray)
        against = _against(now, past, stray, event)
        if not against:
            continue
        site = event.site if event else next((o.site for o in now.optimizers if o.site), None)
        key = (stray.model, stray.attribute, stray.believed, stray.on, site)
        claim = groups.setdefault(key, Claim(*key[:4], [], [], site))
        claim.owners.append(stray.owner)
        held = {id(p) for p in claim.against}
        claim.against += [p for p in against if id(p) not in held]
    yield from groups.values()


def _written(now: Snapshot, past: Timeline, stray: Stray) -> Event | None:
    """The last event that set it."""
    path = now.path(stray.model, stray.owner)
    last = None
    for event in past.of(STRAY):
        if event.data["attribute"] == stray.attribute and path in event.names:
            last = event
    return last


def _against(now: Snapshot, past: Timeline, stray: Stray, event: Event | None) -> list[Param]:
    """The parameters below it that are not as it claims."""
    prefix = f"{stray.owner}." if stray.owner else ""
    below = [
        p
        for p in now.owned
        if p.model == stray.model and (p.name.startswith(prefix) or p.name == stray.owner)
    ]
    against = [p for p in below if p.trainable != stray.believed]
    if event is None:
        return against if len(against) == len(below) else []
    at = past.order(event)
    later = {name for e in past.of(FLAG) if past.order(e) > at for name in e.names}
    if later and any(now.path(stray.model, p.name) in later for p in below):
        return []
    return against
