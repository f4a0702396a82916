"""What happened, in order: what was frozen, built, wrapped, run and stepped.

A `Timeline` is a list of `Event`s. The source half derives them from the text,
the runner records them from the real run; both use the same kinds, so a rule
about the order of things need not know which half it hears.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from freezecheck.finding import Site
from freezecheck.records import dataclass, field

FLAG = "flag"  # requires_grad written: names, value True/False
MODE = "mode"  # train() / eval(): subject is the module, value is training
REPLACE = "replace"  # modules put in the place of others: names are their parameters
OPTIMIZER = "optimizer"  # an optimizer built
GROUP = "group"  # a parameter group added later
SCHEDULER = "scheduler"  # a scheduler built
WRAP = "wrap"  # DDP, DataParallel, FSDP, torch.compile: value is the wrapper
ATTRIBUTE = "attribute"  # the user's line set one of a few telling attributes of a module
LOAD = "load"  # load_state_dict of a model or optimizer
STRAY = "stray"  # an attribute without effect set on a module or parameter
PATTERN = "pattern"  # names went through a chain of tests, see `pattern.py`
LOSS = "loss"  # a loss function called
CLIP = "clip"  # gradients clipped of an iterator that had nothing left to give
CHECKPOINT = "checkpoint"  # a reentrant checkpoint entered with no input that requires grad
BACKWARD = "backward"
STEP = "step"
DARK = "dark"  # a model ran with gradients switched off, after the first step: value is training
OVERRUN = "overrun"  # a cosine schedule stepped clearly past its end
AVERAGE = "average"  # a copy evaluated whose parameters have moved and whose statistics have not
RESET = "reset"  # torch.compiler.reset(): everything is compiled anew
FACT = "fact"  # something seen in a framework's own objects; value says what


@dataclass(slots=True)
class Event:
    """One thing that happened.

    `subject` labels the object (`model`, `optimizer`, a module path), `names`
    the parameters concerned (model paths), `step` how many optimizer steps had
    been taken before. `data` holds what only this kind has; see `docs/timeline.md`.
    """

    kind: str
    site: Site | None = None
    subject: str = ""
    names: tuple[str, ...] = ()
    value: Any = None
    step: int = 0
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Timeline:
    """The events of a program, in the order in which they happened.

    An empty timeline means that nothing was recorded, as when `inspect` is
    handed finished objects; rules then speak from the snapshot alone.
    """

    events: tuple[Event, ...] = ()
    complete: bool = True  # False: the script ended or crashed before a step

    def of(self, kind: str, subject: str | None = None) -> Iterator[Event]:
        """Events of one kind, oldest first; of one subject if given."""
        for event in self.events:
            if event.kind == kind and (subject is None or event.subject == subject):
                yield event

    def until(self, count: int) -> Timeline:
        """What had been seen when the first `count` events had happened; facts have no time."""
        facts = (event for event in self.events[count:] if event.kind == FACT)
        return Timeline((*self.events[:count], *facts), self.complete)

    def last(self, kind: str, subject: str | None = None) -> Event | None:
        """The newest event of that kind (and subject)."""
        return next(iter(reversed(list(self.of(kind, subject)))), None)

    def flags(self, name: str) -> list[Event]:
        """Every write of `requires_grad` to one parameter, oldest first."""
        return [event for event in self.of(FLAG) if name in event.names]

    def written(self, names: Collection[str], value: bool) -> Event | None:
        """The newest write of `requires_grad = value` to any of these parameters."""
        wanted = set(names)
        for event in reversed(self.events):
            if event.kind == FLAG and event.value is value and not wanted.isdisjoint(event.names):
                return event
        return None

    def assigned(self, path: str, attribute: str) -> Event | None:
        """The newest write of one of the attributes that are watched."""
        last = None
        for event in self.of(ATTRIBUTE, path):
            if event.data["attribute"] == attribute:
                last = event
        return last

    def modes(self, path: str) -> Iterator[Event]:
        """Every call of `train()` or `eval()` on the module at `path` or on one around it,
        oldest first."""
        for event in self.of(MODE):
            if event.subject in ("", path) or path.startswith(f"{event.subject}."):
                yield event

    def order(self, event: Event) -> int:
        """The position of an event (by identity; -1 if it is not one of ours)."""
        return next((i for i, other in enumerate(self.events) if other is event), -1)
