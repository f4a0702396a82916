"""Runs beyond the first step, told in phases: the whole story of each is kept as a text."""

from __future__ import annotations

import pytest
import stories
from test_scripts import SCRIPTS, inspect, needs

OTHERS = SCRIPTS.parent.parent / "scripts"
STORIES = {
    "twelve_epochs": (0, "--fast-forward", "2", "twelve_epochs.py"),
    "twelve_epochs_no_group": (1, "--fast-forward", "2", "twelve_epochs.py", "--no-group"),
    "twelve_epochs_to_step_10": (0, "--steps", "10", "--sandbox", "twelve_epochs.py"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STORIES)
def test_story(name: str, request: pytest.FixtureRequest):
    expected, *command = STORIES[name]
    code, report = inspect(*command)
    stories.compare(name, report, update=request.config.getoption("--update-golden"))
    assert code == expected


def test_a_function_and_no_weights(request: pytest.FixtureRequest):
    code, report = inspect("--no-weights", "setup_only.py::build")
    stories.compare("function", report, update=request.config.getoption("--update-golden"))
    assert code == 1


def test_no_weights(request: pytest.FixtureRequest):
    code, report = inspect("--no-weights", "pretrained_torchvision.py", cwd=OTHERS)
    stories.compare("no_weights", report, update=request.config.getoption("--update-golden"))
    assert code == 1


@pytest.mark.slow
@needs("peft")
@needs("transformers")
def test_fake(request: pytest.FixtureRequest):
    code, report = inspect("--fake", "large_lora.py", cwd=OTHERS)
    stories.compare("fake", report, update=request.config.getoption("--update-golden"))
    assert code == 0
