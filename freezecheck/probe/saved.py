"""The state of a training setup, saved, and restored in place and bit for bit.

Restored are: parameters, buffers and other tensors of the modules, gradients, what is trainable,
train and eval modes, which children, parameters and buffers there are, attributes of the modules
with the lists and dicts in them; optimizers' groups and state; schedulers; gradient scalers; the
random states of Python, NumPy and torch; given generators; torch's global switches.

Not restored are: iterators of loaders (make a new one), the random states of their workers, hooks
(they stay as they are), the inside of objects that a module only refers to, variables of functions,
the dropout state inside a cuDNN RNN, versions of tensors for autograd (a graph from before cannot
be gone back through), and what a rank's communication layer was in the middle of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from freezecheck.live import values
from freezecheck.probe.ambient import Ambient
from freezecheck.probe.halted import halted
from freezecheck.probe.own import taken_down
from freezecheck.probe.pieces import Pieces
from freezecheck.probe.undisturbed import Undisturbed


class Saved:
    """What training would change of some models, optimizers, schedulers and scalers.

    Each argument is one object or a list of them. `generators` are of torch, Python or NumPy; those
    of a loader are `generators_of(loader)`. The copies lie beside the originals, on the same
    device, or with `offload` in memory of the CPU (pinned, for a GPU's sake); None: where room is
    scarce. Raises torch's
    out-of-memory error if there is no room for them (nothing has been changed then), and TypeError
    for what has no state.
    """

    def __init__(
        self,
        models: Any,
        optimizers: Any = (),
        schedulers: Any = (),
        scalers: Any = (),
        generators: Any = (),
        *,
        offload: bool | None = False,
    ) -> None:
        roots = [
            item
            for given in (models, optimizers, schedulers, scalers, generators)
            for item in _several(given)
        ]
        torch = values.torch()
        self._ambient: Ambient | None = Ambient()
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            _wait()
            self._pieces: Pieces | None = Pieces(roots)
            self.nbytes = self._pieces.bits.copy(offload)  # memory that the copies take

    def restore(self) -> None:
        """Make everything what it was, as often as wanted. Signals wait until it is done; what
        interrupts it all the same is raised then. Raises RuntimeError if something could not be
        put back (the rest has been)."""
        if self._pieces is None or self._ambient is None:
            raise RuntimeError("what was saved has been forgotten")
        late: BaseException | None = None
        failed: list[Exception] | None = None
        while failed is None:
            try:
                with Undisturbed():
                    failed = _restore(self._pieces, self._ambient)
            except Exception:
                raise
            except BaseException as error:  # raised into this thread; from the start, then
                late = error
        if failed:
            raise RuntimeError(f"could not restore everything: {failed[0]}") from failed[0]
        if late is not None:
            raise late

    def original(self, tensor: Any) -> Any:
        """The values that a parameter or buffer had, in its shape and dtype, on the device of the
        copy; only to be read. Raises KeyError for a tensor that was not saved."""
        if self._pieces is None:
            raise KeyError(tensor)
        with values.torch().no_grad():
            return self._pieces.bits.original(getattr(tensor, "_local_tensor", tensor).data)

    def forget(self) -> None:
        """Let go of the copies, and of everything else."""
        self._pieces = self._ambient = None


def _restore(pieces: Pieces, ambient: Ambient) -> list[Exception]:
    """Go through everything, whatever fails; returns the errors. Can be done again."""
    torch = values.torch()
    with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
        failed = [error for step in _steps(pieces) if (error := _attempt(step)) is not None]
    return failed + [error for step in ambient.steps() if (error := _attempt(step)) is not None]


def _attempt(step: Callable[[], Any]) -> Exception | None:
    try:
        step()
    except Exception as error:
        return error
    return None


def _steps(pieces: Pieces) -> Iterator[Callable[[], Any]]:
    """What is to be done, in order: what a tensor's gradient may be hangs on its memory."""
    yield _wait
    yield partial(halted, pieces.modules)
    yield partial(taken_down, pieces.modules)
    for piece in pieces.others:
        yield piece.restore
    for tensor in pieces.tensors:
        yield tensor.place
    yield pieces.bits.write
    for tensor in pieces.tensors:
        yield tensor.restore
    yield _wait


class restored(Saved):
    """Within the block anything may be done to the objects; afterwards they are as before, also
    after an exception, an interrupt or an out-of-memory error. Arguments as for `Saved`."""

    def __enter__(self) -> restored:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.restore()
        finally:
            self.forget()


def generators_of(loader: Any) -> list[Any]:
    """The torch generators that a DataLoader draws from, its own and its samplers'."""
    batches = getattr(loader, "batch_sampler", None)
    holders = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    found = (getattr(holder, "generator", None) for holder in holders)
    return [each for each in found if isinstance(each, values.torch().Generator)]


def _several(given: Any) -> Iterable[Any]:
    if given is None:
        return ()
    return given if isinstance(given, (list, tuple)) else (given,)


def _wait() -> None:
    """Until the GPUs have done what they were told, on whatever stream."""
    torch = values.torch()
    if torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            torch.cuda.synchronize(index)
