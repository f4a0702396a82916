"""The program of a training step: what a script did between two optimizer steps, as far as its
backward passes hang on it. Plain records; `tape` writes them, `freezecheck.probe.replayed` runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from freezecheck.live import nested

Autocast = tuple[Any, ...]  # kinds of devices with their dtypes, and which block it was; () if none


@dataclass(slots=True, eq=False)
class Call:
    """A call whose results are tensors. They are the tensors in what it returned, and then those of
    its arguments that it wrote to (`written`: their places among the tensors of the arguments).

    In `given`, (args, kwargs), `Ref` stands for a result and `Held` for a tensor from elsewhere;
    parameters stand for themselves.
    """

    order: int
    function: Callable[..., Any] | None  # a module, a function of torch; None: a scaler's scaling
    given: tuple[Any, Any]
    grad: bool  # gradients are recorded
    autocast: Autocast
    modes: tuple[bool, ...] = ()  # of a module and those in it
    flags: tuple[bool, ...] = ()  # which of its parameters are trainable
    random: Any = None  # the random states before, where it drew any numbers
    written: tuple[int, ...] = ()
    logits: int | None = None  # which of the results is called so
    problem: str = ""  # why it cannot be done again

    @property
    def refs(self) -> list[Ref]:
        """The results that it is given."""
        return [part for part in nested.leaves(self.given) if isinstance(part, Ref)]


@dataclass(slots=True, frozen=True, eq=False)
class Ref:
    """A result of a call."""

    call: Call
    index: int


@dataclass(slots=True, eq=False)
class Held:
    """A tensor that comes from elsewhere: inputs, targets. `fresh`: it is written to, so each replay
    gets a copy."""

    tensor: Any
    version: int
    fresh: bool = False

    @property
    def changed(self) -> bool:
        """It has been written to since it was recorded."""
        return not self.tensor.is_inference() and self.tensor._version != self.version


@dataclass(slots=True, eq=False)
class Backward:
    """One backward pass. Its loss is the sum over the roots of `root * weight`."""

    order: int
    roots: list[Ref]
    weights: list[Any]  # tensors: the gradients of the roots
    inputs: tuple[Any, ...]
    retain: bool
    autocast: Autocast
    value: Any  # the loss that it had, without the scaler's factor; on the device
    problem: str = ""


@dataclass(slots=True, eq=False)
class Clip:
    """Gradients clipped. Of a scaler's `unscale_` the function is None."""

    order: int
    function: Callable[..., Any] | None
    parameters: list[Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    autocast: Autocast = ()


Instruction = Call | Backward | Clip


@dataclass(slots=True, eq=False)
class Taped:
    """A step that can be replayed, unless there is a `problem`."""

    program: list[Instruction]
    norms: Any  # of the gradients that the optimizer found [parameters], on the device; 0: none
    rates: list[dict[str, Any]]  # the options of the optimizer's groups in this step
    scaler: Any = None
    problem: str = ""
    samples: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.samples = sum(_samples(self.program))

    @property
    def calls(self) -> list[Call]:
        """In order."""
        return [each for each in self.program if isinstance(each, Call)]

    @property
    def backwards(self) -> list[Backward]:
        """In order."""
        return [each for each in self.program if isinstance(each, Backward)]

    @property
    def modules(self) -> list[Any]:
        """That are called, or given to what is called; each once."""
        parts = [p for c in self.calls for p in (c.function, *nested.leaves(c.given))]
        return list({part: None for part in parts if isinstance(part, _module())})

    @property
    def state(self) -> dict[Any, tuple[tuple[bool, ...], tuple[bool, ...]]]:
        """Modes and flags of each module."""
        return {c.function: (c.modes, c.flags) for c in self.calls if c.modes}


def needed(roots: list[Ref]) -> list[Call]:
    """The calls that some results hang on, in order."""
    found: dict[Call, None] = {}
    waiting = [ref.call for ref in roots]
    while waiting:
        call = waiting.pop()
        if call not in found:
            found[call] = None
            waiting += [ref.call for ref in call.refs]
    return sorted(found, key=lambda call: call.order)


def _samples(program: list[Instruction]) -> Iterator[int]:
    """Of each micro-batch: the length of the first tensor that the first module is given."""
    known: set[Call] = set()
    for step in program:
        if isinstance(step, Backward):
            new = [call for call in needed(step.roots) if call not in known]
            known.update(new)
            lengths = (
                len(part.tensor)
                for call in new
                for part in nested.leaves(call.given)
                if isinstance(part, Held) and part.tensor.dim()
            )
            yield next(lengths, 0)


def _module() -> Any:
    from freezecheck.live import values

    return values.torch().nn.Module
