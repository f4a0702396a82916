"""If the runner goes, the run goes: by a signal that the kernel sends, whatever the script does.

The runner holds a named pipe open for as long as it lives. When its last writer has gone, the
kernel tells those who asked to be told (fcntl(2), F_SETSIG); we ask to be told by SIGKILL. No
thread, no polling, and nothing that a script could catch. Linux alone has this.
"""

from __future__ import annotations

import os
import signal
import sys


def tie(pipe: str) -> None:
    """End the process group of this process with the last writer of `pipe`."""
    if not sys.platform.startswith("linux"):
        return
    import fcntl

    low = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:  # out of the way of scripts that count on low descriptors
        held = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 200)
    finally:
        os.close(low)
    fcntl.fcntl(held, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(held, getattr(fcntl, "F_SETSIG", 10), signal.SIGKILL)
    fcntl.fcntl(held, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    try:
        gone = os.read(held, 1) == b""  # the runner was faster
    except BlockingIOError:
        gone = False
    if gone:
        os.killpg(0, signal.SIGKILL)
