"""What the callbacks of all frameworks share: one watch at a time, begun and ended by them."""

from __future__ import annotations

from typing import Any

from freezecheck.finding import Finding
from freezecheck.live import values
from freezecheck.live.watch import Watch
from freezecheck.report.result import Report


class Watching:
    """The options of `freezecheck.watch`, and the watch over the training run at hand.

    `watch` is the latest `Watch`, None before the first run. It begins anew with each run, so
    that one callback can see several.
    """

    watch: Watch | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        # Wrong options are told now, not when training starts.
        Watch(values.torch().nn.Identity(), None, **options)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found in the latest run, so far."""
        return () if self.watch is None else self.watch.findings

    @property
    def report(self) -> Report | None:
        """What is known of the latest run; None before the first."""
        return None if self.watch is None else self.watch.report

    def begin(self, model: Any, optimizer: Any, scheduler: Any = None) -> None:
        """Training is about to start with these."""
        self.end()
        self.watch = Watch(model, optimizer, scheduler, **self.options).start()

    def end(self) -> None:
        """Training is over, one way or another. Harmless when called twice."""
        if self.watch is not None:
            self.watch.stop()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles of the callback: without the run at hand."""
        return {key: value for key, value in vars(self).items() if key != "watch"}
