"""A model, its optimizers and its schedulers as plain data.

`live.capture` makes a `Snapshot` from the real objects; rules and reports read
it and never see a tensor. Every record is read-only once captured. Indices
(`Param.model`, `Held.optimizer`, ...) point into the snapshot's own lists.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from freezecheck.finding import Site
from freezecheck.plain import decode, encode
from freezecheck.records import dataclass, field

FOREIGN = -1  # `Param.model` of a tensor that an optimizer holds and no model owns


@dataclass(slots=True)
class Held:
    """A parameter's place in one optimizer, and the state kept for it there."""

    optimizer: int
    group: int
    step: float | None = None  # steps its state has seen; None: no state or no counter
    moments: str | None = None  # "zero", "nonzero", "unknown"; None: no moments kept
    mismatch: str | None = None  # how the state does not fit the parameter
    rate: float | None = None  # kept in the state itself (ASGD; Rprop: 0.0 or 1.0, if looked at)
    blocked: bool = False  # Rprop: every gradient entry changed its sign, or is NaN
    decays: bool = True  # False: left out of the group's weight decay, as fastai does with norms


@dataclass(slots=True)
class Param:
    """One parameter tensor, under the first path by which its model reaches it.

    `called` tells how its module ran before the step: "never", "no_grad" (only
    with gradients switched off), "before" every module that got a gradient, or
    "beside" them.
    """

    name: str
    shape: tuple[int, ...]
    numel: int
    dtype: str  # "float32"
    device: str  # "cpu", "cuda:0"
    trainable: bool
    model: int
    stage: int = -1  # index into Model.stages; -1 for foreign
    grad: str | None = None  # None, "zero", "nonzero", "sparse", "unknown"
    zero: bool = False  # every value is 0 (looked at only where it decides a forecast)
    finite: bool = True  # the gradient has no NaN and no inf (looked at only at rate 0)
    called: str | None = None  # of a trainable, held one without gradient, in a run
    held: tuple[Held, ...] = ()
    aliases: tuple[str, ...] = ()  # further paths of the same tensor (tied)

    @property
    def module(self) -> str:
        """Path of the module that owns it."""
        return self.name.rpartition(".")[0]


@dataclass(slots=True)
class Stage:
    """Consecutive modules at which people freeze: stem, layer1, ..., head."""

    name: str
    paths: tuple[str, ...]
    kind: str = ""  # "stem", "head" or ""
    pretrained: bool | None = None  # its norm layers show training; None: none to tell by


@dataclass(slots=True)
class Norm:
    """A normalisation layer."""

    path: str
    type: str  # class name: "BatchNorm2d"
    kind: str  # "batch", "instance", "layer", "group"
    model: int
    stage: int
    training: bool
    trainable: bool | None = None  # of weight and bias; None: has neither
    tracking: bool = False  # track_running_stats
    has_stats: bool = False  # running buffers exist
    fresh: bool | None = None  # statistics, weight and bias as built; None: not looked (train mode)
    still: bool = False  # momentum 0: a forward in train mode leaves the statistics as they are
    apart: bool = False  # its mode is not that of the module around it
    reverts: bool | None = None  # `model.train()` would change its mode; None: not tried
    samples: int | None = None  # batch size of its training forward, in a recorded run
    recomputed: bool = False  # its forward ran again in the backward pass, at momentum 0.1
    site: Site | None = None  # where its mode was last set, in a recorded run

    @property
    def updates_statistics(self) -> bool:
        """Running mean and variance move at the next forward."""
        return self.training and self.tracking and self.has_stats and not self.still


@dataclass(slots=True)
class Dropout:
    """A layer that is random in train mode: dropout, stochastic depth."""

    path: str
    type: str
    p: float
    training: bool
    model: int
    stage: int


@dataclass(slots=True)
class Stray:
    """An attribute that was set on a module or parameter and has no effect there."""

    owner: str  # path of the module or parameter
    attribute: str
    value: Any
    on: str  # "module" or "parameter"
    model: int
    believed: bool | None = (
        None  # the flag the attribute claims, where it contradicts the real flags
    )


