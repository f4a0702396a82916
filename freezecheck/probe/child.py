"""Inside the process of a script that is probed: train, probe, tell, and hold still."""

from __future__ import annotations

import atexit
import gc
import json
import os
import time
from collections.abc import Callable
from typing import Any

from freezecheck.cost import Cost
from freezecheck.live.plan import Probing
from freezecheck.live.record import Recorder
from freezecheck.live.still import leave, park, told
from freezecheck.plain import encode
from freezecheck.probe.memory import OutOfMemory
from freezecheck.probe.scripted import Scripted, Unfit
from freezecheck.warmup import Progress

Note = Callable[..., None]

_NEWS = 0.1  # seconds between two words on how far it is


def start(folder: str, note: Note, wanted: Probing) -> None:
    """Record this process's training and probe it: after as many steps as are wanted, or where the
    script ends before.

    `folder` is the folder of the run, `note` tells the runner a line.
    """
    pid, last = os.getpid(), [0.0]

    def progress(now: Progress) -> None:
        if time.monotonic() - last[0] >= _NEWS:
            last[0] = time.monotonic()
            note("progress", json.dumps(encode(now)))

    def finish() -> None:
        result = scripted.probe()
        data = encode(result) if isinstance(result, Cost) else result.to_dict()
        kind = "cost" if wanted.dry else "probe"
        leave(os.path.join(folder, f"{pid}.{kind}"), json.dumps(data, allow_nan=False))
        note("report")
        park(folder)

    def guarded(hook: Callable[..., None]) -> Callable[..., None]:
        """Nothing of ours reaches the script's handlers."""

        def call(*args: Any) -> None:
            try:
                hook(*args)
            except (Unfit, OutOfMemory) as error:
                note("refused", str(error))
                note("report")
                park(folder)
            except Exception as error:
                note("failed", told(error))
                park(folder)

        return call

    def end() -> None:
        if os.getpid() == pid and scripted.begun:
            recorder.end()
            guarded(finish)()

    recorder = Recorder(lambda _: finish(), wanted.after + wanted.recorded)
    recorder.on_optimizer = lambda: note("optimizer")
    recorder.on_backward = lambda: note("backward")
    scripted = Scripted(recorder, wanted, progress, finish)
    scripted.install()
    for name in ("before_step", "after_step", "scaled"):
        setattr(recorder, name, guarded(getattr(recorder, name)))
    atexit.register(end)
    gc.freeze()  # models are found among all objects; torch's own are passed over
    recorder.install(light=True)
