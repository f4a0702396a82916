"""Several processes: what they do to each other's copies, and what is found of it."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from freezecheck import catalogue
from freezecheck.check import check, check_ranks, merge, without_consequences
from freezecheck.finding import Finding, Severity
from freezecheck.phases import Phase
from freezecheck.plain import decode
from freezecheck.timeline import Timeline

SCRIPTS = Path(__file__).parent / "scripts"
ROOT = Path(__file__).parent.parent
REPLICAS = SCRIPTS / "replicas.py"
EXAMPLES = [e for rule in catalogue.load() for e in rule.examples() if "ranks=2" in e.options]
VARIANTS = list(runpy.run_path(str(REPLICAS))["VARIANTS"])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file"),
]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of each process, every variant: its record, and the weights that it ended with."""
    folder = tmp_path_factory.mktemp("replicas")
    for example in EXAMPLES:
        (folder / f"{example}.py").write_text(example.code)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, REPLICAS, folder],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def seen(record: dict[str, Any]) -> tuple[Timeline, tuple[Phase, ...]]:
    return decode(Timeline, record["timeline"]), decode(tuple[Phase, ...], record["phases"])


def judged(records: list[dict[str, Any]], name: str) -> list[Finding]:
    rules = catalogue.load()
    every = [seen(record[name]) for record in records]
    alone = [check(rules, timeline=past, phases=phases) for past, phases in every]
    across = check_ranks(rules, [(past, phases, None) for past, phases in every])
    found = without_consequences(merge([*alone, across]), rules)
    return [f for f in found if f.severity >= Severity.WARNING]


@pytest.mark.parametrize("name", VARIANTS)
def test_found_if_the_copies_drift_apart_or_a_step_raises(records, name):
    """The judge is what becomes of the weights: equal to the last bit, or not."""
    first, second = (record[name] for record in records)
    harm = first["weights"] != second["weights"] or bool(first["raised"])
    assert first["raised"] == second["raised"]
    found = judged(records, name)
    codes = {f.code for f in found if f.code in ("FC501", "FC505")}
    assert len(codes) == harm, [f.message for f in found]  # one defect, one finding
    assert harm or not found, [f.message for f in found]


def test_what_a_wrapper_took_is_known_where_nobody_saw_it_built(records):
    """As in `inspect(model, optimizer)`, and in a run that is watched from then on."""
    rule = catalogue.find("FC501")
    for name in VARIANTS:
        past, phases = seen(records[0][name])
        steps = {f.step for f in check([rule], timeline=past, phases=phases)}
        if name != "frozen_behind_a_static_wrapper_later":  # which may have looked after that
            assert {f.step for f in check([rule], phases=phases)} == steps, name


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_examples_of_pages_in_two_processes(records, example):
    """As `test_rule_pages` has it: on exactly the marked lines, and nothing else."""
    found = sorted((f.site.line, f.code) for f in judged(records, f"{example}.py"))
    assert found == sorted(example.expected)


def test_a_finding_names_the_line_and_the_step(records):
    lines = REPLICAS.read_text().splitlines()

    def only(name: str) -> tuple[Finding, str]:
        (finding,) = (f for f in judged(records, name) if f.code.startswith("FC5"))
        return finding, lines[finding.site.line - 1].strip()

    finding, line = only("unfrozen_after_two_steps")
    assert (finding.code, finding.step, line) == ("FC501", 3, "model.requires_grad_(True)")
    (note,) = finding.notes
    assert lines[note.site.line - 1].strip() == "ddp = DDP(model)"
    finding, line = only("as_many_other_layers_frozen")
    assert (finding.code, line) == ("FC505", "model[2 * rank].requires_grad_(False)")
    assert "0.weight, 0.bias train on rank 1 and are frozen on rank 0" in finding.message
    finding, line = only("past_the_wrapper")
    assert (finding.code, line) == ("FC505", "optimizer.step()")
    finding, _ = only("a_layer_that_is_never_called")
    assert "It waits for a gradient of spare.weight, spare.bias, and none came." in finding.message
