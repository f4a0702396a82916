"""What torch's loss functions are given and return while a model trains.

Nothing here waits for a device: what is taken stays there, and is read elsewhere.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from freezecheck.live import values
from freezecheck.live.patches import Patches

ROWS = 64  # samples of a call whose scores are kept
CLASSES = 4096  # of more, no scores are kept
_LEEWAY = 5.0  # regressions may be so many times worse than a constant
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(slots=True)
class Call:
    """One call of a loss function.

    `value` is the mean loss and `level` what outputs without information would give, both
    scalars on the device. `scores` [samples, classes] and `labels` [samples] are those of some
    samples; one column stands for two classes. None where there are no classes.
    """

    value: Any
    level: Any
    scores: Any = None
    labels: Any = None
    ignored: int | None = None  # the label that does not count


def install(
    patches: Patches, heard: Callable[[Call], None], failed: Callable[[Exception], None]
) -> None:
    """Have `heard` called with every call that trains; `failed` with an error of ours."""
    torch = values.torch()
    functional = torch.nn.functional
    before = {name: getattr(functional, name) for name in _KINDS}

    def listen(name: str) -> None:
        signature = inspect.signature(before[name])

        def call(original: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if torch.compiler.is_compiling():
                return result
            try:
                given = signature.bind(*args, **kwargs).arguments
                if _trains(given.get("input"), given.get("target"), torch):
                    with torch.no_grad():
                        told = _told(name, original, given, result, torch)
                    if told is not None:
                        heard(told)
            except Exception as error:
                failed(error)
            return result

        patches.around(functional, name, call)

    for name in _KINDS:
        listen(name)

    spare_script(patches, before)


def spare_script(patches: Patches, functions: Mapping[str, Any]) -> None:
    """TorchScript knows the loss functions by identity and must meet its own: `functions` of
    torch.nn.functional are in their places while it compiles."""
    torch = values.torch()
    home = torch.nn.functional

    def script(original: Any, *args: Any, **kwargs: Any) -> Any:
        ours = {name: getattr(home, name) for name in functions}
        for name, function in functions.items():
            setattr(home, name, function)
        try:
            return original(*args, **kwargs)
        finally:
            for name, function in ours.items():
                setattr(home, name, function)

    patches.around(torch.jit, "script", script)


def plain(tensor: Any) -> Any | None:
    """A tensor without history whose values can be read; None if there are none to read."""
    torch = values.torch()
    kind = type(tensor)
    if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return None  # a distributed one, say, that must not be touched on one rank alone
    real = values.readable(tensor)
    return real if real is None or kind is torch.Tensor else real.as_subclass(torch.Tensor)


def _trains(scores: Any, target: Any, torch: Any) -> bool:
    """A call whose result may be trained on, outside of torch.func and of captured graphs."""
    if not isinstance(scores, torch.Tensor) or not isinstance(target, torch.Tensor):
        return False
    if not scores.requires_grad or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    return not (scores.is_cuda and torch.cuda.is_current_stream_capturing())


def _told(
    name: str, original: Any, given: Mapping[str, Any], result: Any, torch: Any
) -> Call | None:
    scores, target, value = (plain(t) for t in (given["input"], given["target"], result))
    if scores is None or target is None or value is None or not scores.numel():
        return None
    if given.get("size_average") is not None or given.get("reduce") is not None:
        return None  # older words for the reduction
    return _KINDS[name](original, scores, target, _mean(given, value, scores, name), given)


def _mean(given: Mapping[str, Any], value: Any, scores: Any, name: str) -> Any | None:
    """The loss as a mean over all that was judged; None where weights make it something else."""
    reduction = given.get("reduction", "mean")
    if reduction == "mean":
        return value
    if given.get("weight") is not None:
        return None
    if reduction == "none":
        return value.mean()
    judged = scores.numel() // (_classes(scores) if name in _ONE_OF_MANY else 1)
    return value / judged


def _classes(scores: Any) -> int:
    return int(scores.shape[1 if scores.dim() > 1 else 0])


def _one_of_many(
    original: Any, scores: Any, target: Any, value: Any, given: Mapping[str, Any]
) -> Call | None:
    """Each sample is of one class: dimension 1 of the scores."""
    classes = _classes(scores)
    if value is None or classes < 2:
        return None
    told = Call(value, value.new_full((), math.log(classes)))
    if scores.dim() > 1 and classes <= CLASSES:
        soft = target.is_floating_point()  # probabilities of the classes
        told.scores = _rows(scores, 1)
        told.labels = _rows(target, 1).argmax(1) if soft else _rows(target, None)
        told.ignored = given.get("ignore_index", -100)
    return told


def _two(
    original: Any,
    scores: Any,
    target: Any,
    value: Any,
    given: Mapping[str, Any],
    *,
    threshold: float = 0.0,
) -> Call | None:
    """Yes, above `threshold`, or no. Several labels to a sample are no classes: each may be right."""
    if value is None or given.get("weight") is not None or scores.shape != target.shape:
        return None
    level, weight = value.new_full((), math.log(2)), given.get("pos_weight")
    if weight is not None:
        level = level * (1 + (weight - 1) * target).mean()
    told = Call(value, level)
    if scores.dim() == 1 or scores.shape[1] == 1:
        both = [t.unsqueeze(1) if t.dim() == 1 else t for t in (scores, target)]
        told.scores = _rows(both[0], 1) - threshold
        told.labels = (_rows(both[1], 1) > 0.5).squeeze(1)
    return told


def _regression(
    original: Any, scores: Any, target: Any, value: Any, given: Mapping[str, Any]
) -> Call | None:
    """Numbers: beside the loss of the mean target, wherever the targets are several."""
    if value is None or scores.shape != target.shape or target.numel() < 8:
        return None
    if given.get("weight") is not None:
        return None
    shape = {key: given[key] for key in ("beta", "delta") if key in given}
    level = original(target.mean().expand_as(target), target, **shape)
    return Call(value, _LEEWAY * level)


def _rows(tensor: Any, classes: int | None) -> Any:
    """A copy of at most `ROWS` samples, as [samples, classes] or, where `classes` (the dimension that
    holds them) is None, as [samples]; always the same ones of tensors of one shape."""
    torch = values.torch()
    size = tensor.shape[0]
    if size > ROWS:
        # Spread so that no period of the data is met; on the device, since nothing may be sent there.
        steps = torch.arange(ROWS, device=tensor.device, dtype=torch.float64)
        rows = tensor.index_select(0, ((steps * _GOLDEN).frac() * size).long())
    else:
        rows = tensor
    inner = range(1 if classes is None else 2, tensor.dim())
    if inner:
        each = max(1, int((ROWS // rows.shape[0]) ** (1 / len(inner))))
        for dim in inner:
            length = rows.shape[dim]
            rows = rows[(slice(None),) * dim + (slice(None, None, -(-length // each)),)]
    if classes is None:
        return rows.reshape(-1).clone()
    return rows.movedim(1, -1).reshape(-1, rows.shape[1]).clone()


_ONE_OF_MANY = ("cross_entropy", "nll_loss")
_KINDS: dict[str, Callable[..., Call | None]] = {
    **dict.fromkeys(_ONE_OF_MANY, _one_of_many),
    "binary_cross_entropy": functools.partial(_two, threshold=0.5),
    "binary_cross_entropy_with_logits": _two,
    "mse_loss": _regression,
    "l1_loss": _regression,
    "smooth_l1_loss": _regression,
    "huber_loss": _regression,
}
