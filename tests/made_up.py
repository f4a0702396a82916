"""Two made-up rules, and the command line with them and a run that is not waited for."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

from freezecheck import catalogue, cli
from freezecheck.finding import Finding, Severity
from freezecheck.live import runner
from freezecheck.live.board import Report
from freezecheck.live.runner import Run
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot
from freezecheck.timeline import Timeline


class Missing(Rule):
    """A trainable tensor is in no optimizer.

    ## What it does

    Looks.
    """

    code = "FC901"
    name = "made-up-missing"
    severity = Severity.ERROR

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for param in now.missing:
            yield self.finding("It never moves.", symbol=param.name)


class Heads(Rule):
    """There is a head."""

    code = "FC902"
    name = "made-up-head"
    severity = Severity.INFO

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for model in now.models:
            yield self.finding("Good to know.", symbol=model.head.path if model.head else None)


def main() -> int:
    """The command line in a process without torch; SNAPSHOT names what the run will report."""
    catalogue.load = lambda: (Missing(), Heads())

    def run(command, *, on_phase, **options) -> Run:
        if on_phase:
            on_phase("building")
        with open(os.environ["SNAPSHOT"], encoding="utf-8") as file:
            now = Snapshot.from_dict(json.load(file))
        return Run(("python",), "inspected", [Report(1, None, True, now, Timeline())], seconds=1.5)

    runner.run = run
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
