"""One way through a program, as the source half read it.

The source half runs a text in its mind, several times where a branch depends on what
it cannot know; each way through is a `World`: the modules, parameters, optimizers and
schedulers that would exist, and what would be done to them, in order. Rules read it
(`Rule.in_source`); nothing here knows about syntax trees.

A `Param` stands for one tensor, or for several that were always treated alike ("all of
layer4"). It is taken apart where the program tells them apart, so a rule asks for
`leaves` and never sees one of which a half is frozen. `None` always means: not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from freezecheck.finding import Site

# Kinds of events; those of `timeline.py` that exist here too have the same names.
FLAG = "flag"  # requires_grad of `params` set to `value` (None: to something unknown)
MODE = "mode"  # train() / eval() of module `subject`; data: "norms" (its BatchNorm layers alone)
REPLACE = "replace"  # child `data["name"]` of `subject`: `data["old"]` (or None) gave way to
# `data["new"]`; data: "building" (in the constructor of a module)
OPTIMIZER = "optimizer"  # `subject` was built
GROUP = "group"  # `data["group"]` was added to optimizer `subject`
SCHEDULER = "scheduler"  # `subject` was built
WRAP = "wrap"  # module `subject` wrapped; value: "DistributedDataParallel", ...
LOAD = "load"  # load_state_dict of `subject` (module, optimizer, scheduler)
ATTRIBUTE = "attribute"  # data["attribute"] of `subject` (any value) set to `value`
STATEMENT = "statement"  # an expression statement without effect; value: its text
PATTERN = "pattern"  # a loop tests names of `subject`; value: pattern.Chain; data: "norms"
FORWARD = "forward"  # module `subject` called; data: "result", "said" (functions, loops around)
LOSS = "loss"  # a loss computed; value: its name
BACKWARD = "backward"
CHECKPOINT = (
    "checkpoint"  # a block entered; value: use_reentrant; data: "dark" (no gradient leaves)
)
USE = "use"  # a method of module `subject` that is not understood was called
ZERO_GRAD = "zero_grad"  # of `subject` (optimizer or module); value: set_to_none
CLIP = "clip"  # gradients of `params` clipped; data: "exhausted"
STEP = "step"  # optimizer `subject` stepped
SCHEDULE = "schedule"  # scheduler `subject` stepped
ESCAPE = "escape"  # `subject` was handed to a call that is not understood
RESULT = "result"  # a statement drops what a call returned: value is the call's name
RATE = "rate"  # data["option"] of data["group"] of optimizer `subject` set to `value`
COMPILE = "compile"  # Keras model `subject` compiled; value: the rate; data: "optimizer"
FIT = "fit"  # Keras model `subject` trained; value: the method
BUILT = "built"  # Keras model `subject` made of layers; see `source.keras`
REBUILD = "rebuild"  # Keras: a model made anew from a configuration, or given losses
END = "end"  # the way ends; value: "end", "raise", "budget"


# Children that stand for parts at places that are not known.
NORMS = "<norms>"  # BatchNorm layers
REST = "<rest>"  # whatever else `children()` gives


class Event:
    """One thing that would happen.

    `stack` are the call sites that lead to it, outermost first; `loops` the passes of
    the loops around it, outermost first, as (loop's line, number of the pass).
    """

    __slots__ = (
        "data",
        "grad",
        "index",
        "kind",
        "loops",
        "params",
        "site",
        "stack",
        "subject",
        "value",
    )

    def __init__(
        self,
        index: int,
        kind: str,
        site: Site | None,
        subject: Any = None,
        params: tuple[Param, ...] = (),
        value: Any = None,
        data: dict[str, Any] | None = None,
        stack: tuple[Site, ...] = (),
        loops: tuple[tuple[int, int], ...] = (),
        grad: bool = True,
    ) -> None:
        self.index = index
        self.kind = kind
        self.site = site
        self.subject = subject
        self.params = params
        self.value = value
        self.data = data or {}
        self.stack = stack
        self.loops = loops
        self.grad = grad

    def __repr__(self) -> str:
        about = " ".join(str(x) for x in (self.subject, list(self.params) or None) if x is not None)
        return f"<{self.index} {self.kind} {about} {self.value!r} at {self.site}>"


class Module:
    """An `nn.Module`, or something that is used as one.

    `type` is its class or the builder that made it, as a dotted name
    (`torch.nn.Linear`, `torchvision.models.resnet18`, `train.Net` for the file's own
    class, "" where unknown). `open`: it has parts that are not listed in `children`
    and `params`. `pretrained`: its values come from training. `norm`: "batch",
    "layer", "group", "instance" for a norm layer. `batchnorm`: BatchNorm layers are
    somewhere in its unlisted rest (None: not known).
    """

    __slots__ = (
        "added",
        "architecture",
        "attributes",
        "batchnorm",
        "born",
        "children",
        "cls",
        "copied",
        "detached",
        "escaped",
        "id",
        "index",
        "key",
        "label",
        "modes",
        "name",
        "norm",
        "open",
        "options",
        "params",
        "parent",
        "pretrained",
        "rest",
        "settled",
        "site",
        "stochastic",
        "type",
        "wrapper",
    )  # fmt: skip

    def __init__(self, id: int, type: str, site: Site | None) -> None:
        self.id = id
        self.type = type
        self.site = site
        self.index = 0  # of the next event when it was made
        self.name = ""  # below its parent
        self.label = ""  # the variable that a root was first bound to
        self.key = ""  # of the unknown value that turned out to be a module
        self.parent: Module | None = None
        self.children: dict[str, Module] = {}
        self.params: dict[str, Param] = {}  # its own
        self.rest: list[Param] = []  # of its unlisted parts
        self.open = False
        self.pretrained: bool | None = None
        self.norm: str | None = None
        self.batchnorm: bool | None = False
        self.stochastic: bool | None = False  # dropout in it or in its unlisted rest
        self.options: dict[str, Any] = {}  # known arguments of its constructor
        self.attributes: dict[str, Any] = {}  # anything else that was set on it
        self.architecture: Any = None  # its tree, where the library's is known
        self.cls: Any = None  # the file's own class
        self.added = False  # under a name that its parent's class, a library's, does not know
        self.born: bool | None = True  # whether it was in train mode when it was made
        self.modes: list[Event] = []  # MODE events that reached it, oldest first
        self.escaped: Event | None = None  # the first time it was handed to something unknown
        self.detached: Event | None = None  # it was replaced
        self.copied: Module | None = None  # deepcopy of that one
        self.settled: tuple[list[Module], list[Param]] | None = None
        self.wrapper = ""  # "DataParallel": its only child `module` is the model

    def around(self) -> Iterator[Module]:
        """It and every module around it, the innermost first."""
        found: Module | None = self
        while found is not None:
            yield found
            found = found.parent

    def is_below(self, outer: Module) -> bool:
        """It is `outer`, or inside it."""
        found: Module | None = self
        while found is not None and found is not outer:
            found = found.parent
        return found is outer

    @property
    def root(self) -> Module:
        """The outermost module around it."""
        *_, outermost = self.around()
        return outermost

    @property
    def path(self) -> str:
        """Its path below its root; "" for a root."""
        inside = [module.name for module in self.around() if module.parent is not None]
        return ".".join(reversed(inside))

    @property
    def shown(self) -> str:
        """What a message calls it: `model.layer4`, `model`."""
        label = self.root.label or self.root.type.rpartition(".")[2] or "the model"
        return f"{label}.{self.path}" if self.parent is not None else label

    def moded(self, before: int | None = None) -> Event | None:
        """The newest MODE event that reached it (before event number `before`)."""
        return next((e for e in reversed(self.modes) if before is None or e.index < before), None)

    def learns(self, before: int | None = None) -> bool | None:
        """Whether it is in train mode then."""
        event = self.moded(before)
        return self.born if event is None else event.value

    @property
    def training(self) -> bool | None:
        """Whether it is in train mode now."""
        return self.learns()

    @property
    def builder(self) -> str:
        """The last part of `type`: `resnet18`, `Linear`."""
        return self.type.rpartition(".")[2]

    def walk(self) -> list[Module]:
        """It and every listed module below, in order of registration."""
        if self.settled is not None:
            return self.settled[0]
        found: list[Module] = []
        self._into(found)
        return found

    def _into(self, found: list[Module]) -> None:
        found.append(self)
        for child in self.children.values():
            child._into(found)

    def parameters(self) -> list[Param]:
        """Every parameter in it, as leaves, in order."""
        if self.settled is not None:
            return self.settled[1]
        return [
            leaf
            for module in self.walk()
            for param in (*module.params.values(), *module.rest)
            for leaf in param.leaves()
        ]

    def settle(self) -> None:
        """It will not change any more: what is in it is kept."""
        self.settled = (self.walk(), self.parameters())

    def __repr__(self) -> str:
        return f"{self.shown}<{self.builder or '?'}>"


class Param:
    """A parameter, or all parameters of a module's unlisted rest.

    `name` is "" for a rest. `tests` are the name tests that told it from others, as
    (condition of `pattern.py`, whether it held).
    """

    __slots__ = ("born", "id", "module", "name", "norm", "parts", "tests", "trainable", "writes")

    def __init__(self, id: int, module: Module, name: str) -> None:
        self.id = id
        self.module = module
        self.name = name
        self.norm: bool | None = False  # of a norm layer
        self.tests: tuple[tuple[Any, bool], ...] = ()
        self.parts: tuple[Param, ...] = ()
        self.born: bool | None = True  # whether it required grad when it was made
        self.trainable: bool | None = True
        self.writes: list[Event] = []  # FLAG events, oldest first

    def leaves(self) -> tuple[Param, ...]:
        """What it was taken apart into; itself if it never was."""
        if not self.parts:
            return (self,)
        return tuple(leaf for part in self.parts for leaf in part.leaves())

    @property
    def one(self) -> bool:
        """It is a single tensor."""
        return self.name != ""

    @property
    def path(self) -> str:
        """`layer4.0.conv1.weight`; `layer4.*` for a rest."""
        return ".".join(filter(None, (self.module.path, self.name or "*")))

    def written(self, before: int | None = None) -> Event | None:
        """The newest FLAG event on it (before event number `before`)."""
        return next((e for e in reversed(self.writes) if before is None or e.index < before), None)

    def trains(self, before: int | None = None) -> bool | None:
        """Whether it requires grad then."""
        if before is None:
            return self.trainable
        event = self.written(before)
        return self.born if event is None else event.value

    def __repr__(self) -> str:
        return f"{self.module.root.shown}:{self.path}"


class Group:
    """A parameter group: what is in it, and the options that its dict gives.

    `options` has known values (None where a value is not known); a key that is absent was
    not given. `open`: it may hold more than `members`. `exhausted`: it was made from
    an iterator that had nothing left. `optimizer.options` has the constructor's values.
    """

    __slots__ = ("event", "exhausted", "members", "open", "options", "settled", "site")

    def __init__(
        self, members: Sequence[Param], options: dict[str, Any], site: Site | None
    ) -> None:
        self.members = list(members)
        self.options = options
        self.site = site
        self.open = False
        self.exhausted = False
        self.event: Event | None = None  # OPTIMIZER or GROUP
        self.settled: list[Param] | None = None

    @property
    def params(self) -> list[Param]:
        """What is in it, as leaves, in order; twice if twice given."""
        if self.settled is not None:
            return self.settled
        return [leaf for member in self.members for leaf in member.leaves()]


class Optimizer:
    """An optimizer. `type` as for a module (`torch.optim.SGD`)."""

    __slots__ = (
        "escaped",
        "event",
        "groups",
        "id",
        "label",
        "loads",
        "options",
        "site",
        "steps",
        "type",
    )

    def __init__(self, id: int, type: str, options: dict[str, Any], site: Site | None) -> None:
        self.id = id
        self.type = type
        self.options = options
        self.site = site
        self.label = ""
        self.groups: list[Group] = []
        self.event: Event | None = None
        self.steps: list[Event] = []
        self.loads: list[Event] = []
        self.escaped: Event | None = None

    @property
    def shown(self) -> str:
        """What a message calls it."""
        return self.label or "the optimizer"

    @property
    def open(self) -> bool:
        """It may hold more than is listed."""
        return any(group.open for group in self.groups)

    def lr(self, group: Group) -> float | None:
        """The rate that a group starts with; None where it is not known."""
        value = group.options.get("lr", self.options.get("lr"))
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def holds(self, param: Param, before: int | None = None) -> bool:
        """It holds this leaf then."""
        return any(
            param in group.params
            for group in self.groups
            if before is None or group.event is None or group.event.index < before
        )

    def __repr__(self) -> str:
        return f"{self.shown}<{self.type.rpartition('.')[2]}>"


class Scheduler:
    """A learning-rate scheduler. `options` as for a group."""

    __slots__ = ("event", "id", "label", "optimizer", "options", "parts", "site", "steps", "type")

    def __init__(
        self,
        id: int,
        type: str,
        optimizer: Optimizer | None,
        options: dict[str, Any],
        site: Site | None,
    ) -> None:
        self.id = id
        self.type = type
        self.optimizer = optimizer
        self.options = options
        self.site = site
        self.label = ""
        self.parts: list[Scheduler] = []  # of a SequentialLR or ChainedScheduler
        self.event: Event | None = None
        self.steps: list[Event] = []

    def __repr__(self) -> str:
        return f"{self.label or 'scheduler'}<{self.type.rpartition('.')[2]}>"


class World:
    """One way through a program.

    `choices` are the conditions that were taken as true or false on the way, as
    (site, text, value), and `chosen` the numbers of the events that came next. `entry` is the function that it starts in ("" for the file
    itself, run as a script).
    """

    def __init__(self, path: str, entry: str = "") -> None:
        self.path = path
        self.entry = entry
        self.events: list[Event] = []
        self.modules: list[Module] = []
        self.optimizers: list[Optimizer] = []
        self.schedulers: list[Scheduler] = []
        self.choices: list[tuple[Site, str, bool]] = []
        self.chosen: list[int] = []
        # How often the loop on a line goes round: a number, the text of what it is ("args.epochs"),
        # None where it is not known.
        self.lengths: dict[int, int | str | None] = {}
        self.complete = True  # False: stopped by the budget, or by an exception
        self._kinds: dict[str, list[Event]] | None = None

    def settle(self) -> None:
        """Nothing happens any more. Rules ask the same things again and again: what is in a
        module or in a group, and which events there are of a kind, is kept."""
        for module in self.modules:
            module.settle()
        for optimizer in self.optimizers:
            for group in optimizer.groups:
                group.settled = group.params
        self._kinds = {}
        for event in self.events:
            event.params = tuple(leaf for param in event.params for leaf in param.leaves())
            self._kinds.setdefault(event.kind, []).append(event)

    def of(self, kind: str, subject: Any = None) -> Iterator[Event]:
        """Events of one kind, oldest first; of one subject if given."""
        events = self.events if self._kinds is None else self._kinds.get(kind, ())
        return (e for e in events if e.kind == kind and (subject is None or e.subject is subject))

    def since(self, event: Event, kind: str, subject: Any = None) -> Iterator[Event]:
        """The same, after `event`."""
        return (e for e in self.of(kind, subject) if e.index > event.index)

    @property
    def roots(self) -> list[Module]:
        """The outermost modules, in the order in which they were made."""
        return [m for m in self.modules if m.parent is None]

    def uses(self, optimizer: Optimizer) -> Iterator[Event]:
        """The moments at which an optimizer does its work, as far as can be seen: its
        steps, and its being handed to something unknown, which may step it."""
        return (e for e in self.events if e.subject is optimizer and e.kind in (STEP, ESCAPE))

    def holders(self, param: Param, before: int | None = None) -> list[Optimizer]:
        """The optimizers that hold a leaf then."""
        return [
            o
            for o in self.optimizers
            if (before is None or o.event is None or o.event.index < before)
            and o.holds(param, before)
        ]
