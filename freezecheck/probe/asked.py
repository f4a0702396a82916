"""What a recorded step asks of a model: which results are its outputs, and which tensors the targets
that the loss holds them against."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from freezecheck.live import nested, values
from freezecheck.live.batch import TARGETS
from freezecheck.live.program import Backward, Call, Held, Ref, Taped, needed
from freezecheck.probe.play import Play

_LOSSES = frozenset(
    """cross_entropy nll_loss binary_cross_entropy binary_cross_entropy_with_logits mse_loss l1_loss
    smooth_l1_loss huber_loss kl_div poisson_nll_loss soft_margin_loss multi_margin_loss
    multilabel_soft_margin_loss multilabel_margin_loss""".split()
)
_RESHAPES = ("view", "reshape", "flatten", "contiguous")


@dataclass(slots=True)
class Asked:
    """`call` is the loss, or a model that returns its own."""

    call: Call
    outputs: Ref
    targets: Ref | Held


def pair(taped: Taped, results: dict[Call, list[Any]]) -> tuple[Any, Any]:
    """(outputs, targets) of a replayed step, the micro-batches in one; None where it is not known
    which these are."""
    found = [_tensors(asked, results) for asked in _by_backward(taped) if asked is not None]
    if not found or any(_is_positions(*both) for both in found):
        return None, None
    first, *rest = found
    alike = all(_alike(a, b) for both in rest for a, b in zip(first, both))
    if not rest or not alike:
        return first
    outputs, targets = (values.torch().cat(parts) for parts in zip(*found))
    return outputs, targets


def criterion(taped: Taped) -> Callable[[Any, Any], Any] | None:
    """The loss of a step as a function of (outputs, targets), None where it is no such function."""
    chains = [_chain(*each) for each in zip(taped.backwards, _by_backward(taped))]
    first = chains[0] if chains else None
    if first is None or None in chains:
        return None

    def loss(outputs: Any, targets: Any) -> Any:
        return first(outputs, targets) * len(chains)

    return loss


def _by_backward(taped: Taped) -> Iterator[Asked | None]:
    """The loss of each backward pass that none before had: the first one on labels, or the first."""
    known: set[Call] = set()
    for step in taped.backwards:
        new = [call for call in needed(step.roots) if call not in known]
        known.update(new)
        found = [asked for asked in map(_asked, new) if asked is not None]
        yield next(filter(_is_labelled, found), found[0] if found else None)


def _is_labelled(asked: Asked) -> bool:
    """The targets are labels, not what another model says."""
    return isinstance(asked.targets, Held) and not asked.targets.tensor.is_floating_point()


def _asked(call: Call) -> Asked | None:
    """What a call asks for, if it is a loss."""
    torch = values.torch()
    args, kwargs = call.given
    if call.logits is not None:
        key = next((name for name in TARGETS if isinstance(kwargs.get(name), Held)), None)
        return None if key is None else Asked(call, Ref(call, call.logits), kwargs[key])
    if isinstance(call.function, torch.nn.Module):
        if next(call.function.parameters(), None) is not None:
            return None
        known = isinstance(call.function, torch.nn.modules.loss._Loss)
    else:
        known = getattr(call.function, "__name__", "") in _LOSSES
        if not known:
            return None
    given = [part for part in (*args, *kwargs.values()) if isinstance(part, (Ref, Held))][:2]
    outputs, targets = (
        kwargs.get(name, part) for name, part in zip(("input", "target"), (*given, None, None))
    )
    if not isinstance(outputs, Ref) or not isinstance(targets, (Ref, Held)):
        return None
    return Asked(call, outputs, targets) if known or isinstance(targets, Held) else None


def _tensors(asked: Asked, results: dict[Call, list[Any]]) -> tuple[Any, Any]:
    """Outputs and targets. Pixels or words that were put in a row for the loss are in their places."""
    outputs, targets = (_tensor(part, results) for part in (asked.outputs, asked.targets))
    source: Any = asked.outputs
    while isinstance(source, Ref) and getattr(source.call.function, "__name__", "") in _RESHAPES:
        source = source.call.given[0][0]
        before = _tensor(source, results)
        if not (outputs.dim() == 2 and before.dim() > 2 and targets.dim() == 1):
            continue
        if before.shape[-1] == outputs.shape[1] and before.shape[:-1].numel() == len(targets):
            targets = targets.reshape(before.shape[:-1])
            return (before if before.dim() == 3 else before.movedim(-1, 1)), targets
    return outputs, targets


def _tensor(part: Ref | Held, results: dict[Call, list[Any]]) -> Any:
    return results[part.call][part.index] if isinstance(part, Ref) else part.tensor


def _alike(one: Any, other: Any) -> bool:
    return one.dim() > 0 and one.dtype == other.dtype and one.shape[1:] == other.shape[1:]


def _is_positions(outputs: Any, targets: Any) -> bool:
    """The classes are the samples of the batch, as in contrastive learning."""
    if outputs.dim() != 2 or targets.shape != outputs.shape[:1] or targets.is_floating_point():
        return False
    return outputs.shape[0] == outputs.shape[1] and _is_permutation(targets)


@functools.lru_cache(1024)
def _is_permutation(targets: Any) -> bool:
    """Each index once. It waits for the device, once for each tensor."""
    torch = values.torch()
    return bool(targets.sort().values.equal(torch.arange(len(targets), device=targets.device)))


def _chain(step: Backward, asked: Asked | None) -> Callable[[Any, Any], Any] | None:
    """The loss of one backward pass, which may be scaled or averaged after the criterion."""
    if asked is None or asked.call.logits is not None:
        return None
    call = asked.call
    before = set(needed(call.refs))
    after = [each for each in needed(step.roots) if each is not call and each not in before]
    own = {call, *after}
    if any(ref.call not in own for each in after for ref in each.refs) or _learns(after):
        return None
    extra = [part for part in nested.leaves(call.given) if isinstance(part, Ref)]
    if any(ref is not asked.outputs and ref is not asked.targets for ref in extra):
        return None

    def loss(outputs: Any, targets: Any) -> Any:
        def part(each: Any) -> Any:
            if each is asked.outputs or each is asked.targets:
                return outputs if each is asked.outputs else targets
            return each.tensor.to(outputs.device) if isinstance(each, Held) else each

        args, kwargs = nested.rebuilt(call.given, part)
        play = Play(None, False)
        assert call.function is not None
        play.results[call] = list(nested.tensors(call.function(*args, **kwargs)))
        with play.going():
            for each in after:
                play.call(each)
            return play.loss(step)

    return loss


def _learns(calls: list[Call]) -> bool:
    """There are weights in them."""
    torch = values.torch()
    return any(
        isinstance(call.function, torch.nn.Module)
        or any(
            isinstance(part, torch.Tensor) and part.requires_grad
            for part in nested.leaves(call.given)
        )
        for call in calls
    )
