"""Running a script in this process, recorded, to its first optimizer step."""

from __future__ import annotations

import gc
import linecache
import random
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from weights import offline_weights

from freezecheck import catalogue
from freezecheck.check import check
from freezecheck.finding import Finding
from freezecheck.live import frames, shortened
from freezecheck.live.patches import Patches
from freezecheck.live.pulse import Pulse
from freezecheck.live.record import Recorder
from freezecheck.phases import Phase
from freezecheck.probe.api import ProbeReport, listeners
from freezecheck.snapshot import Snapshot
from freezecheck.timeline import Timeline
from freezecheck.trace import Trace


class Stop(BaseException):
    """Ends the script where the runner would park it."""


@dataclass
class Recording:
    snapshot: Snapshot | None
    timeline: Timeline
    namespace: dict[str, Any]
    reached_step: bool
    phases: list[Phase]
    traces: list[Trace]

    def findings(self, select: Any = None) -> list[Finding]:
        rules = catalogue.select(select)
        snapshots = [self.snapshot] if self.snapshot and not self.phases else []
        return check(
            rules,
            timeline=self.timeline,
            snapshots=snapshots,
            phases=self.phases,
            traces=self.traces,
        )


def record(
    code: str,
    filename: str = "example.py",
    steps: int | None = 1,
    batches: int | None = None,
    *,
    tripwires: bool = False,
) -> Recording:
    """The record of `code` as a script called `filename`, seeded, to step number `steps`
    (None: to its end); with epochs cut to `batches`, and with an ear on the losses.

    Sites name lines of `filename`, whose text `linecache` gives as for a real file.
    """
    gc.collect()
    linecache.cache[filename] = (len(code), None, code.splitlines(True), filename)
    frames.is_users.cache_clear()
    frames.shown.cache_clear()
    random.seed(0)
    torch.manual_seed(0)
    namespace: dict[str, Any] = {"__name__": "__main__", "__file__": filename}
    outcome: list[Recording] = []

    def made(timeline: Timeline, stepped: bool) -> Recording:
        now = recorder.snapshot()
        return Recording(now, timeline, namespace, stepped, recorder.phases, recorder.traces)

    def ready(_: Recorder) -> None:
        timeline = recorder.timeline()
        outcome.append(made(timeline, True))
        raise Stop

    recorder = Recorder(ready, steps)
    heard, problems = Patches(), list[Exception]()
    pulse = Pulse(recorder, problems.append)
    if tripwires:
        pulse.install(heard)
    recorder.install()
    cut = Patches()
    if batches is not None:
        shortened.install(cut, batches, lambda *_: None)
        recorder.epoch = shortened.epoch
    try:
        with offline_weights():
            exec(compile(code, filename, "exec"), namespace)
        recorder.end()
        pulse.end()
    except Stop:
        pass
    finally:
        cut.undo()
        recorder.uninstall()
        heard.undo()
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    if not outcome:
        timeline = recorder.timeline()
        outcome.append(made(timeline, False))
    assert not problems, problems
    return outcome[0]


def probed(code: str, filename: str) -> list[Finding]:
    """What the probes in `code`, run as a script called `filename` and seeded, report."""
    frames.is_users.cache_clear()
    frames.shown.cache_clear()
    random.seed(0)
    torch.manual_seed(0)
    reports: list[ProbeReport] = []
    listeners.append(reports.append)
    try:
        exec(compile(code, filename, "exec"), {"__name__": "__main__", "__file__": filename})
    finally:
        listeners.remove(reports.append)
    assert reports
    return [finding for report in reports for finding in report.findings]
