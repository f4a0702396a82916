"""The names in the tables about frameworks are the libraries' own."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

from freezecheck.source import calls, objects
from freezecheck.source.knowledge import frameworks

pytest.importorskip("torch")
# No release under test has them any more; scripts still import them.
GONE = {"peft.prepare_model_for_int8_training"}


def loaded(name: str) -> Any:
    """What a dotted name is; skips where the library is not installed."""
    parts = name.split(".")
    for size in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError as error:
            if error.name == parts[0]:
                pytest.skip(f"{parts[0]} is not installed")
            continue
        for part in parts[size:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


@pytest.mark.frameworks
@pytest.mark.parametrize("name", sorted(frameworks.OBJECTS))
def test_class_takes_these_arguments(name: str) -> None:
    real = inspect.signature(loaded(name).__init__).parameters
    ours = frameworks.arguments(name)
    positional = [n for n, p in real.items() if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    any_name = any(p.kind is p.VAR_KEYWORD for p in real.values())
    assert positional[: len(ours.positional)] == list(ours.positional)
    assert any_name or set(ours.names) <= set(real)


def known() -> list[str]:
    """The names that the modules about libraries registered."""
    for package in frameworks.HOMES:
        objects.meet(package)
    tops = ("torch", "torchvision", "timm", "transformers", "peft", "lightning", "accelerate")
    return sorted(n for n in calls.EFFECTS if n.partition(".")[0] in tops and n not in GONE)


@pytest.mark.frameworks
@pytest.mark.parametrize("name", known())
def test_function_exists(name: str) -> None:
    if name.startswith("torch.nn.utils.clip_grad_norm") or "Variable" in name:
        return  # old names
    assert callable(loaded(name))


@pytest.mark.frameworks
@pytest.mark.parametrize(("kind", "method"), sorted(objects._BEHAVIOURS))
def test_method_exists(kind: str, method: str) -> None:
    if hasattr(loaded(kind), method):
        return
    assert kind == "transformers.Trainer" or kind == "transformers.Seq2SeqTrainer"


def test_every_home_is_there() -> None:
    for home in set(frameworks.HOMES.values()):
        assert importlib.import_module(f"freezecheck.source.{home}").__doc__


@pytest.mark.frameworks
@pytest.mark.parametrize("name", sorted(frameworks.ADAPTERS))
def test_adapter_has_that_configuration(name: str) -> None:
    assert inspect.isclass(loaded(name))


@pytest.mark.frameworks
def test_heads_that_peft_keeps() -> None:
    peft_model = inspect.getsource(loaded("peft.peft_model"))
    assert all(f'"{name}"' in peft_model for names in frameworks.HEADS.values() for name in names)
