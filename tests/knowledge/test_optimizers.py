"""The tables of optimizers and schedulers say what the libraries do."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest

from freezecheck.source.knowledge import optimizers
from freezecheck.source.knowledge.signature import Signature

torch = pytest.importorskip("torch")

TABLES = {
    **optimizers.OPTIMIZERS,
    **{name: text for name, (text, _, _) in optimizers.SCHEDULERS.items()},
    **optimizers.FACTORIES,
}


def loaded(name: str) -> Any:
    package, _, short = name.rpartition(".")
    try:
        module = import_module(package)
    except ImportError:
        pytest.skip(f"{package} is not installed")
    return getattr(module, short)


@pytest.mark.frameworks
@pytest.mark.parametrize("name", sorted(TABLES.keys() - {"transformers.AdamW"}))
def test_signature_is_the_librarys(name: str) -> None:
    real = inspect.signature(loaded(name)).parameters
    ours = Signature(TABLES[name])
    positional = [n for n, p in real.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional[: len(ours.positional)] == list(ours.positional)
    assert set(ours.names) <= set(real)
    assert {n: real[n].default for n in ours.defaults} == ours.defaults
    if not ours.open:  # newer releases may have more of them
        assert set(real) - set(ours.names) <= {"foreach", "corrected_weight_decay", "kwargs"}


def torchs(package: Any, base: type) -> set[str]:
    return {
        f"{package.__name__}.{name}"
        for name, value in vars(package).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
        if not name.startswith("_")
    }


def test_everything_of_torch_is_listed() -> None:
    optim, schedulers = torch.optim, torch.optim.lr_scheduler
    assert torchs(optim, optim.Optimizer) <= optimizers.OPTIMIZERS.keys()
    assert torchs(schedulers, schedulers.LRScheduler) <= optimizers.SCHEDULERS.keys()


@pytest.mark.parametrize("name", [n for n in optimizers.OPTIMIZERS if n.startswith("torch.")])
def test_default_rate_and_group_keys(name: str) -> None:
    found = optimizers.find(name)
    assert found is not None
    if not hasattr(torch.optim, name.rpartition(".")[2]):
        pytest.skip("newer than this torch")
    made = loaded(name)([torch.nn.Parameter(torch.zeros(2, 2))])
    assert made.param_groups[0]["lr"] == found.lr
    assert found.keys is not None
    assert set(made.param_groups[0]) <= found.keys


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("torch.optim.SGD", "torch.optim.SGD"),
        ("torch.optim.sgd.SGD", "torch.optim.SGD"),
        ("timm.optim.SGD", "torch.optim.SGD"),
        ("timm.optim.lamb.Lamb", "timm.optim.Lamb"),
        ("transformers.optimization.Adafactor", "transformers.Adafactor"),
        ("bitsandbytes.optim.adamw.AdamW8bit", "bitsandbytes.optim.AdamW8bit"),
    ],
)
def test_other_names_of_an_optimizer(name: str, canonical: str) -> None:
    found = optimizers.find(name)
    assert found is not None
    assert found.type == canonical


def test_unknown_names() -> None:
    assert optimizers.find("torch.optim.Nothing") is None
    assert optimizers.find("SGD") is None
    assert optimizers.find_scheduler("torch.optim.SGD") is None


def test_schedulers_that_overwrite_rates() -> None:
    one_cycle = optimizers.find_scheduler("torch.optim.lr_scheduler.OneCycleLR")
    assert one_cycle is not None
    assert one_cycle.overwrites == ("max_lr",)
    assert "max_lr" in one_cycle.per_group
    warmup = optimizers.find_scheduler("transformers.optimization.get_linear_schedule_with_warmup")
    assert warmup is not None
    assert warmup.arguments.positional[:2] == ("optimizer", "num_warmup_steps")


def test_binding_arguments() -> None:
    signature = Signature("params lr=1e-3 * fused=None")
    assert signature.bind(["p", 0.1], {"fused": True}) == {"params": "p", "lr": 0.1, "fused": True}
    assert signature.bind(["p", 0.1, True], {}) is None  # by name alone
    assert signature.bind(["p"], {"params": "q"}) is None  # given twice
    assert signature.bind(["p"], {"colour": 1}) is None
    assert Signature("a **").bind([1], {"colour": 1}) == {"a": 1, "colour": 1}
    assert Signature("a *rest").bind([1, 2, 3], {}) == {"a": 1, "rest": (2, 3)}
