"""Which tensors the next `optimizer.step()` will change, and for the others why not.

An update is a sum of pushes: the gradient, what momentum carries, weight decay. Each
optimizer of torch.optim is a short function that lists its pushes as its `step()`
makes them (read from torch 2.4 and 2.15); one certain push moves the tensor. Whether
the result survives rounding is asked of weight decay alone, whose size relative to
the tensor is known; any other push counts, however small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from freezecheck.records import dataclass
from freezecheck.snapshot import Group, Held, Optimizer, Param, Snapshot

# Why a tensor moves.
GRADIENT = "gradient"
STALE = "stale gradient"  # frozen, yet a gradient is left on it
MOMENTUM = "momentum"
DECAY = "weight decay"
NOT_FINITE = "gradient is not finite"  # 0 times NaN is NaN, so even at rate 0

# Why it does not.
NO_OPTIMIZER = "in no optimizer"
FROZEN = "frozen"
NO_GRADIENT = "no gradient"
ZERO = "gradient is zero"
RATE = "rate 0"
SIGN = "gradient changed its sign"  # Rprop holds still for a step
NAN = "gradient is NaN"  # which has no sign, and that is all that Rprop looks at
DAMPED = "gradient is damped to nothing"  # dampening 1
CONVERGED = "gradient within tolerance"  # LBFGS stops before it moves anything
EMPTY = "no entries"

# How an answer that is none begins.
UNKNOWN = "cannot say: "

# Machine epsilon of each type: the distance from 1 to the next larger number.
_EPSILON = {
    "float64": 2**-52,
    "complex128": 2**-52,
    "float32": 2**-23,
    "complex64": 2**-23,
    "float16": 2**-10,
    "bfloat16": 2**-7,
}
# An `eps` below half of the smallest positive number is added as 0.
_TINY = {"float16": 2**-25}

Verdict = tuple[bool | None, str]
Pushes = Iterator[Verdict | None]


@dataclass(frozen=True, slots=True)
class Movement:
    """What the next step does to one tensor: `moves` True, False, or None for cannot say."""

    name: str
    moves: bool | None
    why: str


def predict(snapshot: Snapshot) -> tuple[Movement, ...]:
    """One movement for each of `snapshot.params`, in their order.

    With several optimizers, each takes its next step.
    """
    return tuple(
        Movement(snapshot.path(p.model, p.name), *_verdict(snapshot, p)) for p in snapshot.params
    )


def _verdict(now: Snapshot, param: Param) -> Verdict:
    if param.numel == 0:
        return False, EMPTY
    if not param.held:
        return False, NO_OPTIMIZER if param.trainable else FROZEN
    return _strongest(in_one(now.optimizers[held.optimizer], param, held) for held in param.held)


def in_one(optimizer: Optimizer, param: Param, held: Held) -> Verdict:
    """What one optimizer does to a tensor that it holds."""
    family = FAMILIES.get(optimizer.family)
    if family is None:
        return _unsure(f"unknown optimizer {optimizer.class_name}")
    return family(optimizer, param, held)


def _strongest(verdicts: Iterable[Verdict | None]) -> Verdict:
    """The first certain movement, else the first doubt, else the first reason to stay."""
    best: Verdict | None = None
    for verdict in verdicts:
        if verdict is None:
            continue
        if verdict[0]:
            return verdict
        if best is None or (verdict[0] is None and best[0] is False):
            best = verdict
    return best or (False, ZERO)


def _unsure(reason: str) -> Verdict:
    return None, UNKNOWN + reason


class _Step:
    """One tensor in one step of one optimizer, and the pushes that it can get."""

    __slots__ = ("family", "group", "held", "param")

    def __init__(self, family: str, group: Group, param: Param, held: Held) -> None:
        self.family = family
        self.group = group
        self.param = param
        self.held = held

    def option(self, name: str, default: Any = 0.0) -> Any:
        """An option of the group."""
        return self.group.options.get(name, default)

    @property
    def beta1(self) -> float:
        """How much of the first moment is kept."""
        return self.option("betas", (0.9,))[0]

    @property
    def decoupled(self) -> bool:
        """Weight decay shrinks the tensor instead of joining the gradient."""
        # In older versions of torch, AdamW has a step() of its own and no such option.
        return self.option("decoupled_weight_decay", self.family == "AdamW")

    @property
    def eps_is_zero(self) -> bool:
        """Nothing keeps an entry without gradient from becoming 0/0."""
        eps = self.option("eps", 1.0)
        if isinstance(eps, tuple):  # Adafactor, which squares it; None is a good default
            eps = 1.0 if eps[0] is None else eps[0] ** 2
        dtype = "bfloat16" if self.family == "Muon" else self.param.dtype
        return eps <= _TINY.get(dtype, 0.0)

    def gradient(self) -> Verdict | None:
        """The gradient itself."""
        if self.param.grad == "zero":
            return None
        return True, GRADIENT if self.param.trainable else STALE

    def damped(self) -> Verdict | None:
        """A gradient multiplied by 0."""
        if self.param.grad == "zero":
            return None
        return (False, DAMPED) if self.param.finite else (True, NOT_FINITE)

    def momentum(self, kept: float) -> Verdict | None:
        """Earlier gradients, of which the share `kept` is left."""
        if not kept or self.held.moments in (None, "zero"):
            return None
        if self.held.moments == "unknown":
            return _unsure("the optimizer's state was not read")
        return True, MOMENTUM

    def l2(self) -> Verdict | None:
        """Weight decay that joins the gradient and is scaled like one."""
        decays = self.group.weight_decay and self.held.decays
        return (True, DECAY) if decays and not self.param.zero else None

    def shrink(self, share: float) -> Verdict | None:
        """Weight decay that takes the same share of every entry.

        A share above epsilon / 2 is never rounded away and one below epsilon / 4
        always is; the bounds here leave room for other orders of operations, and
        for rates that are float32 tensors.
        """
        if share == 0 or self.param.zero or not self.held.decays:
            return None
        epsilon = _EPSILON.get(self.param.dtype)
        if epsilon and abs(share) > max(epsilon, 2**-23):
            return True, DECAY
        if epsilon and abs(share) < epsilon / 8:
            return None
        return _unsure("weight decay is as small as rounding")


def _sgd(step: _Step, rate: float) -> Pushes:
    kept, dampening = step.option("momentum"), step.option("dampening")
    # A buffer's first gradient enters whole, and nesterov adds the gradient once more.
    whole = not kept or step.held.moments is None or step.option("nesterov")
    share = 1.0 if whole else 1 - dampening
    yield step.gradient() if share else step.damped()
    yield step.momentum(kept)
    yield step.shrink(rate * step.group.weight_decay * share)


def _adam(step: _Step, rate: float) -> Pushes:
    yield step.gradient()
    yield step.momentum(step.beta1)
    yield step.shrink(rate * step.group.weight_decay) if step.decoupled else step.l2()


def _radam(step: _Step, rate: float) -> Pushes:
    yield step.gradient()
    yield step.momentum(step.beta1)
    # The first steps are not divided by the second moment, which leaves plain decay.
    plain = step.decoupled or step.held.step is None
    yield step.shrink(rate * step.group.weight_decay) if plain else step.l2()


def _scaled(step: _Step, rate: float) -> Pushes:
    yield step.gradient()
    yield step.l2()


def _adadelta(step: _Step, rate: float) -> Pushes:
    if step.eps_is_zero:
        yield _unsure("eps is 0, without which Adadelta does not start")
    else:
        yield from _scaled(step, rate)


def _rmsprop(step: _Step, rate: float) -> Pushes:
    yield from _scaled(step, rate)
    yield step.momentum(step.option("momentum"))


def _asgd(step: _Step, rate: float) -> Pushes:
    yield step.gradient()
    # Two decays, applied together or one after the other: the larger is at least the mean.
    yield step.shrink(rate * (step.option("lambd") + step.group.weight_decay) / 2)


def _rprop(step: _Step, rate: float) -> Pushes:
    if step.held.blocked:
        yield False, NAN if step.held.step is None else SIGN
    elif _step_size(step) == 0:
        yield False, RATE
    else:
        yield step.gradient()


def _adafactor(step: _Step, rate: float) -> Pushes:
    if step.option("eps", (None, 1.0))[1] or step.param.grad == "zero":
        yield step.gradient()
        yield step.shrink(rate * step.group.weight_decay)
    else:
        yield _unsure("its second eps is 0, which stops a tensor of zeros")


def _muon(step: _Step, rate: float) -> Pushes:
    kept = step.option("momentum")
    yield step.gradient() if kept != 1 else step.damped()
    yield step.momentum(kept)
    yield step.shrink(rate * step.group.weight_decay)


def _lbfgs(optimizer: Optimizer, param: Param, held: Held) -> Verdict:
    """LBFGS asks its closure for gradients, taken here to be those of now. Its direction
    mixes them with its history, and its inner iterations ask again."""
    group = optimizer.groups[held.group]
    if param.grad is None and not param.trainable and held.moments != "nonzero":
        return False, FROZEN
    if optimizer.converged:
        return False, CONVERGED
    if optimizer.converged is None:
        return _unsure("LBFGS has no gradients yet, or some that are not finite")
    if held.moments == "nonzero":
        return _unsure("LBFGS follows its history")
    if param.grad is None:
        return False, NO_GRADIENT
    if param.grad == "zero":
        once = group.options.get("max_iter") == 1
        return (False, ZERO) if once or not param.trainable else _unsure("LBFGS iterates")
    if not param.trainable:
        return _unsure("the closure may clear the gradient")
    if group.options.get("line_search_fn"):
        return _unsure("the line search of LBFGS decides")
    if held.moments == "zero":
        return _unsure("LBFGS follows its history")
    return (False, RATE) if group.lr == 0 else (True, GRADIENT)


def _lr(step: _Step) -> float:
    return step.group.lr


def _eta(step: _Step) -> float:
    """ASGD works out the rate of a step at the end of the one before."""
    return step.group.lr if step.held.rate is None else step.held.rate


def _step_size(step: _Step) -> float:
    """Rprop starts from lr, never below its smallest step size, and ignores lr afterwards."""
    smallest = step.option("step_sizes", (1e-6,))[0]
    return max(smallest, step.group.lr) if step.held.rate is None else step.held.rate


def _dense(step: _Step) -> bool:
    return step.param.grad != "sparse"


def _sparse(step: _Step) -> bool:
    return step.param.grad != "nonzero"


def _either(step: _Step) -> bool:
    return _dense(step) or not (step.group.weight_decay or step.option("fused"))


@dataclass(frozen=True, slots=True)
class _Family:
    """How one class of torch.optim steps: tensor by tensor, where there is a gradient."""

    pushes: Callable[[_Step, float], Pushes]
    takes: Callable[[_Step], bool] = _dense  # the gradients that it does not refuse
    rate: Callable[[_Step], float] = _lr
    divides: bool = True  # by something that `eps` keeps from 0

    def __call__(self, optimizer: Optimizer, param: Param, held: Held) -> Verdict:
        if param.grad is None:
            # Optimizers look at the gradient alone; people know the flag.
            return False, NO_GRADIENT if param.trainable else FROZEN
        step = _Step(optimizer.family, optimizer.groups[held.group], param, held)
        rate = self.rate(step)
        if param.grad == "unknown" or rate != rate:
            return _unsure("the gradient or the rate cannot be read")
        if not self.takes(step):
            return _unsure(f"step() of {optimizer.family} will raise on this gradient")
        if held.mismatch:
            return _unsure(held.mismatch)
        if self.divides and step.eps_is_zero and (param.grad == "zero" or rate == 0):
            return _unsure("eps is 0, and 0/0 is NaN")
        if rate == 0:
            return (False, RATE) if param.finite else (True, NOT_FINITE)
        return _strongest(self.pushes(step, rate))


# By the name of the class in torch.optim.
FAMILIES: dict[str, Callable[[Optimizer, Param, Held], Verdict]] = {
    "ASGD": _Family(_asgd, rate=_eta, divides=False),
    "Adadelta": _Family(_adadelta),
    "Adafactor": _Family(_adafactor),
    "Adagrad": _Family(_scaled, takes=_either),
    "Adam": _Family(_adam),
    "AdamW": _Family(_adam),
    "Adamax": _Family(_adam),
    "LBFGS": _lbfgs,
    "Muon": _Family(_muon),
    "NAdam": _Family(_adam),
    "RAdam": _Family(_radam),
    "RMSprop": _Family(_rmsprop),
    "Rprop": _Family(_rprop, rate=lambda step: 1.0, divides=False),  # it has step sizes
    "SGD": _Family(_sgd, takes=_either, divides=False),
    "SparseAdam": _Family(_adam, takes=_sparse),
}
