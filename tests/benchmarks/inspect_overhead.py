"""What `inspect` costs beside a bare walk over `named_parameters()`.

    python tests/benchmarks/inspect_overhead.py [--quick]

Prints ratios of the fastest of many repeats, all taken in one run, since
absolute times mean little on a shared machine. The models: ResNet-50 (161
tensors), a mixture of experts (12,500 tensors), 100,000 tiny tensors.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import io
import timeit
from collections.abc import Callable

import torch
import torchvision
from torch import nn

import freezecheck
from freezecheck.live.capture import capture


class Expert(nn.Module):
    """Two small layers, as in a mixture of experts."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 8)
        self.down = nn.Linear(8, 4)


class Layer(nn.Module):
    def __init__(self, experts: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.gate = nn.Linear(4, experts, bias=False)
        self.experts = nn.ModuleList(Expert() for _ in range(experts))


def mixture(layers: int = 24, experts: int = 130) -> nn.Module:
    """24 layers of 130 experts with 4 tensors each: 12,552 tensors."""
    return nn.Sequential(*(Layer(experts) for _ in range(layers)), nn.Linear(4, 4))


def tiny(tensors: int = 100_000) -> nn.Module:
    """100,000 tensors of 4 entries in 1,000 lists."""
    lists = (nn.ParameterList(torch.ones(4) for _ in range(100)) for _ in range(tensors // 100))
    return nn.ModuleList(lists)


def names_only(model: nn.Module) -> int:
    """The barest walk."""
    return sum(1 for _ in model.named_parameters())


def bare_report(model: nn.Module) -> list[tuple[object, ...]]:
    """What a hand-written `print` of the parameters reads."""
    return [(n, p.shape, p.requires_grad, p.numel()) for n, p in model.named_parameters()]


def bare_pass(model: nn.Module, optimizer: torch.optim.Optimizer) -> object:
    """Parameters, groups and modes by hand: what a careful person would print."""
    held = {id(p): i for i, g in enumerate(optimizer.param_groups) for p in g["params"]}
    rows = [
        (
            n,
            tuple(p.shape),
            str(p.dtype),
            str(p.device),
            p.requires_grad,
            p.grad is None,
            held.get(id(p)),
        )
        for n, p in model.named_parameters()
    ]
    return rows, [(n, type(m).__name__, m.training) for n, m in model.named_modules()]


def beside(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Callable[[], object]]:
    """Other tools on the same model, where they are installed."""
    others: dict[str, Callable[[], object]] = {
        "assert_sane": lambda: freezecheck.assert_sane(model, optimizer)
    }
    if importlib.util.find_spec("torchinfo"):
        import torchinfo

        others["torchinfo.summary"] = lambda: torchinfo.summary(model, verbose=0)
    if importlib.util.find_spec("torch_audit"):
        import torch_audit

        others["torch_audit.audit"] = lambda: quietly(torch_audit.audit, model, optimizer=optimizer)
    return others


def quietly(function: Callable[..., object], *args: object, **kwargs: object) -> object:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function(*args, **kwargs)


def fastest(function: Callable[[], object], seconds: float) -> float:
    """The fastest of as many calls as fit into the time, at least three."""
    function()
    once = timeit.timeit(function, number=1)
    repeats = max(3, int(seconds / max(once, 1e-6)))
    gc.collect()
    gc.disable()
    try:
        return min(timeit.repeat(function, number=1, repeat=repeats))
    finally:
        gc.enable()


def measure(model: nn.Module, seconds: float) -> list[float]:
    """Seconds for names, report, pass, capture and inspect."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    functions: list[Callable[[], object]] = [
        lambda: names_only(model),
        lambda: bare_report(model),
        lambda: bare_pass(model, optimizer),
        lambda: capture({"model": model}, {"optimizer": optimizer}),
        lambda: freezecheck.inspect(model, optimizer),
    ]
    return [fastest(function, seconds) for function in functions]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="shorter, noisier")
    seconds = 0.3 if parser.parse_args().quick else 2.0
    cases = {
        "resnet50": torchvision.models.resnet50(),
        "mixture of experts": mixture(),
        "100,000 tiny": tiny(),
    }
    print(f"torch {torch.__version__}; times are the fastest of many, ratios to the bare report")
    header = ("model", "tensors", "names", "report", "pass", "capture", "inspect", "ratio")
    print("{:20} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}".format(*header))
    for name, model in cases.items():
        times = measure(model, seconds)
        shown = " ".join(f"{1e3 * t:6.2f} ms" for t in times)
        print(f"{name:20} {names_only(model):8,} {shown} {times[-1] / times[1]:6.2f}x")
    model = cases["resnet50"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    print("\non resnet50, in the same run:")
    for name, function in beside(model, optimizer).items():
        print(f"{name:20} {1e3 * fastest(function, seconds):8.2f} ms")


if __name__ == "__main__":
    main()
