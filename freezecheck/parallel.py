"""Many files, several processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from freezecheck.arguments import BadInput
from freezecheck.lint import Checked, Linter, Settings

_CHUNK = 8  # files that a process is handed at a time

_linter: Linter  # of a worker


def check(files: Sequence[str], settings: Settings, jobs: int) -> list[Checked]:
    """What looking at each file gave, in their order."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # We have no threads, so forking is sound, and spares the workers their imports.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)
    pool = ProcessPoolExecutor(jobs, context, _start, (settings, files))
    try:
        return [*pool.map(_check, files, chunksize=_CHUNK)]
    except BrokenProcessPool:
        raise BadInput(
            "a process was killed from outside, perhaps for want of memory; --jobs 1 uses one alone"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def processors() -> int:
    """How many processes can really run at once."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(settings: Settings, files: Sequence[str]) -> None:
    global _linter
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once, and says nothing
    _linter = Linter(settings, files)


def _check(path: str) -> Checked:
    return _linter.check(path)
