"""`probe`: a short warm-up at the rates that a run will reach, judged, after which everything is as
it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from freezecheck.live import frames, values
from freezecheck.probe.batches import Batches
from freezecheck.probe.judge import judged
from freezecheck.probe.memory import OutOfMemory, exhaustion_told
from freezecheck.probe.peaks import peaks
from freezecheck.probe.report import ProbeReport
from freezecheck.probe.saved import generators_of, restored
from freezecheck.probe.setup import Given

__all__ = ["OutOfMemory", "ProbeReport", "probe"]

_PLAIN = "gradients were not clipped and not accumulated, whatever the run does"

listeners: list[Callable[[ProbeReport], None]] = []  # told of every report


def probe(
    model: Any,
    optimizer: Any,
    batches: Iterable[Any],
    loss: Callable[..., Any] | None = None,
    *,
    scheduler: Any = None,
    scaler: Any = None,
    steps: int = 30,
    max_steps: int = 60,
    device: Any = None,
    groups: bool = False,
    forward: Callable[[Any, Any], Any] | None = None,
) -> ProbeReport:
    """Will a run at these rates explode, collapse, or do harm to what was pretrained?

    Trains for `steps` steps, `max_steps` where that does not decide it: the rates of all groups
    rise in ten steps to the largest that the scheduler will ever give them, and stay there. Then
    everything is put back, bit for bit, also after an exception or an interrupt.

    Args:
        model: an `nn.Module`, in the modes in which it trains.
        optimizer: a `torch.optim.Optimizer` over its parameters.
        batches: a loader or any iterable; gone through again if it is short. Of a tuple or list
            the last part are the targets; a dict (as of Hugging Face) gives keyword arguments.
        loss: called with (outputs, targets); None where the model returns its own.
        scheduler: one or several; they are run on stand-ins only.
        scaler: a `GradScaler`; the forward pass is then under autocast. A step that it skips is none.
        device: where batches go; the model's own if None.
        groups: look for the critical rate of each parameter group, too, which takes about 200 steps
            for each; see `Warmup.critical`.
        forward: called with (model, batch) in place of the model.

    Gradients are not clipped, nor accumulated over several batches. An iterator that can be gone
    through once only is used up.

    Raises OutOfMemory with the batch size and the peak; TypeError and ValueError for arguments that
    cannot be meant; whatever the model raises.
    """
    if not 10 <= steps <= max_steps:
        raise ValueError(f"steps must be 10 or more and no more than max_steps, not {steps}")
    _check(model, optimizer, scaler)
    site = frames.site(2)
    rates, falls, remarks = peaks(model, optimizer, scheduler)
    place = values.torch().device(device) if device is not None else _device(model)
    setup = Given(
        model=model,
        optimizer=optimizer,
        batches=Batches(batches),
        scaler=scaler,
        device=place,
        peaks=rates,
        falls=falls,
        steps=steps,
        max_steps=max_steps,
        loss=loss,
        forward=forward,
    )
    modules = [m for m in (model, loss) if isinstance(m, values.torch().nn.Module)]
    with (
        exhaustion_told(setup),
        restored(
            modules, optimizer, scheduler, scaler, generators_of(batches), offload=None
        ) as saved,
    ):
        report = judged(setup, saved, site, (_PLAIN, *remarks), groups)
    for listener in listeners:
        listener(report)
    return report


def _check(model: Any, optimizer: Any, scaler: Any) -> None:
    """One line on what cannot be probed."""
    if not isinstance(optimizer, values.torch().optim.Optimizer):
        raise TypeError(f"probe needs one torch.optim.Optimizer, not {type(optimizer).__name__}")
    if not isinstance(model, values.torch().nn.Module):
        raise TypeError(f"probe needs one torch.nn.Module, not {type(model).__name__}")
    if any(map(values.torch().nn.parameter.is_lazy, model.parameters())):
        raise ValueError("the model has lazy parameters: let a batch through it first")
    if scaler is not None and isinstance(optimizer, values.torch().optim.LBFGS):
        raise ValueError(
            "LBFGS takes no gradient scaler: it asks for the loss several times a step"
        )
    if any(type(p).__name__ == "DTensor" or p.is_meta for p in model.parameters()):
        raise ValueError("sharded parameters, and parameters without values, cannot be probed")


def _device(model: Any) -> Any:
    first = next(model.parameters(), None)
    return first.device if first is not None else values.torch().device("cpu")
