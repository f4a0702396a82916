"""ignite: `FreezeCheck(model, optimizer).attach(trainer)`."""

from __future__ import annotations

from typing import Any

from freezecheck.integrations.missing import missing
from freezecheck.integrations.watching import Watching

try:
    from ignite.engine import Engine, Events
except ModuleNotFoundError as error:
    raise missing(error, "ignite", "pytorch-ignite") from None


class FreezeCheck(Watching):
    """Watches `trainer.run`, as `freezecheck.watch` does.

    Takes a model, its optimizer, perhaps a scheduler, and the options of `freezecheck.watch`.
    `findings` and `report` tell what was found.
    """

    def __init__(self, model: Any, optimizer: Any, scheduler: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self._given = model, optimizer, scheduler

    def attach(self, engine: Engine) -> FreezeCheck:
        """Watch each run of this engine."""
        engine.add_event_handler(Events.STARTED, lambda _: self.begin(*self._given))
        # Not at EXCEPTION_RAISED: an engine with a handler there no longer raises.
        for over in (Events.COMPLETED, Events.TERMINATE):
            engine.add_event_handler(over, lambda _: self.end())
        return self