@dataclass(slots=True)
class Unregistered:
    """Parameters that a module holds in a way that PyTorch does not see."""

    owner: str  # path of the module
    attribute: str
    how: str  # "list", "dict", "tuple", "non-leaf"
    modules: int  # modules in the container
    numel: int
    trainable: bool
    grad: bool  # one of its parameters has a gradient
    held: bool  # one of its parameters is in an optimizer
    model: int
    site: Site | None = None  # where the class sets the attribute


@dataclass(slots=True)
class Label:
    """A size written on a module that its weight does not have."""

    path: str
    attribute: str  # "out_features"
    claimed: int
    real: int
    model: int


@dataclass(slots=True)
class Flat:
    """Tensors that FSDP1 joined into one flat parameter, with one gradient for all."""

    path: str  # of the wrapped module
    model: int
    tensors: int
    numel: int
    frozen: int  # tensors
    frozen_numel: int


@dataclass(slots=True)
class Shared:
    """Parameters that several processes hold in common, as one of them has them.

    Behind `DistributedDataParallel` weights and gradients are the same in every process at a
    step: `sizes` and `gradients` are sums of their absolute values, looked at in a recorded run
    of several processes, and of gradients that the step uses.
    """

    by: str  # "DistributedDataParallel", "FullyShardedDataParallel" or "DTensor"
    ranks: tuple[int, ...]
    model: int
    names: tuple[str, ...] = ()
    sizes: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    taken: int | None = None  # tensors whose gradients DistributedDataParallel averages
    spares: bool = False  # it was told that some of them may get none


@dataclass(slots=True)
class Head:
    """The last layer that makes the outputs."""

    path: str
    type: str
    shape: tuple[int, ...]
    fresh: bool | None = None  # values look as the constructor drew them; None: cannot say


@dataclass(slots=True)
class Model:
    """A root module, unwrapped."""

    label: str  # the user's variable name, or "model"
    type: str  # qualified class: "torchvision.models.resnet.ResNet"
    training: bool
    stages: list[Stage] = field(default_factory=list)
    children: tuple[str, ...] = ()  # direct children, in order of registration
    wrappers: tuple[str, ...] = ()  # outermost first: "DistributedDataParallel"
    frameworks: tuple[str, ...] = ()  # "peft", "transformers", "lightning", ...
    head: Head | None = None
    pretrained: bool | None = None  # norm layers show training (True) or none (False)
    resting: bool = False  # every module with parameters of its own is in eval mode
    site: Site | None = None

    @property
    def class_name(self) -> str:
        """The bare class name."""
        return self.type.rpartition(".")[2]


@dataclass(slots=True)
class Group:
    """One parameter group: its rates and how many tensors it holds."""

    lr: float
    weight_decay: float
    tensors: int
    numel: int
    options: dict[str, Any] = field(default_factory=dict)  # scalar options, lr and decay included
    foreign: int = 0  # tensors that no model owns
    names: tuple[str, ...] = ()  # `param_names`, where the optimizer was given names
    paths: tuple[str, ...] = ()  # what the tensors at those places are called now; "" if foreign
    duplicates: int = 0  # tensors listed twice in this group
    site: Site | None = None  # where it was added (the optimizer's own site otherwise)


@dataclass(slots=True)
class Optimizer:
    """An optimizer, unwrapped."""

    label: str
    type: str  # qualified class: "torch.optim.adamw.AdamW"
    builtin: bool  # one of torch.optim's own classes, step() not overridden
    family: str = ""  # the class of torch.optim whose step() runs: "AdamW"; "" where not builtin
    groups: list[Group] = field(default_factory=list)
    defaults: dict[str, Any] = field(default_factory=dict)
    stepped: bool = False  # holds state from an earlier step
    closure: bool = False  # its step is driven by a closure
    turns: int = 0  # in a recorded run: steps since the phase began
    idle: bool = False  # in a recorded run: never stepped while another one was
    dropped: bool = False  # in a recorded run: nothing but a scheduler refers to it any more
    converged: bool | None = None  # LBFGS: its gradients are within its tolerance
    part_of: int | None = None  # the optimizer around it (SAM, ZeRO), which has its groups here
    site: Site | None = None

    @property
    def class_name(self) -> str:
        """The bare class name."""
        return self.type.rpartition(".")[2]


