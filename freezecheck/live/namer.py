"""Names given at once, to what is heard so late that its objects may be gone when the run ends."""

from __future__ import annotations

from typing import Any

from freezecheck.live.marks import Mark
from freezecheck.live.naming import Names
from freezecheck.live.record import Recorder


class Namer:
    """Names marks after the models that were captured last."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._models: Any = None  # as they were when the names were found
        self._names: Names | None = None

    def give(self, mark: Mark) -> None:
        """Name what an event is about, if it is about these models."""
        references = self._recorder.models
        models = {label: root for label, ref in references.items() if (root := ref()) is not None}
        if len(models) < len(references):
            return  # an id may belong to something else by now
        if self._models is not references or self._names is None:
            self._names = Names(models, self._recorder)
            self._models = references
        self._names.give(mark)
