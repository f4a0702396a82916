"""Random fine-tuning setups for hypothesis: a model, its optimizers, and what befell them.

`plans()` draws a `Plan`, plain data that a failing test can print; `Setup(plan)` builds
it and plays it up to the moment before a step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

WIDTH, CLASSES, BATCH, WORDS = 4, 3, 3, 7

BUILTIN = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type)
    and issubclass(kind, torch.optim.Optimizer)
    and kind is not torch.optim.Optimizer
}


# -- models ---------------------------------------------------------------------------


class Scale(nn.Module):
    """A parameter without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class Residual(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


class Branch(nn.Module):
    """A layer whose gradient is all zeros ("dead") or missing ("unused", "detached")."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "dead":
            return x + 0 * self.layer(x)
        return x if self.how == "unused" else x + self.layer(x).detach()


class Bank(nn.Module):
    """Parameters in containers, one of them used."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.ParameterList([nn.Parameter(torch.randn(WIDTH)) for _ in range(2)])
        self.named = nn.ParameterDict({"bias": nn.Parameter(torch.zeros(WIDTH))})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.row[1] + self.named["bias"]


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight.real + self.weight.imag


class Empty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight.sum()


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x.unsqueeze(1)).squeeze(1)


def _zeros() -> nn.Module:
    layer = nn.Linear(WIDTH, WIDTH)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


_LEAVES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "plain": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
    "zeros": _zeros,
    "relu": nn.ReLU,
    "dropout": lambda: nn.Dropout(0.5),
    "batchnorm": lambda: nn.BatchNorm1d(WIDTH),
    "statistics": lambda: nn.BatchNorm1d(WIDTH, affine=False),
    "layernorm": lambda: nn.LayerNorm(WIDTH),
    "groupnorm": lambda: nn.GroupNorm(2, WIDTH),
    "conv": Conv,
    "scale": Scale,
    "dead": lambda: Branch("dead"),
    "unused": lambda: Branch("unused"),
    "detached": lambda: Branch("detached"),
    "bank": Bank,
    "complex": Complex,
    "empty": Empty,
}
_NESTED = {"sequential": nn.Sequential, "residual": Residual}
_EMBEDDINGS: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: nn.Embedding(WORDS, WIDTH),
    "padded": lambda: nn.Embedding(WORDS, WIDTH, padding_idx=0),
    "sparse": lambda: nn.Embedding(WORDS, WIDTH, sparse=True),
    "bag": lambda: nn.EmbeddingBag(WORDS, WIDTH, mode="sum", sparse=True),
}


class Net(nn.Module):
    """Optional embedding, a body of random blocks, a head."""

    def __init__(self, embedding: str, blocks: tuple[Any, ...]) -> None:
        super().__init__()
        self.embedding = _EMBEDDINGS[embedding]() if embedding else None
        built: list[nn.Module] = []
        self.body = nn.Sequential(*(_build(block, built) for block in blocks))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.embedding is not None:
            x = self.embedding(x)
        return self.head(self.body(x))

    def inputs(self) -> torch.Tensor:
        if self.embedding is None:
            return torch.randn(BATCH, WIDTH, dtype=self.head.weight.dtype)
        shape = (BATCH, 2) if isinstance(self.embedding, nn.EmbeddingBag) else (BATCH,)
        return torch.randint(WORDS, shape)