@dataclass(slots=True)
class Scheduler:
    """A learning-rate scheduler."""

    label: str
    type: str  # class name: "OneCycleLR"
    optimizer: int | None  # None: drives an optimizer that is not among those inspected
    last_epoch: int
    base_lrs: tuple[float, ...] = ()
    peaks: tuple[float, ...] = ()  # largest rate of each group to come; empty: not worked out
    options: dict[str, Any] = field(default_factory=dict)  # eta_min, T_max, total_steps, ...
    parts: list[Scheduler] = field(default_factory=list)  # of a SequentialLR, ChainedScheduler
    # Tensors that both its optimizer and those inspected hold; None: it drives one of
    # these, or does not show its optimizer.
    shared: int | None = None
    site: Site | None = None
    falls: bool = False  # rates will be a tenth of their peak or less, as far as is known

    @property
    def simple(self) -> list[Scheduler]:
        """Itself, or the schedulers that it is made of, at any depth."""
        return [s for part in self.parts for s in part.simple] if self.parts else [self]


@dataclass(eq=False)
class Snapshot:
    """Everything that the rules may know of a setup at one moment."""

    models: list[Model] = field(default_factory=list)
    params: list[Param] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    dropouts: list[Dropout] = field(default_factory=list)
    optimizers: list[Optimizer] = field(default_factory=list)
    schedulers: list[Scheduler] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)
    unregistered: list[Unregistered] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    flats: list[Flat] = field(default_factory=list)
    shared: list[Shared] = field(default_factory=list)  # in a recorded run
    rank: int | None = None  # of this process in its group; None: it is in none
    world: int = 1  # processes in that group
    recorded: bool = False  # taken in a recorded run, at an optimizer step
    trial: bool = False  # forward and backward were ours, in the modes that were found
    torch: str = ""  # torch's version

    @property
    def place(self) -> str:
        """`rank 1 of 2`; empty in a process that is alone."""
        return f"rank {self.rank} of {self.world}" if self.world > 1 else ""

    @cached_property
    def owned(self) -> list[Param]:
        """Parameters that a model owns."""
        return [p for p in self.params if p.model != FOREIGN]

    @cached_property
    def foreign(self) -> list[Param]:
        """Tensors that an optimizer holds and no model owns."""
        return [p for p in self.params if p.model == FOREIGN]

    @cached_property
    def trainable(self) -> list[Param]:
        """Owned parameters that require grad."""
        return [p for p in self.owned if p.trainable]

    @cached_property
    def frozen(self) -> list[Param]:
        """Owned parameters that do not require grad."""
        return [p for p in self.owned if not p.trainable]

    @cached_property
    def active(self) -> list[int]:
        """Optimizers that step, as far as is known: not idle or dropped, and no other one's part."""
        return [
            i
            for i, o in enumerate(self.optimizers)
            if not (o.idle or o.dropped) and o.part_of is None
        ]

    def holder(self, model: int) -> Optimizer:
        """The optimizer that holds most of a model, of those that step; one of them if none does."""
        tensors: Counter[int] = Counter(dict.fromkeys(self.active or [0], 0))
        tensors.update(
            h.optimizer
            for p in self.params
            if p.model == model
            for h in p.held
            if h.optimizer in tensors
        )
        return self.optimizers[max(tensors, key=lambda index: tensors[index])]

    @cached_property
    def superseded(self) -> set[int]:
        """Optimizers that will not step again: dropped, or idle while another one, built
        later, steps some of their tensors."""
        idle = {i for i, o in enumerate(self.optimizers) if o.idle}
        gone = {i for i, o in enumerate(self.optimizers) if o.dropped}
        if not idle:
            return gone
        places = [{h.optimizer for h in p.held} for p in self.params if len(p.held) > 1]
        return gone | {
            i for i in idle if any(i in at and max(at - idle, default=-1) > i for at in places)
        }

    @cached_property
    def missing(self) -> list[Param]:
        """Trainable parameters that no optimizer holds, but for superseded ones."""
        if not self.superseded:
            return [p for p in self.trainable if not p.held]
        return [
            p for p in self.trainable if self.superseded.issuperset(h.optimizer for h in p.held)
        ]

    @cached_property
    def lost(self) -> list[Param]:
        """Missing parameters that are meant to train, as far as gradients tell: after a backward,
        those that received one."""
        if not self.after_backward:
            return self.missing
        return [p for p in self.missing if p.grad is not None]

    @cached_property
    def frozen_held(self) -> list[Param]:
        """Frozen tensors that an optimizer holds, foreign ones included."""
        return [p for p in self.params if p.held and not p.trainable]

    @cached_property
    def frozen_norms(self) -> list[Norm]:
        """Norm layers with running statistics that are frozen to stay so, see `frozen.norms`."""
        from freezecheck import frozen

        return frozen.norms(self)

    @cached_property
    def paused(self) -> set[int]:
        """Of several optimizers that step, those whose tensors are all frozen at the moment."""
        training = {h.optimizer for p in self.params if p.trainable for h in p.held}
        return set(self.active) - training if training else set()

    def built(self, model: int) -> Site | None:
        """Where the optimizer of a model was built, in a recorded run."""
        return self.holder(model).site if self.optimizers else None

    @cached_property
    def after_backward(self) -> bool:
        """Gradients are there, so a missing one means something."""
        return any(p.grad is not None for p in self.params)

    @property
    def forwarded(self) -> bool:
        """The user's own training forward has run, so that the modes are those that count."""
        return self.recorded or (self.after_backward and not self.trial)

    @cached_property
    def by_group(self) -> dict[tuple[int, int], list[Param]]:
        """The parameters of each (optimizer, group)."""
        members: dict[tuple[int, int], list[Param]] = {
            (i, j): [] for i, o in enumerate(self.optimizers) for j in range(len(o.groups))
        }
        for param in self.params:
            for held in param.held:
                members[held.optimizer, held.group].append(param)
        return members

    @cached_property
    def by_stage(self) -> dict[tuple[int, int], list[Param]]:
        """The parameters of each (model, stage), in the order of the stages."""
        members: dict[tuple[int, int], list[Param]] = {
            (i, j): [] for i, m in enumerate(self.models) for j in range(len(m.stages))
        }
        for param in self.owned:
            members[param.model, param.stage].append(param)
        return members

    def of_optimizer(self, index: int) -> list[Param]:
        """Every tensor in one optimizer, group by group."""
        groups = range(len(self.optimizers[index].groups))
        return [param for j in groups for param in self.by_group[index, j]]

    def of_model(self, index: int) -> list[Param]:
        """Every parameter of one model, stage by stage."""
        stages = range(len(self.models[index].stages))
        return [param for j in stages for param in self.by_stage[index, j]]

    def batchnorms(self) -> Iterator[Norm]:
        """Norm layers that keep running statistics (BatchNorm, InstanceNorm with tracking)."""
        return (n for n in self.norms if n.kind == "batch" or n.has_stats)

    def path(self, model: int, path: str) -> str:
        """`path` as a symbol: with the model's label where there are several models."""
        if len(self.models) <= 1 or model == FOREIGN:
            return path
        label = self.models[model].label
        return f"{label}.{path}" if path else label

    def to_dict(self) -> dict[str, Any]:
        """The snapshot as JSON."""
        return encode(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Snapshot:
        """The snapshot that `to_dict` gave."""
        return decode(cls, data)


_ADAPTER = re.compile(
    r"(^|[._])(lora_|ia3_|hada_|lokr_|oft_|boft_|vera_|randlora_|bone_|hra_|prompt_embeddings|"
    r"prompt_encoder|adaption_|poly_|fourier|c3a_|shira_)"
)


def is_adapter(name: str) -> bool:
    """A parameter by the name that PEFT's methods give theirs."""
    return _ADAPTER.search(name) is not None


def summarise(names: list[str], limit: int = 3) -> str:
    """A list of paths in a few words: `fc.weight, fc.bias`, `layer4.0.conv1.weight and 14 more`."""
    if len(names) <= limit:
        return ", ".join(names)
    return f"{', '.join(names[: limit - 1])} and {len(names) - limit + 1} more"


def count(number: int, noun: str) -> str:
    """`1 tensor`, `8 tensors`."""
    ending = "" if number == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number:,} {noun}{ending}"


def millions(number: int) -> str:
    """A number of parameters: `512`, `8.4 k`, `23.5 M`, `6.74 G`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
