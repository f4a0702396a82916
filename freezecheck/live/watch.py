"""A real training run, looked over its shoulder: `with freezecheck.watch(model, optimizer): ...`.

The recorder listens as it does in an inspected script, but only between forward passes, and
what the rules find is told when it begins to be so.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from freezecheck import catalogue
from freezecheck.chapters import chapters
from freezecheck.check import check, fresh
from freezecheck.finding import Finding, Severity
from freezecheck.live import api, optimizers, schedulers
from freezecheck.live.patches import Patches
from freezecheck.live.pulse import Pulse
from freezecheck.live.record import Recorder
from freezecheck.report.concise import sentence
from freezecheck.report.result import Report
from freezecheck.snapshot import Snapshot

logger = logging.getLogger("freezecheck")


class SetupWarning(UserWarning):
    """A finding of a watched run."""


class Watch:
    """Watch a training run: what is wrong is told at the step since which it is so.

        with freezecheck.watch(model, optimizer, scheduler):
            train(...)

    `start` and `stop` do what entering and leaving do, and may be repeated.

    Args:
        model, optimizer, scheduler: as for `inspect`. Optimizers that are built later from the
            same parameters are watched, too.
        every: compare the setup at each n-th step only.
        on_finding: called with each `Finding` of warning or error level; or "warn" (a
            `SetupWarning`) or "log" (logger "freezecheck").
        stop_on: "error" or "warning": raise SetupError from within the step at which a finding
            of that severity comes up.
        select, ignore: rules by code (`FC201`), prefix (`FC2`) or name.
        tripwires: listen to losses and predictions, too, for FC601 to FC603. No step waits
            for a GPU.

    At each step only identities, flags and modes are compared; everything is captured where
    they differ. Nothing of the run is changed: it ends with the same weights, bit for bit.

    Raises TypeError and ValueError as `inspect` does.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        scheduler: Any = None,
        *,
        every: int = 1,
        on_finding: Callable[[Finding], None] | str = "warn",
        stop_on: str | None = None,
        select: Iterable[str] | None = None,
        ignore: Iterable[str] | None = None,
        tripwires: bool = True,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, not {every}")
        if not callable(on_finding) and on_finding not in _WAYS:
            raise ValueError(f"on_finding must be 'warn', 'log' or a function, not {on_finding!r}")
        self._given = [list(things.values()) for things in api.objects(model, optimizer, scheduler)]
        self._rules = catalogue.select(select, ignore)
        self._every = every
        self._tell = on_finding if callable(on_finding) else _WAYS[on_finding]
        self._stop_on = None if stop_on is None else Severity.parse(stop_on)
        self._tripwires = tripwires
        self._recorder: Recorder | None = None
        self._pulse: Pulse | None = None
        self._patches = Patches()  # of the pulse
        self._known: set[object] = set()
        self.findings: tuple[Finding, ...] = ()

    def start(self) -> Watch:
        """Begin to listen. Nothing happens if it has begun; what has ended begins no more."""
        if self._recorder is None:
            self._recorder = recorder = Recorder(lambda _: None, None, every=self._every)
            recorder.on_phase = self._guarded
            models, opts, scheds = self._given
            # Wrappers, such as accelerate's, take no steps themselves.
            recorder.adopt(
                models,
                [optimizers.unwrap(optimizer) for optimizer in opts],
                [schedulers.unwrap(scheduler) for scheduler in scheds],
            )
            self._given = []  # what the user drops is to go
            if self._tripwires:
                self._pulse = Pulse(recorder, _deaf)
                self._pulse.told = lambda trace: self._guarded(recorder)
                self._pulse.install(self._patches)
            recorder.install(light=True)
        return self

    def stop(self) -> None:
        """Take everything out again. What was found is kept."""
        if self._recorder is not None:
            self._recorder.end()
            self._recorder.uninstall()
        if self._pulse is not None:
            self._patches.undo()
            pulse, self._pulse, self._stop_on = self._pulse, None, None  # nothing is left to stop
            pulse.end()

    def __enter__(self) -> Watch:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def report(self) -> Report:
        """What was found so far, the setup, and the story of the run."""
        if self._recorder is None or not self._recorder.phases:
            return Report(self.findings, Snapshot(), ("no optimizer step was seen",))
        phases = tuple(self._recorder.phases)
        story = chapters(phases, self._recorder.timeline())
        return Report(self.findings, phases[0].snapshot, phases=phases, story=story)

    def _guarded(self, recorder: Recorder) -> None:
        """Our own mistakes are not the run's: it goes on without us."""
        try:
            new = self._look(recorder)
        except Exception as error:
            self.stop()
            logger.warning(
                "freezecheck failed and watches no more: %s: %s", type(error).__name__, error
            )
            return
        self._deliver(new)

    def _look(self, recorder: Recorder) -> list[Finding]:
        """The findings that are new since the last look."""
        found = check(
            self._rules,
            timeline=recorder.timeline(),
            phases=recorder.phases,
            traces=recorder.traces,
        )
        new = fresh(found, self._known)
        self.findings += tuple(new)
        return new

    def _deliver(self, new: list[Finding]) -> None:
        for finding in new:
            if finding.severity >= Severity.WARNING:
                self._tell(finding)
        level = self._stop_on
        fatal = [f for f in new if level is not None and f.severity >= level]
        if fatal:
            self.stop()  # callbacks of some frameworks are not told when a run fails
            raise api.SetupError(api.explain([], fatal, self.report), self.report)


watch = Watch  # as a call it reads better so


def _deaf(error: Exception) -> None:
    logger.warning(
        "freezecheck failed and hears losses no more: %s: %s", type(error).__name__, error
    )


def _warn(finding: Finding) -> None:
    warnings.warn(sentence(finding), SetupWarning, stacklevel=_depth())


def _log(finding: Finding) -> None:
    level = logging.ERROR if finding.severity is Severity.ERROR else logging.WARNING
    logger.log(level, "%s", sentence(finding))


def _depth() -> int:
    """How far up the user's own line is that led here."""
    import sys

    from freezecheck.live import frames

    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and not frames.is_users(frame.f_code.co_filename):
        depth, frame = depth + 1, frame.f_back
    return depth


_WAYS: dict[str, Callable[[Finding], None]] = {"warn": _warn, "log": _log}
