"""Lines of a text that set a flag where PyTorch keeps none: on modules, under other names,
on copies. What `stray.py` is for a recorded run, this is for a `World`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from freezecheck.account import each
from freezecheck.finding import Site
from freezecheck.program import ATTRIBUTE, FLAG, Event, Module, Param, World
from freezecheck.snapshot import count, summarise

# How people misspell it. Those that may well be the name of an option are not here.
MISSPELLINGS = frozenset(
    """require_grad require_grads requires_grads required_grad requires_gradient
    require_gradient require_gradients requires_gradients required_grads requiers_grad
    reqires_grad requries_grad requres_grad requre_grad requires_gard require_gard
    required_gradient needs_grad""".split()
)


class Claim:
    """What one line claims: the flag `flag` (None: not known) on `subjects`."""

    __slots__ = ("attribute", "events", "flag", "site", "subjects")

    def __init__(self, event: Event) -> None:
        self.site: Site | None = event.site
        self.attribute: str = event.data["attribute"]
        self.flag = _flag(event)
        self.subjects: list[Any] = []
        self.events: list[Event] = []

    def words(self) -> str:
        """What was set on what: `requires_grad = False` is set on 2 modules: layer1, layer2."""
        flag = "" if self.flag is None else f" = {self.flag}"
        names = self._names()
        if not names:
            return f"{self.attribute}{flag} is set on a tensor"
        if isinstance(self.subjects[0], Module):
            listed = count(len(names), "module")
        else:
            listed = "parameters"  # a name may stand for many
        return f"{self.attribute}{flag} is set on {listed}: {summarise(names)}"

    @property
    def symbol(self) -> str | None:
        """The first owner."""
        return next(iter(self._names()), None)

    def _names(self) -> list[str]:
        if isinstance(self.subjects[0], Module):
            return list(dict.fromkeys(map(_name, self.subjects)))
        return each(p for e, subject in zip(self.events, self.subjects) for p in about(e, subject))

    @property
    def labels(self) -> tuple[str, ...]:
        """The models that it is about."""
        params = [p for e, subject in zip(self.events, self.subjects) for p in about(e, subject)]
        return tuple(dict.fromkeys(param.module.root.shown for param in params))


def claims(world: World, wanted: Callable[[Event, Any], bool]) -> Iterator[Claim]:
    """The lines that claim what is not so and what no later line makes so; of those that are
    `wanted`, judged by their event and by what they are about."""
    known = {module.key: module for module in world.modules if module.key}
    own = {
        (e.subject.id, e.data["attribute"])
        for e in world.of(ATTRIBUTE)
        if e.data.get("own") and isinstance(e.subject, Module)
    }
    found: dict[tuple[Site | None, str], Claim] = {}
    for event in world.of(ATTRIBUTE):
        # What is not known may turn out to be a model further down.
        subject = known.get(getattr(event.subject, "key", ""), event.subject)
        if not wanted(event, subject) or _is_option(event, own):
            continue
        if not _contradicted(world, event, subject):
            continue
        claim = found.setdefault((event.site, event.data["attribute"]), Claim(event))
        claim.flag = claim.flag if claim.flag is _flag(event) else None
        claim.subjects.append(subject)
        claim.events.append(event)
    yield from found.values()


def about(event: Event, subject: Any) -> tuple[Param, ...]:
    """The parameters whose flag it speaks of."""
    if isinstance(subject, Module):
        return tuple(subject.parameters())
    param = getattr(subject, "param", None)
    if param is not None and param.module is not None:
        return tuple(param.leaves())
    return event.params


def _flag(event: Event) -> bool | None:
    return bool(event.value) if isinstance(event.value, (bool, int)) else None


def _is_option(event: Event, own: set[tuple[int, str]]) -> bool:
    """The class of the module keeps an attribute of this name itself."""
    module, attribute = event.subject, event.data["attribute"]
    if not isinstance(module, Module):
        return False
    kept = module.cls is not None and module.cls.find(attribute) is not None
    return kept or (module.id, attribute) in own


def _contradicted(world: World, event: Event, subject: Any) -> bool:
    params, flag = about(event, subject), _flag(event)
    if not params:
        return not isinstance(subject, Module)  # one without parameters: no harm
    if flag is not None and all(p.trains(before=event.index) is flag for p in params):
        return False
    ids = {param.id for param in params}
    return not any(
        later.value in (flag, None) and later.data.get("via") != "escape"
        for later in world.since(event, FLAG)
        if not ids.isdisjoint(p.id for p in later.params)
    )


def _name(module: Module) -> str:
    """`layer4`; the model's own label for the whole of it."""
    return "other layers" if "<" in module.path else module.path or module.shown
