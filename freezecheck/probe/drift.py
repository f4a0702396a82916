"""How far a warm-up has carried BatchNorm statistics and features away."""

from __future__ import annotations

from typing import Any

from freezecheck.live import values
from freezecheck.probe.initial import Initial
from freezecheck.warmup import Features, Layer

_STILL = 1e-6  # spread of a feature, relative to the largest, below which it tells nothing


def layers(model: Any, initial: Initial) -> tuple[Layer, ...]:
    """The BatchNorm layers with running statistics, each beside what the initial weights gathered
    from the same batches: new data alone are no drift."""
    return tuple(
        Layer(
            path,
            module.training,
            module.weight is not None and module.weight.requires_grad,
            _divergence(module, initial),
        )
        for path, module in model.named_modules()
        if isinstance(module, values.torch().nn.modules.batchnorm._BatchNorm)
        and module.running_mean is not None
    )


def _divergence(module: Any, initial: Initial) -> float:
    """Symmetric Kullback-Leibler divergence of two Gaussians; the median over the channels, since
    one that has died says little of the others."""
    one, other = (
        (mean.double(), var.double() + module.eps)
        for mean, var in (
            (module.running_mean, module.running_var),
            (initial.buffers[module.running_mean], initial.buffers[module.running_var]),
        )
    )
    apart = (one[0] - other[0]) ** 2
    both = (one[1] + apart) / other[1] + (other[1] + apart) / one[1] - 2
    return float(both.median()) / 2


def features(before: Any, after: Any) -> Features | None:
    """Of what goes into the head [samples, features], before and after."""
    if before is None or after is None or before.shape != after.shape:
        return None
    alike = values.torch().nn.functional.cosine_similarity(before, after, dim=1)
    return Features(float(1 - alike.mean()), _dead(before), _dead(after))


def _dead(features: Any) -> float:
    spread = features.amax(0) - features.amin(0)
    return float((spread <= _STILL * features.abs().max()).double().mean())
