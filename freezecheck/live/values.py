"""The few questions about values: is it zero, is it as the constructor drew it.

Everything here reads as little as settles the question and never writes. What
has no values (meta, fake tensors) or would need a collective (DTensor: only
the local shard is read) answers "unknown" or None.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from freezecheck.live import unloaded

_SAMPLE = 1024  # entries of a head's weight that are looked at
_PEEK = 8  # entries of a norm's weight or statistics that are looked at


def torch() -> Any:
    """The torch that the user imported."""
    module = sys.modules.get("torch")
    if module is None:
        raise RuntimeError("freezecheck inspects live PyTorch objects, but torch is not imported")
    return module


class _Names(dict[Any, str]):
    """Names of dtypes and devices, which are many times asked for and few."""

    def __missing__(self, key: Any) -> str:
        name = self[key] = str(key).removeprefix("torch.")
        return name


class _Hidden:
    """Which tensors have no values though they look as if they had; none, but under `--fake`."""

    test: Callable[[Any], bool] | None = None


hidden = _Hidden()

names = _Names()  # `names[tensor.dtype]` is "float32", `names[tensor.device]` "cuda:0"


def readable(tensor: Any) -> Any | None:
    """The tensor (of a DTensor, the local part) if its values can be read here."""
    kind = type(tensor).__name__
    if kind == "DTensor":
        tensor = tensor._local_tensor
        kind = type(tensor).__name__
    if tensor.is_meta or hasattr(tensor, "fake_mode") or kind == "FunctionalTensor":
        return None
    if hidden.test is not None and hidden.test(tensor):
        return None
    return tensor.detach()


def is_zero(tensor: Any) -> bool | None:
    """Every entry is 0 (NaN is not 0); None where values cannot be read."""
    real = readable(tensor)
    if real is None:
        return None
    if real.is_sparse or real.layout is not torch().strided:
        real = real.coalesce().values() if real.is_sparse else real.values()
    if real.numel() == 0:
        return True
    # Nearly every tensor that is not zero shows it in its first entry.
    first = real[(0,) * real.dim()].item()
    if first != 0:
        return False
    real = torch().view_as_real(real) if real.is_complex() else real
    return real.amax().item() == 0 == real.amin().item()  # several times faster than any()


def is_finite(tensor: Any) -> bool:
    """No entry is NaN or inf, as far as values can be read."""
    real = readable(tensor)
    if real is None:
        return True
    if real.is_sparse:
        real = real.coalesce().values()
    return bool(real.isfinite().all())


def gradient(grad: Any) -> str:
    """How a gradient counts for the next step; see `snapshot.Param.grad`."""
    zero = is_zero(grad)
    if zero is None:
        return "unknown"
    if zero:
        return "zero"
    return "sparse" if grad.is_sparse else "nonzero"


def integer(tensor: Any) -> int | None:
    """A counter kept in a tensor."""
    real = None if tensor is None else readable(tensor)
    return None if real is None else int(real)


def number(value: Any) -> float:
    """A hyper-parameter as a float; torch allows one-element tensors."""
    if isinstance(value, (int, float)):
        return float(value)
    if hasattr(value, "is_meta") and readable(value) is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def _peek(tensor: Any) -> list[float] | None:
    real = None if tensor is None else readable(tensor)
    return None if real is None else real.reshape(-1)[:_PEEK].tolist()


def fresh_norm(module: Any) -> bool | None:
    """A norm layer is as it was built: no batch tracked, mean 0, variance 1, weight 1, bias 0.

    Statistics alone would not tell: weights converted from Caffe have them folded into
    weight and bias, and mean 0 and variance 1 left in their place.
    """
    mean, var = _peek(module._buffers["running_mean"]), _peek(module._buffers["running_var"])
    if mean is None or var is None:
        return None
    if any(m != 0 for m in mean) or any(v != 1 for v in var):
        return False
    if module._parameters.get("weight") is not None and _trained(module) is None:
        return None
    return not integer(module._buffers.get("num_batches_tracked")) and not _trained(module)


def pretrained(norms: Sequence[Any]) -> bool | None:
    """Whether the norms' weights have ever been trained; None: nothing to tell by.

    Norm weights start at exactly 1 (some networks start a residual branch at
    0) and biases at 0; the first optimizer step moves them for ever.
    """
    told = False
    for module in _spread([m for m in norms if m._parameters.get("weight") is not None]):
        trained = _trained(module)
        if trained:
            return True
        told = told or trained is not None
    return False if told else None


def _trained(norm: Any) -> bool | None:
    """Weight or bias of a norm layer have left their first values; None: it has none to read."""
    if unloaded.holds(norm):
        return True
    weight = _peek(norm._parameters.get("weight"))
    bias = _peek(norm._parameters.get("bias"))
    if weight is None:
        return None
    return any(w not in (0, 1) for w in weight) or any(b != 0 for b in bias or ())


def _spread(items: list[Any]) -> list[Any]:
    """The first, the middle and the last."""
    if len(items) <= 3:
        return items
    return [items[0], items[len(items) // 2], items[-1]]


def fresh_layer(module: Any) -> bool | None:
    """A linear layer or convolution looks as its constructor drew it.

    Two signatures: a bias of exact zeros (transformers, timm, much of
    torchvision), or weights that fill the interval +-1/sqrt(fan_in) uniformly,
    which is how `nn.Linear` and `nn.Conv2d` draw them (`reset_parameters`).
    Trained weights have neither. None where neither can be judged.
    """
    if unloaded.holds(module):
        return False
    bias = module._parameters.get("bias")
    if bias is not None and is_zero(bias):
        return True
    weight = readable(module._parameters["weight"])
    if weight is None or not weight.is_floating_point() or weight.numel() < 64:
        return None
    sample = weight.reshape(-1)[:_SAMPLE].float()
    bound = 1 / math.sqrt(max(1, weight.numel() // weight.shape[0]))
    largest = float(sample.abs().max()) / bound
    if not 0.9 < largest < 1.001:
        return None if bias is None and largest < 0.9 else False
    # A uniform distribution on [-1, 1] has a mean square of 1/3.
    spread = float(sample.square().mean()) / bound**2
    return abs(spread - 1 / 3) < 0.4 / math.sqrt(sample.numel()) * 3
