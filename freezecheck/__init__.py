"""freezecheck: a linter for PyTorch fine-tuning.

The names below are imported when first used, so that a command never pays for
what it does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from freezecheck.finding import Edit, Finding, Fix, Note, Severity, Site
    from freezecheck.live.api import SetupError, assert_sane, inspect
    from freezecheck.live.forecast import Forecast, forecast
    from freezecheck.live.watch import SetupWarning, Watch, watch
    from freezecheck.probe.api import OutOfMemory, ProbeReport, probe
    from freezecheck.report.result import Report
    from freezecheck.snapshot import Snapshot
    from freezecheck.timeline import Event, Timeline

_HOMES = {
    "Edit": "finding",
    "Event": "timeline",
    "Finding": "finding",
    "Fix": "finding",
    "Forecast": "live.forecast",
    "Note": "finding",
    "OutOfMemory": "probe.memory",
    "ProbeReport": "probe.report",
    "Report": "report.result",
    "SetupError": "live.api",
    "SetupWarning": "live.watch",
    "Severity": "finding",
    "Site": "finding",
    "Snapshot": "snapshot",
    "Timeline": "timeline",
    "Watch": "live.watch",
    "assert_sane": "live.api",
    "forecast": "live.forecast",
    "inspect": "live.api",
    "probe": "probe",
    "watch": "live.watch",
}

__all__ = [
    "Edit",
    "Event",
    "Finding",
    "Fix",
    "Forecast",
    "Note",
    "OutOfMemory",
    "ProbeReport",
    "Report",
    "SetupError",
    "SetupWarning",
    "Severity",
    "Site",
    "Snapshot",
    "Timeline",
    "Watch",
    "assert_sane",
    "forecast",
    "inspect",
    "probe",
    "watch",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'freezecheck' has no attribute {name!r}")
    import importlib

    module = importlib.import_module(f"freezecheck.{home}")
    value = module if home == name else getattr(module, name)  # the package `probe` can be called
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
