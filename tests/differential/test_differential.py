"""The source half against reality: random scripts, linted and run.

Whatever is said of a text must be true when it runs. What the run shows and the text's
reading does not is a miss: counted and printed (`pytest -s`), and no failure.
`pytest tests/differential --differential-examples=10000` for a long run.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import io
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from generator import Script, scripts
from hypothesis import HealthCheck, Phase, given, settings
from judges import JUDGES, true
from minds import differences
from reality import Run, pretrained, run
from recording import Recording, record

from freezecheck import catalogue
from freezecheck.check import check_source
from freezecheck.finding import Finding
from freezecheck.rule import Rule
from freezecheck.source.analysis import Analysis, analyze

pytest.importorskip("torchvision")

FILE = "generated.py"
LIVE = 40  # of the fixed examples are recorded as well, which takes ten times as long
STATIC = {r.code for r in catalogue.load() if type(r).in_source is not Rule.in_source}


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    """What is there already is not searched through by every recording."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def hold(config: pytest.Config, default: int, check: Any) -> None:
    """`check` on `default` fixed scripts, or on as many random ones as were asked for."""
    examples = config.getoption("--differential-examples")
    settings(
        max_examples=examples or default,
        derandomize=examples is None,
        deadline=None,
        print_blob=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )(given(scripts())(check))()


def linted(script: Script) -> tuple[Analysis, list[Finding]]:
    analysis = analyze(ast.parse(script.text), FILE)
    return analysis, check_source(catalogue.load(), analysis.worlds)


def recorded(script: Script) -> Recording | None:
    """The script up to its first step, under the recorder; None if it ended before."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(pretrained())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(mock.patch.object(sys, "argv", [FILE]))
        try:
            return record(script.text, FILE)
        except Exception:
            return None


def show(tally: Counter[Any], title: str) -> None:
    """Figures for `pytest -s`."""
    print(f"\n{title}")
    for key, number in sorted(tally.items(), key=str):
        print(f"{number:>8,}  {key}")


def test_what_is_said_of_a_text_is_true(pytestconfig: pytest.Config) -> None:
    tally: Counter[Any] = Counter()
    misses: Counter[str] = Counter()

    def check(script: Script) -> None:
        runs = [run(script.text, command, FILE) for command in script.commands]
        _, findings = linted(script)
        tally["scripts"] += 1
        for finding in findings:
            verdict = judged(finding, script, runs)
            tally[finding.code, "certain" if finding.certain else "strict", verdict] += 1
            assert verdict != "false" or not finding.certain, (finding, [r.error for r in runs])
        if tally["scripts"] % max(1, tally["wanted"] // LIVE) == 0:
            said = {finding.code for finding in findings}
            recording = recorded(script)
            if recording is not None:
                for code in {f.code for f in recording.findings()} & STATIC:
                    tally["found by the run"] += 1
                    misses[code] += code not in said

    tally["wanted"] = pytestconfig.getoption("--differential-examples") or 150
    hold(pytestconfig, 150, check)
    show(tally, "findings")
    show(+misses, "misses: found in the run to the first step, not in the text")


def judged(finding: Finding, script: Script, runs: list[Run]) -> str:
    """ "true" if some run shows it, "unjudged" without a judge, "unreached" where no run gets
    to its line, "open" where a run broke off before it could show, else "false"."""
    if finding.code not in JUDGES:
        return "unjudged"
    if any(true(each, finding, script.text) for each in runs):
        return "true"
    if finding.site and not any(finding.site.line in each.reached for each in runs):
        return "unreached"
    return "open" if any(each.error for each in runs) else "false"


def test_worlds_are_what_happens(pytestconfig: pytest.Config) -> None:
    """For every run there is a world that agrees with it on everything that it knows."""
    tally: Counter[str] = Counter()

    def check(script: Script) -> None:
        worlds = [w for w in linted_worlds(script) if not w.entry]
        for command in script.commands:
            real = run(script.text, command, FILE)
            tally["runs"] += 1
            wrong = [differences(world, real, tally) for world in worlds]
            assert wrong, "no world"
            assert not all(wrong), min(wrong, key=len)

    hold(pytestconfig, 100, check)
    show(tally, "compared")


def linted_worlds(script: Script) -> list[Any]:
    return analyze(ast.parse(script.text), FILE).worlds


def test_judges_agree_with_the_live_half(pytestconfig: pytest.Config) -> None:
    """What the live half finds at the first step, the judges see in the full run."""
    tally: Counter[Any] = Counter()

    def check(script: Script) -> None:
        recording = recorded(script)
        if recording is None:
            return
        real = run(script.text, (), FILE)
        for finding in recording.findings():
            if finding.code in JUDGES:
                tally[finding.code] += 1
                assert true(real, finding, script.text), (finding, real.error)

    hold(pytestconfig, 40, check)
    show(tally, "live findings, judged")
