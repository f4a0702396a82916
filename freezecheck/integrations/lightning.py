"""Lightning: `Trainer(callbacks=[FreezeCheck()])`, of `lightning` or `pytorch_lightning`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from freezecheck.integrations.missing import missing
from freezecheck.integrations.watching import Watching

if TYPE_CHECKING:
    from lightning.pytorch import Callback
elif "pytorch_lightning" in sys.modules and "lightning" not in sys.modules:
    from pytorch_lightning import Callback
else:
    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError:
        try:
            from pytorch_lightning import Callback
        except ModuleNotFoundError as error:
            raise missing(error, "pytorch_lightning", "lightning") from None


class FreezeCheck(Watching, Callback):
    """Watches `trainer.fit`: the module, its optimizers and schedulers, as `freezecheck.watch` does.

    Takes the options of `freezecheck.watch`. `findings` and `report` tell what was found.
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        self.begin(trainer.model, trainer.optimizers, schedulers)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.end()
