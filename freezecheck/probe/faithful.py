"""Whether recorded steps can stand for a script's own: which of them, of which modules, and that the
first gives again what it gave."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from freezecheck.live import nested, values
from freezecheck.live.gradients import gradient_norms, params
from freezecheck.live.program import Held, Taped
from freezecheck.probe.play import Play

_EXACT = 1e-4  # relative difference that is left to the order of additions
_HALF = 2e-2  # the same in half precision


def problem(tapes: Sequence[Taped]) -> str | None:
    """Why the steps cannot be replayed, in one line; None if they can."""
    if not tapes:
        return "no step with a backward pass was recorded"
    number, told = next(((i, t.problem) for i, t in enumerate(tapes, 1) if t.problem), (0, ""))
    if told:
        return f"step {number} cannot be replayed: {told}"
    if any(_overwritten(taped) for taped in tapes):
        return "the inputs of a step are overwritten by a later one"
    if _strays(tapes):
        return "the loss hangs on trainable tensors that are no parameters"
    return None


def alike(tapes: Sequence[Taped]) -> list[Taped]:
    """The first steps, up to where another mode is set or something else is frozen."""
    known: dict[Any, Any] = {}
    taken: list[Taped] = []
    for taped in tapes:
        if any(known.setdefault(module, state) != state for module, state in taped.state.items()):
            break
        taken.append(taped)
    return taken


def whole(tapes: Sequence[Taped], owners: Iterable[Any] = ()) -> Any:
    """One module with all that the steps call: the one that they call, else the smallest of `owners`
    that has them all, else a new one around them."""
    torch = values.torch()
    called = list({m: None for taped in tapes for m in taped.modules if _holds(m)})
    parts = {id(part) for m in called for part in m.modules() if part is not m}
    roots = [m for m in called if id(m) not in parts]
    held = {id(p) for m in roots for p in m.parameters()}
    loose = list({p: None for taped in tapes for p in _weights(taped) if id(p) not in held})
    if len(roots) == 1 and not loose:
        return roots[0]
    wanted = {id(item) for item in (*roots, *loose)}
    fitting = [m for m in owners if wanted <= _ids(m)]
    if fitting:
        return min(fitting, key=lambda m: len(_ids(m)))
    around = torch.nn.ModuleList(roots)
    for index, weight in enumerate(loose):
        around.register_parameter(f"parameter {index}", weight)
    return around


def deviates(taped: Taped, optimizer: Any, scaler: Any = None) -> str | None:
    """Replay a step with the weights and modes that it was recorded with, and compare: None, or how
    it differs. It leaves gradients, BatchNorm statistics and random states behind that are to be
    put back."""
    torch = values.torch()
    optimizer.zero_grad()
    play = Play(copy.deepcopy(scaler), remembered=True)  # which may be left unscaled
    try:
        with torch.enable_grad(), play.going():
            losses = list(play.steps(taped, optimizer))
    except Exception as error:
        return f"replaying the first step fails: {_line(error)}"
    near = _HALF if any(call.autocast for call in taped.calls) else _EXACT
    pairs = [(step.value, loss) for step, loss in zip(taped.backwards, losses)]
    if not all(_near(then, now, near) for then, now in pairs):
        then, now = (sum(map(float, column)) for column in zip(*pairs))
        return f"replayed, the first step has a loss of {now:.6g}, and had {then:.6g}"
    if taped.norms is None:
        return None
    if not _near(taped.norms, gradient_norms(params([optimizer])), near):
        return "replayed, the first step has other gradients than it had"
    return None


def _near(one: Any, other: Any, tolerance: float) -> bool:
    """Relative to the largest of them."""
    one, other = one.detach().double().cpu(), other.detach().double().cpu()
    if one.shape != other.shape:
        return False
    finite = one.isfinite()
    if not finite.equal(other.isfinite()):
        return False
    scale = float(one[finite].abs().max()) if bool(finite.any()) else 0.0
    return bool(((one - other)[finite].abs() <= tolerance * scale + 1e-12).all())


def _holds(module: Any) -> bool:
    return any(True for _ in (*module.parameters(), *module.buffers()))


def _ids(module: Any) -> set[int]:
    return {id(item) for item in (*module.modules(), *module.parameters())}


def _weights(taped: Taped) -> list[Any]:
    """Trainable tensors that calls are given directly."""
    torch = values.torch()
    return [
        part
        for call in taped.calls
        for part in nested.leaves(call.given)
        if isinstance(part, torch.Tensor)
    ]


def _overwritten(taped: Taped) -> bool:
    return any(
        isinstance(part, Held) and part.changed
        for call in taped.calls
        for part in nested.leaves(call.given)
    )


def _strays(tapes: Sequence[Taped]) -> bool:
    parameter = values.torch().nn.Parameter
    return any(not isinstance(weight, parameter) for t in tapes for weight in _weights(t))


def _line(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
