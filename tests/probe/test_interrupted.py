"""Whole probes, over every optimizer of torch's own, broken off where hypothesis chooses: all is as it
was, down to the bits, and training goes on like that of a twin which was never probed.

`pytest tests/probe/test_interrupted.py --oracle-examples=10000` for a long run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from described import ambient, described, difference
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from setups import Interruption, Setup, interrupted_at, seed, setups
from torch.nn import functional as F
from torch.utils.data import DataLoader

import freezecheck
from freezecheck.probe import api

BATCH, SAMPLES = 6, 24
OUT_OF_MEMORY = (
    rf"out of memory (with batches of {BATCH} samples|before the first batch);"
    r" at the peak \d+\.\d GiB were in use"
)
ERRORS: list[Callable[[], BaseException]] = [
    lambda: ValueError("mine"),
    KeyboardInterrupt,
    SystemExit,
    MemoryError,
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    lambda: RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
    ),
]
EXHAUSTED = (MemoryError, torch.OutOfMemoryError)


class Trap:
    """Raises at the n-th call of what it is set at."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.left, self.error, self.handles = at, error, []

    def __call__(self, *_: Any, **__: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error

    def hang(self, place: str, subject: Setup) -> None:
        """At a place that hooks reach."""
        model, optimizer = subject.model, subject.optimizer
        parameter = next(p for p in model.parameters() if p.requires_grad)
        register = {
            "forward": model.register_forward_pre_hook,
            "inner forward": [*model.modules()][-1].register_forward_hook,
            "backward": None if torch.nn.parameter.is_lazy(parameter) else parameter.register_hook,
            "before a step": optimizer.register_step_pre_hook,
            "after a step": optimizer.register_step_post_hook,
        }.get(place)
        if register is not None:
            self.handles.append(register(self))

    def remove(self) -> None:
        """All hooks."""
        for handle in self.handles:
            handle.remove()


class Scaler(torch.amp.GradScaler):
    """Tells when it has been updated."""

    updated: Callable[[], None] = staticmethod(lambda: None)

    def update(self, new_scale: Any = None) -> None:
        super().update(new_scale)
        type(self).updated()


PLACES = [
    "forward",
    "inner forward",
    "backward",
    "before a step",
    "after a step",
    "loss",
    "batch",
    "autocast",
    "scaler",
]


def loader(kind: str, subject: Setup, trap: Callable[[], None]) -> Any:
    """The same data as a list, an iterator, a loader with a generator, or one without."""
    draws = torch.Generator().manual_seed(5)
    inputs = torch.randn(SAMPLES, 4, generator=draws)
    if subject.precision == "bf16":
        inputs = inputs.bfloat16()
    data = list(zip(inputs, torch.randint(3, (SAMPLES,), generator=draws)))

    chunks = [data[first : first + BATCH] for first in range(0, SAMPLES, BATCH)]

    class Trapped(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return SAMPLES

        def __getitem__(self, index: int) -> Any:
            if index % BATCH == 0:
                trap()
            return data[index]

    def batches() -> Iterator[Any]:
        for chunk in chunks:
            trap()
            yield torch.utils.data.default_collate(chunk)

    if kind == "list":
        return list(map(torch.utils.data.default_collate, chunks))
    if kind == "iterator":
        return batches()
    generator = subject.draws if kind == "loader of its own" else None
    return DataLoader(Trapped(), BATCH, shuffle=True, generator=generator)


def probe(subject: Setup, kind: str, place: str, trap: Trap) -> freezecheck.ProbeReport:
    """As a user would, in the precision of the setup; the trap is where no hook reaches."""

    def at(here: str) -> None:
        if place == here:
            trap()

    def loss(out: Any, target: Any) -> Any:
        at("loss")
        return F.cross_entropy(out.float(), target)

    def forward(model: Any, batch: Any) -> Any:
        half = torch.float16 if subject.precision == "fp16" else torch.bfloat16
        with torch.autocast("cpu", half):
            at("autocast")
            return model(batch[0])

    Scaler.updated = staticmethod(lambda: at("scaler"))
    return freezecheck.probe(
        subject.model,
        subject.optimizer,
        loader(kind, subject, lambda: at("batch")),
        loss,
        scheduler=subject.scheduler,
        scaler=subject.scaler,
        steps=10,
        max_steps=20,
        forward=forward if subject.precision in ("amp", "fp16") else None,
    )


def hooks(subject: Setup) -> list[Any]:
    """How many hang where; `described` leaves them out."""
    holders = [subject.optimizer, *subject.model.modules(), *subject.model.parameters()]
    return [
        (type(holder).__name__, name, len(value or ()))
        for holder in holders
        for name, value in sorted(vars(holder).items())
        if "hook" in name and isinstance(value, (dict, type(None)))
    ]


def state(subject: Setup, *, identity: bool = True) -> tuple[Any, ...]:
    """All there is to compare."""
    return described(tuple(vars(subject).items()), identity=identity), hooks(subject), ambient()


def run_alone_and_probed(
    setup: tuple[Any, ...], before: int, factor: float, probing: Callable[[Setup], None]
) -> None:
    """Twins: one is probed, and both then train on."""
    outcomes = []
    for probed in (False, True):
        seed()
        subject = Setup(*setup)
        if subject.scaler is not None:
            subject.scaler.__class__ = Scaler
        Scaler.updated = staticmethod(lambda: None)
        for _ in range(before):
            subject.step()
        for group in subject.optimizer.param_groups:
            group["lr"] = group["lr"] * factor
        if probed:
            was = state(subject)
            probing(subject)
            Scaler.updated = staticmethod(lambda: None)
            assert difference(was, state(subject)) == ""
        for group in subject.optimizer.param_groups:
            group["lr"] = group["lr"] / factor
        losses = [subject.step().hex() for _ in range(2)]
        outcomes.append((losses, state(subject, identity=False)))
    assert difference(*outcomes) == ""


def check(
    setup: tuple[Any, ...], before: int, factor: float, kind: str, place: str, at: int, error: Any
) -> None:
    def probing(subject: Setup) -> None:
        raised = error()
        trap = Trap(at, raised)
        trap.hang(place, subject)
        caught: BaseException | None = None
        try:
            probe(subject, kind, place, trap)
        except BaseException as other:
            caught = other
        finally:
            trap.remove()
        if trap.left > 0 or caught is None:  # it was over before
            assert caught is None or isinstance(caught, ValueError), caught
            # What outputs without information cost is not known, then.
            assert trap.left > 0 or place == "loss"
        elif isinstance(raised, EXHAUSTED) or "allocate memory" in str(raised):
            assert isinstance(caught, freezecheck.OutOfMemory)
            assert re.match(OUT_OF_MEMORY, str(caught))
            assert caught.__cause__ is raised
        else:
            assert caught is raised

    run_alone_and_probed(setup, before, factor, probing)


SETTINGS = {
    "deadline": None,
    "phases": [Phase.explicit, Phase.generate, Phase.shrink],
    "suppress_health_check": list(HealthCheck),
    "database": None,
}
KINDS = ["list", "iterator", "loader", "loader of its own"]
FACTORS = [1.0, 1.0, 1e4]  # the last explodes, and the probe looks for calmer rates


def for_many(config: pytest.Config, default: int, check: Any, **more: Any) -> None:
    """Call `check` with setups, and with what else it takes."""
    examples = config.getoption("--oracle-examples")
    found = given(
        setup=setups(),
        before=st.integers(0, 2),
        factor=st.sampled_from(FACTORS),
        kind=st.sampled_from(KINDS),
        **more,
    )(check)
    settings(max_examples=examples or default, derandomize=examples is None, **SETTINGS)(found)()


@pytest.mark.filterwarnings("ignore")
def test_whatever_is_raised_and_wherever(pytestconfig: pytest.Config):
    for_many(
        pytestconfig,
        60,
        check,
        place=st.sampled_from(PLACES),
        at=st.integers(1, 90),
        error=st.sampled_from(ERRORS),
    )


def check_anywhere(setup: tuple[Any, ...], before: int, factor: float, kind: str, at: int) -> None:
    """At the n-th call of anything within the probe, Python or C."""

    def probing(subject: Setup) -> None:
        judged = api.judged

        def interrupted(*args: Any) -> Any:
            report: list[Any] = []
            if interrupted_at(at, lambda: report.append(judged(*args))):
                raise Interruption
            return report[0]

        api.judged = interrupted
        try:
            probe(subject, kind, "", Trap(0, Interruption()))
        except (Interruption, ValueError):
            pass
        finally:
            api.judged = judged

    run_alone_and_probed(setup, before, factor, probing)


@pytest.mark.filterwarnings("ignore")
def test_interrupted_anywhere(pytestconfig: pytest.Config):
    at = st.one_of(st.integers(1, 3000), st.integers(1, 60000))
    for_many(pytestconfig, 40, check_anywhere, at=at)
