"""What the tensors of a setup take, in bytes, whether they are held or not."""

from __future__ import annotations

from freezecheck.records import dataclass


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one process: of all models alive, their gradients at a step, and the optimizers'
    state after it. Activations, batches and buffers are not counted."""

    parameters: int
    gradients: int
    optimizer_state: int

    @property
    def total(self) -> int:
        """The sum of the three."""
        return self.parameters + self.gradients + self.optimizer_state

    def __str__(self) -> str:
        return (
            f"parameters {size(self.parameters)}, gradients {size(self.gradients)},"
            f" optimizer state {size(self.optimizer_state)}"
        )


def size(number: int) -> str:
    """A number of bytes: `512 B`, `8.4 MiB`, `257 GiB`."""
    value = float(number)
    for unit in ("B", "KiB", "MiB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB" if value < 1000 else f"{value:,.0f} GiB"
