"""Hugging Face: `Trainer(callbacks=[FreezeCheckCallback()])`."""

from __future__ import annotations

from typing import Any

from freezecheck.integrations.missing import missing
from freezecheck.integrations.watching import Watching

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    raise missing(error, "transformers") from None


class FreezeCheckCallback(Watching, TrainerCallback):
    """Watches `trainer.train()`: the model, optimizer and scheduler, as `freezecheck.watch` does.

    Takes the options of `freezecheck.watch`. `findings` and `report` tell what was found.
    """

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        **_: Any,
    ) -> None:
        self.begin(model, optimizer, lr_scheduler)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.end()
