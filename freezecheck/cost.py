"""What a probe would take, as plain data, and in words."""

from __future__ import annotations

from collections.abc import Iterator

from freezecheck.records import dataclass

_CALMER = 6  # warm-ups at lower rates, at most, where the first one fails
_RAMPED = 7  # times as many steps for each group whose critical rate is looked for


@dataclass(frozen=True, slots=True)
class Cost:
    """Measured in a few steps. Seconds are of one: `recorded` of the script's own, `paired` of the
    probe's, `look` of one forward pass over the samples that are looked at before and after.
    Bytes: `memory` at the peak, of which `copies` are for putting everything back, and `batch`
    what a recorded step holds on to.
    """

    device: str
    samples: int  # of a step
    steps: int
    max_steps: int
    groups: int  # whose critical rates are asked for
    recorded: float
    paired: float
    look: float
    memory: int
    copies: int
    batch: int

    @property
    def seconds(self) -> tuple[float, float]:
        """Where the rates are safe, and where they are not; after the script's own start."""
        fixed = self.max_steps * self.recorded + 5 * self.look
        fixed += self.groups * _RAMPED * self.steps * self.paired
        least = fixed + self.steps * self.paired
        return least, fixed + (self.max_steps + _CALMER * self.steps) * self.paired

    @property
    def peak(self) -> int:
        """Bytes."""
        return self.memory + self.max_steps * self.batch

    def __str__(self) -> str:
        return "\n".join(_told(self))


def _told(cost: Cost) -> Iterator[str]:
    least, most = cost.seconds
    yield (
        f"steps     {cost.steps} to {cost.max_steps} of {cost.samples} samples on {cost.device}, each"
        " also with the initial weights"
    )
    if cost.groups:
        yield f"          and a ramp and more for each of {cost.groups} parameter groups"
    else:
        yield f"          and up to {_CALMER} times {cost.steps} at lower rates, if they go wrong"
    yield (
        f"time      about {_duration(least)}, up to {_duration(most)} if the rates are too high,"
        " after the script's own start"
    )
    yield f"          {_duration(cost.max_steps * cost.recorded)} of it to record the script's own steps"
    yield (
        f"memory    about {_size(cost.peak)} at the peak; {_size(cost.copies)} of it to put everything"
        f" back, {_size(cost.max_steps * cost.batch)} for batches"
    )


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _size(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} GiB"
