"""fastai: `Learner(..., cbs=FreezeCheckCallback())` or `learn.fine_tune(..., cbs=...)`."""

from __future__ import annotations

from freezecheck.integrations.missing import missing
from freezecheck.integrations.watching import Watching

try:
    from fastai.callback.core import Callback
except ModuleNotFoundError as error:
    raise missing(error, "fastai") from None


class FreezeCheckCallback(Watching, Callback):
    """Watches `learn.fit` and all that is built on it, as `freezecheck.watch` does.

    Takes the options of `freezecheck.watch`. `fine_tune` fits twice: `findings` and `report`
    tell about the latest fit. The trial steps of `lr_find` are not watched.
    """

    def before_fit(self) -> None:
        if not hasattr(self.learn, "lr_finder"):
            self.begin(self.learn.model, self.learn.opt)

    def after_fit(self) -> None:
        self.end()
