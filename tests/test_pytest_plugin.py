"""The pytest plugin, as a project's own tests use it."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import nn

from freezecheck.live import api

pytest_plugins = ["pytester"]

# An editable install may be older than the entry point.
INSTALLED = "freezecheck" in {e.name for e in metadata.entry_points(group="pytest11")}
PLUGIN = [] if INSTALLED else ["-p", "freezecheck.integrations.pytest_plugin"]
TESTS = """
    import pytest
    import torch
    from torch import nn

    def build(*, whole):
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        held = model if whole else model[2]
        return model, torch.optim.SGD(held.parameters(), lr=0.1)
"""


@pytest.fixture(scope="module", autouse=True)
def _all_is_imported():
    """pytester forgets what a run of pytest has imported; torch takes seconds each time."""
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    str(api.inspect(model, torch.optim.SGD(model.parameters(), lr=0.1)))


@pytest.fixture(autouse=True)
def _nobody_listens_before_or_after():
    assert api.listeners == []
    yield
    assert api.listeners == []


@pytest.fixture
def run(pytester):
    """`run(text, *options)`: pytest on a file of `TESTS` and this text."""

    def run(text: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=dedent(TESTS) + dedent(text))
        alone = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]  # which is slow to import
        return pytester.runpytest_inprocess(*PLUGIN, *alone, *options)

    return run


def test_the_plugin_is_declared():
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    entry = (
        '[project.entry-points.pytest11]\nfreezecheck = "freezecheck.integrations.pytest_plugin"'
    )
    assert entry in project


def test_a_failure_is_the_text_and_the_line_of_the_test(run):
    result = run(
        """
        def test_whole(assert_sane):
            assert assert_sane(*build(whole=True)).ok

        def test_part(assert_sane):
            model, optimizer = build(whole=False)
            assert_sane(model, optimizer)
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    out = result.stdout.str()
    assert ">       assert_sane(model, optimizer)" in out
    assert "E       freezecheck.SetupError: freezecheck: 1 problem in this setup" in out
    assert "E         FC201 trainable-not-in-optimizer (warning): " in out
    assert "pytest_plugin.py" not in out
    assert "api.py" not in out
    assert "freezecheck: " not in out.partition("short test summary")[0].partition("E   ")[0]


def test_the_function_itself_shows_no_line_of_ours(run):
    result = run(
        """
        import freezecheck

        def test_part():
            freezecheck.assert_sane(*build(whole=False))
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["test_it.py:*: SetupError"])
    assert "api.py" not in result.stdout.str()


def test_arguments_reach_the_function(run):
    result = run(
        """
        def test_intent(assert_sane):
            model, optimizer = build(whole=True)
            model[0].requires_grad_(False)
            report = assert_sane(model, optimizer, frozen="0.*", batchnorm="train", ignore=["FC4"])
            assert report.snapshot.frozen

        def test_wrong_intent(assert_sane):
            assert_sane(*build(whole=True), trainable="2.*")
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*intent: trainable, though only the given ones were meant*"])


def test_markers_set_the_defaults(run):
    result = run(
        """
        pytestmark = pytest.mark.freezecheck(ignore="FC4", fail_on="info")

        @pytest.mark.freezecheck(ignore=["FC201"])
        def test_both_are_ignored(assert_sane):
            assert "FC201" not in assert_sane(*build(whole=False)).codes()

        @pytest.mark.freezecheck(fail_on="error")
        def test_the_closest_counts(assert_sane):
            model, optimizer = build(whole=True)
            model[0].requires_grad_(False)
            assert assert_sane(model, optimizer).codes() == ["FC212"]

        def test_the_modules_own_holds(assert_sane):
            model, optimizer = build(whole=True)
            model[0].requires_grad_(False)
            with pytest.raises(AssertionError, match="FC212"):
                assert_sane(model, optimizer)
            assert_sane(model, optimizer, fail_on="error")

        def test_a_failure_stays_one(assert_sane):
            with pytest.raises(AssertionError, match="FC201"):
                assert_sane(*build(whole=False))
        """,
        "--strict-markers",
    )
    result.assert_outcomes(passed=4)


@pytest.mark.parametrize("marker", ["'FC201'", "ingore=['FC201']"])
def test_a_marker_that_says_something_else(run, marker):
    result = run(
        f"""
        @pytest.mark.freezecheck({marker})
        def test_it(assert_sane):
            pass
        """
    )
    result.assert_outcomes(errors=1)
    word = marker.partition("=")[0]
    result.stdout.fnmatch_lines([f"*pytest.mark.freezecheck takes ignore and fail_on, not {word}*"])
    assert "Traceback" not in result.stdout.str()


def test_the_marker_and_the_fixture_are_documented(run):
    result = run("", "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.freezecheck(ignore=*"])
    result = run("", "--fixtures")
    result.stdout.fnmatch_lines(["assert_sane -- *", "*fail unless the setup is sound*"])


