"""Functions that we put in place of others can be called in the same ways, by keyword, too."""

from __future__ import annotations

import functools
import inspect
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from freezecheck.live import diverted, hooks, shortened, weightless
from freezecheck.live.patches import Patches
from freezecheck.live.record import Recorder

LIBRARIES = ("huggingface_hub.file_download", "peft", "safetensors.torch", "timm", "transformers")


class Noted(Patches):
    """Keeps the functions that were replaced, with what replaced them."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[str, Any, Any]] = []

    def around(self, owner, name, wrapper):
        self.pairs.append((f"{owner.__name__}.{name}", getattr(owner, name), wrapper))
        super().around(owner, name, wrapper)


def misnamed(original: Any, wrapper: Any) -> Iterator[str]:
    """Parameters that the original takes by name, and its wrapper by another one."""
    theirs = list(inspect.signature(original).parameters.values())
    ours = list(inspect.signature(wrapper).parameters.values())[1:]
    for their, our in zip(theirs, ours):
        if our.kind is not our.POSITIONAL_OR_KEYWORD:
            return
        if their.kind is their.POSITIONAL_OR_KEYWORD and their.name != our.name:
            yield f"{their.name}: {our.name}"


def check(kind: str, folder: str) -> list[str]:
    patches, note = Noted(), lambda *told: None
    try:
        if kind == "record":
            hooks.install(Recorder(lambda recorder: None), patches)
        elif kind == "weightless":
            weightless.install(patches, note)
        elif kind == "shortened":
            shortened.install(patches, 2, note)
        else:
            diverted.install(patches, folder, note)
        assert patches.pairs
        return [
            f"{name} {told}"
            for name, original, wrapper in patches.pairs
            for told in _misnamed(original, wrapper)
        ]
    finally:
        patches.undo()


def _misnamed(original: Any, wrapper: Any) -> list[str]:
    try:
        return list(misnamed(original, wrapper))
    except ValueError:  # written in C, without a signature
        return []


@pytest.mark.parametrize("kind", ["record", "weightless", "shortened", "diverted"])
def test_wrappers_name_their_arguments_as_the_originals_do(tmp_path, kind):
    assert check(kind, str(tmp_path)) == []


@pytest.mark.slow
def test_those_of_other_libraries_too(tmp_path):
    """In a process of its own, which has imported them all."""
    code = (
        "import importlib, sys, test_patched_names as t\n"
        "for name in t.LIBRARIES:\n"
        "    importlib.import_module(name)\n"
        "assert t.check('weightless', sys.argv[1]) == []\n"
    )
    for name in LIBRARIES:
        pytest.importorskip(name)
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, cwd=__file__.rpartition("/")[0]
    )


def test_calls_by_keyword_go_through_while_recording():
    patches = Patches()
    hooks.install(Recorder(lambda recorder: None), patches)
    try:
        model = nn.Linear(2, 2)
        model.load_state_dict(state_dict=model.state_dict(), strict=True)
        model.train(mode=False)
        optimizer = torch.optim.SGD(params=model.parameters(), lr=0.1)
        optimizer.add_param_group(param_group={"params": [nn.Parameter(torch.ones(2))]})
        first = torch.optim.lr_scheduler.StepLR(optimizer=optimizer, step_size=1)
        torch.optim.lr_scheduler.ChainedScheduler(schedulers=[first])
        optimizer.load_state_dict(state_dict=optimizer.state_dict())
    finally:
        patches.undo()


def test_patches_that_are_undone_in_another_order_leave_nothing_behind():
    class Owner:
        @staticmethod
        def name() -> str:
            return "own"

    own, said = Owner.name, []
    first, second = Patches(), Patches()
    for patches in (first, second):
        patches.around(Owner, "name", lambda original: said.append(original) or original())
    first.undo()
    assert Owner.name() == "own"
    assert len(said) == 1
    second.undo()
    assert Owner.name is own


def test_a_wrapper_of_somebody_else_around_ours_stays():
    class Owner:
        @staticmethod
        def name() -> str:
            return "own"

    patches = Patches()
    patches.around(Owner, "name", lambda original: original())
    inner = Owner.name

    @functools.wraps(inner)
    def theirs() -> str:
        return f"their {inner()}"

    Owner.name = theirs  # type: ignore[method-assign]
    patches.undo()
    later = Patches()
    later.around(Owner, "name", lambda original: original())
    assert Owner.name() == "their own"
    later.undo()
    assert Owner.name is theirs
