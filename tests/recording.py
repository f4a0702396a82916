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
from freezecheck.live.record import Recorder
from freezecheck.phases import Phase
from freezecheck.snapshot import Snapshot
from freezecheck.timeline import Timeline


class Stop(BaseException):
    """Ends the script where the runner would park it."""


@dataclass
class Recording:
    snapshot: Snapshot | None
    timeline: Timeline
    namespace: dict[str, Any]
    reached_step: bool
    phases: list[Phase]

    def findings(self, select: Any = None) -> list[Finding]:
        rules = catalogue.select(select)
        snapshots = [self.snapshot] if self.snapshot and not self.phases else []
        return check(rules, timeline=self.timeline, snapshots=snapshots, phases=self.phases)


def record(
    code: str, filename: str = "example.py", steps: int | None = 1, batches: int | None = None
) -> Recording:
    """The record of `code` as a script called `filename`, seeded, to step number `steps`
    (None: to its end); with epochs cut to `batches`.

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

    def ready(recorder: Recorder) -> None:
        timeline = recorder.timeline()
        outcome.append(Recording(recorder.snapshot(), timeline, namespace, True, recorder.phases))
        raise Stop

    recorder = Recorder(ready, steps)
    recorder.install()
    cut = Patches()
    if batches is not None:
        shortened.install(cut, batches, lambda *_: None)
        recorder.epoch = shortened.epoch
    try:
        with offline_weights():
            exec(compile(code, filename, "exec"), namespace)
        recorder.end()
    except Stop:
        pass
    finally:
        cut.undo()
        recorder.uninstall()
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    if not outcome:
        timeline = recorder.timeline()
        outcome.append(Recording(recorder.snapshot(), timeline, namespace, False, recorder.phases))
    return outcome[0]
