"""Runs first in every Python process of an inspected command (see `freezecheck.live.runner`).

Kept to words that any Python understands: a command may start any.
"""

import os
import sys

# ruff: noqa: UP031, UP036
_HERE = os.path.dirname(os.path.abspath(__file__))

if sys.version_info >= (3, 8):
    try:
        import freezecheck_attach

        freezecheck_attach.start()
    except Exception as error:  # the script must run, come what may
        sys.stderr.write("freezecheck: could not start inside this process: %r\n" % (error,))

while _HERE in sys.path:
    sys.path.remove(_HERE)
sys.path_importer_cache.pop(_HERE, None)

# The sitecustomize that this one shadows, or the usual ImportError, which
# `site` passes over: either way as if this file had never been.
del sys.modules["sitecustomize"]
import sitecustomize  # noqa: E402, F401
