"""`freezecheck probe SCRIPT`: the script trains for some steps in a process of its own, which are
then probed there; see `freezecheck.probe.scripted`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

from freezecheck import lint
from freezecheck.arguments import BadInput
from freezecheck.cost import Cost
from freezecheck.live.plan import Plan, Probing
from freezecheck.live.runner import Run
from freezecheck.plain import decode
from freezecheck.probe.report import ProbeReport
from freezecheck.records import replace
from freezecheck.report.result import Ran, Stood
from freezecheck.rule import Rule

TIMEOUT = 3600.0  # seconds


def plan(wanted: Probing, *, sandbox: bool) -> Plan:
    """How far the script is run."""
    return Plan(steps=wanted.after + wanted.recorded, sandbox=sandbox, probe=wanted)


def drawable(path: str) -> None:
    """BadInput where a page could not be drawn, or not be written: a run is dear."""
    if find_spec("matplotlib") is None:
        raise BadInput("--html draws with matplotlib: pip install 'freezecheck[plot]'")
    if os.path.isdir(path) or not os.path.isdir(os.path.dirname(path) or "."):
        raise BadInput(f"--html {path}: no such folder, or a folder itself")


def report(run: Run, rules: Sequence[Rule], settings: lint.Settings) -> ProbeReport:
    """What a run has found, by these rules, without what comments and configuration suppress."""
    made = ProbeReport.from_dict(run.probe)
    codes = {rule.code for rule in rules}
    found = lint.unsuppressed((f for f in made.findings if f.code in codes), settings)
    return replace(made, findings=tuple(found))


def cost(run: Run) -> Cost:
    """What a dry run has measured."""
    return decode(Cost, run.probe)


def ended(run: Run, title: str) -> Ran:
    """A run that came to no report; `title` is the command as the user would type it."""
    return Ran(
        title,
        run.outcome,
        run.seconds,
        (),
        run.exit_status,
        run.hint,
        run.stderr_tail,
        tuple(Stood(p.site, p.function, p.rank) for p in run.where),
    )