def _build(block: Any, built: list[nn.Module]) -> nn.Module:
    """A block, or one of the `built` ones again ("shared"), or its weight ("tied")."""
    if isinstance(block, tuple):
        return _NESTED[block[0]](*(_build(inner, built) for inner in block[1]))
    linears = [m for m in built if type(m) is nn.Linear]
    if block == "shared" and built:
        return built[len(built) // 2]
    if block == "tied" and linears:
        module: nn.Module = nn.Linear(WIDTH, WIDTH)
        module.weight = linears[-1].weight
    else:
        module = _LEAVES.get(block, nn.ReLU)()
    built.append(module)
    return module


def blocks() -> st.SearchStrategy[Any]:
    leaf = st.sampled_from([*_LEAVES, "shared", "tied", "linear", "batchnorm"])
    return st.recursive(
        leaf,
        lambda inner: st.tuples(
            st.sampled_from(list(_NESTED)), st.lists(inner, max_size=3).map(tuple)
        ),
        max_leaves=6,
    )


# -- optimizers -----------------------------------------------------------------------


class Own(torch.optim.Optimizer):
    """An optimizer with a step() of its own, which takes a missing gradient for zeros."""

    def __init__(self, params: Any, lr: float = 0.1, weight_decay: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if not (p.grad is not None and p.grad.is_sparse):
                    grad = torch.zeros_like(p) if p.grad is None else p.grad
                    p.sub_(group["lr"] * (grad + group["weight_decay"] * p))


_RATES = st.sampled_from([0.1, 0.1, 0.03, 0.5, 0.0])
_DECAYS = st.sampled_from([0.0, 0.0, 0.1, 0.5])
_SMALL_DECAYS = st.sampled_from([0.0, 0.0, 0.1, 0.5, 1e-9, 1e-6])  # see `_decays`
_BETAS = st.sampled_from([(0.9, 0.999), (0.9, 0.999), (0.0, 0.9), (0.5, 0.7)])
_EPS = st.sampled_from([1e-8] * 12 + [1e-3, 0.0])
_ADAM = {"betas": _BETAS, "eps": _EPS, "weight_decay": _DECAYS}
_RARELY = st.sampled_from([False] * 9 + [True])

# What is special about each class; what many share is added by `options`.
OPTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "ASGD": {
        "lambd": st.sampled_from([1e-4, 1e-4, 0.0, 0.1, 1e-9]),
        "weight_decay": _DECAYS,
        "t0": st.sampled_from([1e6, 1.0]),
    },
    "Adadelta": {"weight_decay": _DECAYS, "rho": st.sampled_from([0.9, 0.5])},
    "Adafactor": {
        "weight_decay": _DECAYS,
        "eps": st.sampled_from([(None, 1e-3)] * 6 + [(1e-6, 1e-3), (None, 0.0), (0.0, 1e-3)]),
    },
    "Adagrad": {
        "weight_decay": _DECAYS,
        "lr_decay": st.sampled_from([0.0, 0.1]),
        "initial_accumulator_value": st.sampled_from([0.0, 0.1]),
        "eps": st.sampled_from([1e-10] * 9 + [0.0]),
    },
    "Adam": {**_ADAM, "amsgrad": st.booleans(), "decoupled_weight_decay": st.booleans()},
    "AdamW": {**_ADAM, "amsgrad": st.booleans(), "weight_decay": _DECAYS},
    "Adamax": _ADAM,
    "LBFGS": {
        "max_iter": st.sampled_from([1, 1, 3, 20]),
        "line_search_fn": st.sampled_from([None, None, "strong_wolfe"]),
        "tolerance_grad": st.sampled_from([1e-7, 1e-7, 10.0]),
        "tolerance_change": st.sampled_from([1e-9, 1e-9, 100.0]),
    },
    "Muon": {
        "momentum": st.sampled_from([0.95, 0.0, 1.0]),
        "nesterov": st.booleans(),
        "weight_decay": _DECAYS,
    },
    "NAdam": {**_ADAM, "decoupled_weight_decay": st.booleans()},
    "RAdam": {**_ADAM, "decoupled_weight_decay": st.booleans()},
    "RMSprop": {
        "momentum": st.sampled_from([0.0, 0.9]),
        "centered": st.booleans(),
        "alpha": st.sampled_from([0.99, 0.5]),
        "eps": _EPS,
        "weight_decay": _DECAYS,
    },
    "Rprop": {"step_sizes": st.sampled_from([(1e-6, 50), (1e-3, 0.1), (0.0, 50)])},
    "SGD": {
        "momentum": st.sampled_from([0.0, 0.9]),
        "dampening": st.sampled_from([0.0, 0.5, 1.0]),
        "nesterov": st.booleans(),
        "weight_decay": _DECAYS,
    },
    "SparseAdam": {"betas": _BETAS},
    "Own": {"weight_decay": _DECAYS},
}


@dataclass(frozen=True)
class OptimizerPlan:
    """One optimizer. `subset` picks parameters bit by bit; 0 takes all, -1 the trainable."""

    name: str
    options: dict[str, Any]
    subset: int
    split: bool  # into two groups, the second with `second`
    second: dict[str, Any]
    tensor_rate: bool
    inherited: bool  # through a subclass that adds nothing
    scheduled: bool
    lax: bool  # also parameters whose gradients it refuses


@st.composite
def options(draw: Any, name: str) -> dict[str, Any]:
    """Keyword arguments that the class accepts together."""
    kind = BUILTIN.get(name, Own)
    accepted = inspect.signature(kind).parameters
    chosen = {key: draw(value) for key, value in OPTIONS[name].items() if key in accepted}
    chosen["lr"] = draw(_RATES) or (0.1 if name == "SparseAdam" else 0.0)  # which refuses 0
    if chosen.get("line_search_fn"):
        chosen["lr"] = 0.1  # its line search divides by zero at rate 0
    way = draw(st.sampled_from([None, None, "foreach", "fused"]))
    if way in accepted:
        chosen[way] = True
    if "maximize" in accepted:
        chosen["maximize"] = draw(st.booleans())
    if chosen.get("nesterov") and name == "SGD":
        chosen["nesterov"] = chosen["momentum"] > 0
        chosen["dampening"] = 0.0
    if "weight_decay" in chosen:
        chosen["weight_decay"] = draw(_decays(name, chosen))
    return chosen


def _decays(name: str, chosen: dict[str, Any]) -> st.SearchStrategy[float]:
    """Decays that rounding swallows belong in the oracle where the forecast reckons with
    them, and nothing is made of them that it does not (such as momentum)."""
    plain = name == "SGD" and not chosen["momentum"]
    apart = chosen.get("decoupled_weight_decay") or name in ("ASGD", "AdamW", "Adafactor", "Muon")
    return _SMALL_DECAYS if plain or apart else _DECAYS


@st.composite
def optimizer_plans(
    draw: Any, names: tuple[str, ...] = (*BUILTIN, "SGD", "SGD", "Own")
) -> OptimizerPlan:
    name = draw(st.sampled_from(names))
    chosen = draw(options(name))
    second = {key: value for key, value in draw(options(name)).items() if key in _PER_GROUP}
    if "weight_decay" in second:
        second["weight_decay"] = draw(_decays(name, chosen))
    return OptimizerPlan(
        name,
        chosen,
        draw(st.one_of(st.just(0), st.just(0), st.just(-1), st.integers(1, 2**12))),
        name != "LBFGS" and draw(st.booleans()),
        {key: second[key] for key in draw(st.sets(st.sampled_from(sorted(second))))},
        draw(_RARELY) and not (chosen.get("foreach") and name in ("Adam", "AdamW")),
        draw(_RARELY),
        draw(_RARELY),
        draw(_RARELY),
    )


_PLAIN = OptimizerPlan("SGD", {}, 0, False, {}, False, False, False, False)

# Options that two groups of one optimizer may have each for itself.
_PER_GROUP = ("lr", "weight_decay", "lambd", "maximize", "betas")


# -- what happens ---------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """What comes before one step: events, then gradients."""

    events: tuple[tuple[Any, ...], ...]
    zero: str  # "none", "zero" or "keep"
    by: str  # who clears: "model" or "optimizer"
    backward: bool
    tampering: tuple[tuple[int, str], ...]
    closure: bool
    seed: int


@dataclass(frozen=True)
class Plan:
    """A whole setup, up to the step that is in question: the end of the last round."""

    embedding: str
    blocks: tuple[Any, ...]
    dtype: str
    flags: tuple[tuple[int, bool], ...]
    optimizers: tuple[OptimizerPlan, ...]
    rounds: tuple[Round, ...]
    wrapper: str
    given: str  # how several optimizers are given: "list" or "dict"
    seed: int


_INDEX = st.integers(0, 40)
_FLAG = st.tuples(_INDEX, st.booleans())
_EVENT = st.one_of(
    st.tuples(st.just("flag"), _INDEX, st.booleans()),
    st.tuples(st.just("flag"), _INDEX, st.booleans()),
    st.tuples(st.just("head")),
    st.tuples(st.just("group"), _INDEX, _RATES, _DECAYS),
    st.tuples(st.just("foreign"), _INDEX, st.booleans()),
    st.tuples(st.just("rate"), _INDEX, _RATES),
    st.tuples(st.just("mode"), st.booleans()),
    st.tuples(st.just("reload"), _INDEX),
)
_TAMPERING = st.tuples(
    _INDEX, st.sampled_from(["none", "zero", "zero", "zero", "random", "negate", "nan", "inf"])
)


@st.composite
def rounds(draw: Any) -> Round:
    return Round(
        tuple(draw(st.lists(_EVENT, max_size=2))),
        draw(st.sampled_from(["none", "zero", "zero", "keep"])),
        draw(st.sampled_from(["model", "optimizer"])),
        draw(st.sampled_from([True, True, True, False])),
        tuple(draw(st.lists(_TAMPERING, max_size=5))),
        draw(_RARELY),
        draw(st.integers(0, 2**16)),
    )


@st.composite
def plans(draw: Any, dtypes: tuple[str, ...] = ("float32", "float32", "float64")) -> Plan:
    """Setups with up to two optimizers and up to three earlier steps."""
    optimizers = draw(st.lists(optimizer_plans(), min_size=1, max_size=2))
    if any(plan.name == "LBFGS" for plan in optimizers):
        optimizers = optimizers[:1]  # its closure makes new gradients for the other
    return Plan(
        draw(st.sampled_from(["", "", *_EMBEDDINGS])),
        tuple(draw(st.lists(blocks(), max_size=3))),
        draw(st.sampled_from(dtypes)),
        tuple(draw(st.lists(_FLAG, max_size=3))),
        tuple(optimizers),
        tuple(draw(st.lists(rounds(), min_size=draw(st.integers(1, 3)), max_size=4))),
        draw(st.sampled_from(["", "", "", "DataParallel", "OptimizedModule"])),
        draw(st.sampled_from(["list", "dict"])),
        draw(st.integers(0, 2**16)),
    )


class Setup:
    """A plan come true. `model` may be wrapped, `net` is the model itself."""

    def __init__(self, plan: Plan) -> None:
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.dtype = getattr(torch, plan.dtype)
        self.net = Net(plan.embedding, plan.blocks)
        self._convert(self.net)
        self.model = _wrap(self.net, plan.wrapper)
        for index, flag in plan.flags:
            self._flag(index, flag)
        self.optimizers: list[Any] = []
        self._plans: dict[int, OptimizerPlan] = {}  # by id of the optimizer
        for wanted in plan.optimizers:
            optimizer = self._optimizer(wanted)
            if optimizer is not None:
                self.optimizers.append(optimizer)
                self._plans[id(optimizer)] = wanted
        if not self.optimizers:
            self.optimizers.append(torch.optim.SGD(self._dense(), lr=0.1))

    def given(self) -> Any:
        """The optimizers in the form in which they are handed over."""
        if len(self.optimizers) == 1:
            return self.optimizers[0]
        if self.plan.given == "list":
            return self.optimizers
        return {f"opt{i}": optimizer for i, optimizer in enumerate(self.optimizers)}

    def tensors(self, labels: Sequence[str] = ("first", "second")) -> dict[str, torch.Tensor]:
        """Every tensor of the model and of the optimizers, called `labels`, by its name in a
        forecast."""
        named = dict(self.net.named_parameters())
        seen = {id(p) for p in named.values()}
        for label, optimizer in zip(labels, self.optimizers):
            for i, group in enumerate(optimizer.param_groups):
                for j, p in enumerate(group["params"]):
                    if id(p) not in seen:
                        seen.add(id(p))
                        named[f"{label}.param_groups[{i}]['params'][{j}]"] = p
        return named

    def holders(self, tensor: torch.Tensor) -> list[Any]:
        """The optimizers that hold a tensor."""
        return [
            o
            for o in self.optimizers
            if any(p is tensor for group in o.param_groups for p in group["params"])
        ]

    def play(self) -> None:
        """Everything up to the step in question."""
        for number, this in enumerate(self.plan.rounds):
            for event in this.events:
                self._happen(*event)
            self._gradients(this)
            if number < len(self.plan.rounds) - 1:
                self.step(this)

    def step(self, this: Round) -> None:
        """One step of every optimizer."""
        for _optimizer in self.steps(this):
            pass

    def steps(self, this: Round) -> Iterator[Any]:
        """Each optimizer, when it has taken its step."""
        for optimizer in self.optimizers:
            again = this.closure and this.zero != "keep" and optimizer is self.optimizers[0]
            if again or isinstance(optimizer, torch.optim.LBFGS):
                optimizer.step(lambda: self._gradients(this))
            else:
                optimizer.step()
            yield optimizer

    # -- building -----------------------------------------------------------------------

    def _convert(self, module: nn.Module) -> None:
        """To the plan's type; complex parameters to the matching one."""
        for part in module.modules():
            if not any(p.is_complex() for p in part.parameters(recurse=False)):
                for p in part.parameters(recurse=False):
                    p.data = p.data.to(self.dtype)
                for b in part.buffers(recurse=False):
                    if b.is_floating_point():
                        b.data = b.data.to(self.dtype)
            elif self.dtype is torch.float64:
                part.weight.data = part.weight.data.to(torch.complex128)

    def _dense(self) -> list[torch.Tensor]:
        return [p for p in self.net.parameters() if not self._is_sparse(p)]

    def _is_sparse(self, p: torch.Tensor) -> bool:
        embedding = self.net.embedding
        return getattr(embedding, "sparse", False) and p is embedding.weight

    def _fits(self, plan: OptimizerPlan, p: torch.Tensor) -> bool:
        """The optimizer takes such a parameter, and mostly, such a gradient."""
        if plan.name == "Muon" and p.dim() != 2:
            return False
        if p.is_complex() and (
            plan.name in ("Muon", "Adafactor", "SparseAdam") or plan.options.get("fused")
        ):
            return False
        if plan.name == "Adafactor" and p.numel() == 0:
            return False  # divides by it
        if plan.name == "SparseAdam":
            return plan.lax or self._is_sparse(p)
        if not self._is_sparse(p) or plan.lax or plan.name in ("LBFGS", "Own"):
            return True
        decayed = plan.options.get("weight_decay") or plan.second.get("weight_decay")
        return plan.name in ("SGD", "Adagrad") and not decayed and not plan.options.get("fused")

    def _optimizer(self, plan: OptimizerPlan) -> Any:
        fitting = [p for p in self.net.parameters() if self._fits(plan, p)]
        chosen = fitting
        if plan.subset > 0:
            chosen = [p for i, p in enumerate(fitting) if plan.subset >> (i % 12) & 1]
        elif plan.subset < 0:
            chosen = [p for p in fitting if p.requires_grad]
        chosen = chosen or fitting
        if not chosen:
            return None
        kind = BUILTIN.get(plan.name, Own)
        if plan.inherited:
            kind = type(f"My{plan.name}", (kind,), {})
        kwargs = dict(plan.options)
        if plan.tensor_rate:
            kwargs["lr"] = torch.tensor(kwargs["lr"])
        groups = [{"params": chosen}]
        if plan.split and len(chosen) > 1:
            half = len(chosen) // 2
            groups = [{"params": chosen[:half]}, {"params": chosen[half:], **plan.second}]
        optimizer = kind(groups, **kwargs)
        if plan.scheduled:
            optimizer.kept = torch.optim.lr_scheduler.StepLR(optimizer, 1000)
        return optimizer

    # -- happening ----------------------------------------------------------------------

    def _flag(self, index: int, flag: bool) -> None:
        """Freeze or unfreeze a module or a parameter."""
        things: list[Any] = [*self.net.parameters(), *self.net.modules()]
        things[index % len(things)].requires_grad_(flag)

    def _happen(self, kind: str, *details: Any) -> None:
        if kind == "flag":
            self._flag(*details)
        elif kind == "head":
            self.net.head = nn.Linear(WIDTH, CLASSES).to(self.dtype)
        elif kind == "mode":
            self.net.train(details[0])
        else:
            number = details[0] % len(self.optimizers)
            self._to_optimizer(kind, number, *details[1:])

    def _to_optimizer(self, kind: str, number: int, *details: Any) -> None:
        optimizer = self.optimizers[number]
        if kind == "rate":
            group = optimizer.param_groups[-1]
            if group.get("line_search_fn"):
                return
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(details[0])
            else:
                group["lr"] = details[0]
        elif kind == "reload":
            optimizer.load_state_dict(optimizer.state_dict())
        elif not isinstance(optimizer, torch.optim.LBFGS):
            plan = self._plans.get(id(optimizer), _PLAIN)
            if kind == "foreign":
                made = nn.Parameter(torch.randn(2, 2, dtype=self.dtype), requires_grad=details[0])
                if details[0]:
                    made.grad = torch.randn_like(made)
                new, extra = [made], {}
            else:
                new = [
                    p
                    for p in self.net.parameters()
                    if self._fits(plan, p) and not self._is_sparse(p) and not _holds(optimizer, p)
                ]
                extra = {"lr": details[0]}
                if "weight_decay" in optimizer.defaults:
                    extra["weight_decay"] = details[1]
            if new and plan.name != "SparseAdam":
                optimizer.add_param_group({"params": new, **extra})

    def _gradients(self, this: Round) -> torch.Tensor:
        """The round's gradients: the same ones whenever it is called on the same values,
        each scaled to about 1, so that no update drowns in rounding."""
        torch.manual_seed(this.seed)
        closes = any(isinstance(o, torch.optim.LBFGS) for o in self.optimizers)
        if this.zero != "keep" or closes:
            owners = [self.net] if this.by == "model" else self.optimizers
            if closes or this.closure:  # a closure clears everything, to arrive at the same
                owners = [self.net, *self.optimizers]
            for owner in owners:
                owner.zero_grad(set_to_none=this.zero == "none")
        inputs = self.net.inputs()
        loss = torch.zeros(())
        if this.backward:
            outputs = self.net(inputs)
            loss = (outputs - torch.randn_like(outputs)).square().mean()
            if loss.requires_grad:
                loss.backward()
        for p in self.tensors().values():
            if p.grad is not None:
                _rescale(p.grad, 0.5 + torch.rand(()).item())
        tensors = list(self.tensors().values())
        for index, how in this.tampering:
            _tamper(tensors[index % len(tensors)], how)
        return loss.detach()


def _wrap(net: nn.Module, wrapper: str) -> nn.Module:
    if wrapper == "OptimizedModule":
        return torch.compile(net)
    return nn.DataParallel(net) if wrapper else net


def _holds(optimizer: Any, p: torch.Tensor) -> bool:
    return any(q is p for group in optimizer.param_groups for q in group["params"])


def _entries(tensor: torch.Tensor) -> torch.Tensor:
    return tensor._values() if tensor.is_sparse else tensor


@torch.no_grad()
def _rescale(grad: torch.Tensor, size: float) -> None:
    entries = _entries(grad)
    if entries.numel():
        largest = entries.abs().max()
        if largest > 0 and largest.isfinite():
            entries.mul_(size / largest)


@torch.no_grad()
def _tamper(p: torch.Tensor, how: str) -> None:
    if how == "none":
        p.grad = None
    elif how == "random":
        p.grad = torch.randn_like(p) if p.grad is None or not p.grad.is_sparse else p.grad
    elif p.grad is not None and p.grad.numel():
        entries = _entries(p.grad)
        if how == "zero":
            entries.zero_()
        elif how == "negate":
            entries.neg_()
        elif entries.numel():
            entries.view(-1)[0] = float(how)
