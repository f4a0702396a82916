"""Inside the inspected process: record, write the report, and hold still.

Started by `boot/freezecheck_attach.py` as soon as torch has been imported.
Nothing here may fail the script: what goes wrong is told to the runner.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from freezecheck.live import downloads, frames, leash, plan, values
from freezecheck.live.patches import Patches
from freezecheck.live.plan import Plan
from freezecheck.live.pulse import Pulse
from freezecheck.live.record import Recorder
from freezecheck.live.still import ALIVE, leave, park, told
from freezecheck.phases import Phase
from freezecheck.plain import encode
from freezecheck.snapshot import Snapshot
from freezecheck.trace import Trace

OLDEST_TORCH = (2, 4)
CWD = "cwd"  # a file there: the working directory that paths are shown relative to

# A report of more tensors takes a noticeable time; the one at the first backward,
# which knows the gradients, is then the only early one.
_MANY = 2000
_NEWS = 0.2  # seconds between two words on the step that a process is at

Note = Callable[..., None]

_texts: list[str] = []  # the snapshots of this process's phases, as JSON

running: tuple[str, Recorder, Note] | None = None  # the folder of the run, and what `start` began


def start(folder: str, note: Note) -> None:
    """Record this process and park it at its first optimizer step.

    `folder` is the folder of the run, `note` tells the runner a line.
    """
    version = values.torch().__version__
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        raise RuntimeError(f"torch {version} is too old: freezecheck needs 2.4 or newer")
    with open(os.path.join(folder, CWD), encoding="utf-8") as file:
        frames.set_base(file.read())
    wanted = plan.read(folder)
    if not wanted.watch:
        leash.tie(os.path.join(folder, ALIVE))
        atexit.register(downloads.tell, note)

    def optimizer() -> None:
        note("optimizer")
        if _size(recorder) <= _MANY:
            _early(folder, recorder, note)

    def backward() -> None:
        note("backward")
        _early(folder, recorder, note)

    def ready(_: Recorder) -> None:
        write(folder, recorder, stepped=True)
        note("report")
        park(folder)

    def guarded(hook: Callable[..., None]) -> Callable[..., None]:
        """Our own mistakes are not the script's: they must not reach its handlers."""

        def call(*args: Any) -> None:
            try:
                hook(*args)
            except Exception as error:
                if wanted.watch:  # which goes on without us
                    recorder.uninstall()
                    note("unwatched", told(error))
                else:
                    note("failed", told(error))
                    park(folder)

        return call

    if wanted.probe is not None:
        from freezecheck.probe import child

        child.start(folder, note, wanted.probe)
        return
    recorder = Recorder(ready, wanted.steps)
    if not wanted.watch:
        recorder.on_optimizer = optimizer
        recorder.on_backward = backward
    listens = not wanted.first_step and not wanted.fake
    pulse = Pulse(recorder, lambda error: note("problem", told(error))) if listens else None
    if pulse is not None:
        pulse.install(Patches())
    for name in ("before_step", "after_step"):
        setattr(recorder, name, guarded(getattr(recorder, name)))
    _prepare(wanted, folder, note)
    if not wanted.first_step:
        _go_on(recorder, pulse, folder, note)
    # Models are found among all live objects, of which torch alone makes 250,000;
    # frozen ones are passed over. The script's own come later.
    gc.freeze()
    recorder.install(light=wanted.watch)
    global running
    running = folder, recorder, note


def _prepare(wanted: Plan, folder: str, note: Note) -> None:
    """What the run is to do otherwise than by itself."""
    patches = Patches()  # for good: the process ends with the run
    if wanted.batches is not None:
        from freezecheck.live import shortened

        shortened.install(patches, wanted.batches, note)
    aside = wanted.fake or wanted.batches is not None  # what is saved is not what was trained
    if aside and not wanted.watch and not wanted.sandbox:
        from freezecheck.live import diverted

        diverted.install(patches, os.path.join(folder, "files"), note)
    if not wanted.weights:
        from freezecheck.live import weightless

        weightless.install(patches, note)
    if wanted.fake:
        from freezecheck.live import fake

        fake.install(patches, note)


def _go_on(recorder: Recorder, pulse: Pulse | None, folder: str, note: Note) -> None:
    """Beyond the first step: a report for each phase and each turn that the losses take, one at
    the end, and news of the steps."""
    pid, told = os.getpid(), [0.0]
    if "freezecheck.live.shortened" in sys.modules:
        recorder.epoch = sys.modules["freezecheck.live.shortened"].epoch

    def phase(_: Recorder) -> None:
        write(folder, recorder, stepped=True)
        note("phase", str(len(recorder.phases)))

    def turn(_: Trace) -> None:
        write(folder, recorder, stepped=True)
        note("trace", str(len(recorder.traces)))

    def step(_: Recorder) -> None:
        now = time.monotonic()
        if now - told[0] >= _NEWS:
            told[0] = now
            note("step", str(recorder.steps), str(recorder.epoch() or ""))

    def end() -> None:
        recorder.end()
        if pulse is not None and os.getpid() == pid:
            pulse.end()
        if os.getpid() == pid and recorder.phases:
            write(folder, recorder, stepped=True)
            note("step", str(recorder.steps), str(recorder.epoch() or ""))

    recorder.on_phase, recorder.on_step = phase, step
    if pulse is not None:
        pulse.told = turn
    atexit.register(end)


def write(
    folder: str, recorder: Recorder, *, stepped: bool, snapshot: Snapshot | None = None
) -> None:
    """Write this process's report, on `snapshot` where it is not the recorder's own. It appears
    whole or not at all."""
    timeline = recorder.timeline()
    timeline.complete = stepped
    if snapshot is None and not recorder.phases:
        snapshot = recorder.snapshot()
    report = {
        "rank": _rank(),
        "stepped": stepped,
        "snapshot": None if snapshot is None else snapshot.to_dict(),
        "timeline": encode(timeline),
        "traces": [encode(trace) for trace in recorder.traces],
    }
    # `dump` is ten times slower than `dumps`.
    text = json.dumps(report, allow_nan=False)[:-1] + f', "phases": [{_phases(recorder.phases)}]}}'
    leave(os.path.join(folder, f"{os.getpid()}.json"), text)


def _phases(phases: list[Phase]) -> str:
    """Phases as JSON. The report is written anew with each, and they may be large: what was
    turned into text once is kept."""
    for phase in phases[len(_texts) :]:
        _texts.append(json.dumps(phase.snapshot.to_dict(), allow_nan=False))
    rows = []
    for phase, snapshot in zip(phases, _texts):
        facts = {key: getattr(phase, key) for key in ("first", "last", "events", "epoch")}
        rows.append(f'{json.dumps(facts)[:-1]}, "snapshot": {snapshot}}}')
    return ", ".join(rows)


def _size(recorder: Recorder) -> int:
    """Tensors in the first optimizer."""
    first = recorder.optimizers[0]()
    return 0 if first is None else sum(len(group["params"]) for group in first.param_groups)


def _early(folder: str, recorder: Recorder, note: Note) -> None:
    """What is known so far, in case the script never gets to a step."""
    try:
        write(folder, recorder, stepped=False)
    except Exception as error:
        note("problem", told(error))


def _rank() -> int | None:
    """Which of several processes this is."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    text = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or ""
    return int(text) if text.isdecimal() else None