SUMMARISED = """
    import freezecheck
    freezecheck.inspect(*build(whole=True))  # not in a test

    def test_part(assert_sane):
        assert_sane(*build(whole=False))

    def test_loop(assert_sane):
        model, optimizer = build(whole=True)
        model[0].requires_grad_(False)
        model.eval()
        for step in range(3):
            freezecheck.inspect(model, optimizer)
        model.train()
        freezecheck.inspect(model, None)

    def test_nothing():
        pass
"""


def summary(out: str) -> list[str]:
    """The lines of the summary."""
    lines = [line.rstrip() for line in out.splitlines() if line.strip()]
    start = next(i for i, line in enumerate(lines) if re.match("=+ freezecheck: ", line))
    end = next((i for i, line in enumerate(lines[start + 1 :]) if line.startswith("==")), None)
    return [lines[start].strip("= "), *lines[start + 1 :][:end]]


def check_summary(lines: list[str]) -> None:
    assert lines[0] == "freezecheck: 5 models in 2 tests"
    assert lines[1] == "test_it.py::test_loop"
    assert lines[2] == (
        "  model (Sequential): 18 trainable, 20 frozen; BatchNorm: 1 eval;"
        " all trainable in the optimizer (3 times)"
    )
    assert lines[3].startswith("    info FC212 frozen-parameters-in-optimizer: ")
    at = lines.index("test_it.py::test_part")
    assert lines[at - 1].endswith("BatchNorm: 1 train; no optimizer given")
    assert lines[at + 1] == (
        "  model (Sequential): 38 trainable, 0 frozen; BatchNorm: 1 train;"
        " 4 tensors in no optimizer: 0.weight, 0.bias and 2 more"
    )
    assert lines[at + 2].startswith("    warning FC201 trainable-not-in-optimizer: ")
    assert len(lines) == at + 3


def test_summary(run):
    result = run(SUMMARISED, "--freezecheck")
    result.assert_outcomes(passed=2, failed=1)
    check_summary(summary(result.stdout.str()))


def test_a_summary_of_nothing_says_so(run):
    result = run("def test_it(): pass", "--freezecheck")
    assert summary(result.stdout.str()) == ["freezecheck: no model was inspected"]


def test_without_the_option_there_is_no_summary(run):
    result = run("def test_it(assert_sane): assert_sane(*build(whole=True))")
    result.assert_outcomes(passed=1)
    assert "freezecheck:" not in result.stdout.str()


@pytest.mark.slow
def test_a_worker_sends_its_part(run):
    pytest.importorskip("xdist")
    result = run(SUMMARISED, "--freezecheck", "-n", "1")
    result.assert_outcomes(passed=2, failed=1)
    check_summary(summary(result.stdout.str()))


def test_starting_pytest_imports_next_to_nothing(tmp_path):
    code = (
        "import sys, pytest\n"
        "before = set(sys.modules)\n"
        "import freezecheck.integrations.pytest_plugin\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "freezecheck",
        "freezecheck.integrations",
        "freezecheck.integrations.pytest_plugin",
    ]
