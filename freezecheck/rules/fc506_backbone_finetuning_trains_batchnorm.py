from __future__ import annotations

from collections.abc import Iterator

from freezecheck import program
from freezecheck.finding import Finding, Severity, Site
from freezecheck.rule import Rule
from freezecheck.snapshot import Norm, Param, Snapshot, count, summarise
from freezecheck.timeline import FACT, FLAG, Event, Timeline


class BackboneFinetuningTrainsBatchnorm(Rule):
    """Lightning's fine-tuning callback freezes the backbone, but not its BatchNorm.

    ## What it does

    Points out BatchNorm layers that `BackboneFinetuning`, or another `BaseFinetuning`
    callback, leaves trainable and in train mode in a part that is otherwise frozen.

    ## Why it matters

    `BaseFinetuning.freeze` has `train_bn=True` by default: it freezes everything but
    BatchNorm. The backbone's running statistics follow the new data from the first step,
    while the rest of it stands still. `BackboneFinetuning(train_bn=False)` does not change
    that: its `freeze_before_training` does not pass the option on.

    ## Bad

    ```python needs=lightning
    import lightning, torch, torchvision
    from lightning.pytorch.callbacks import BackboneFinetuning
    from torch.nn import functional as F

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.backbone = torchvision.models.resnet18(weights="DEFAULT")
            self.backbone.fc = torch.nn.Identity()
            self.head = torch.nn.Linear(512, 5)

        def training_step(self, batch, index):
            x, y = batch
            return F.cross_entropy(self.head(self.backbone(x)), y)

        def configure_optimizers(self):
            return torch.optim.SGD(filter(lambda p: p.requires_grad, self.parameters()), lr=0.01)

    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4))
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    callback = BackboneFinetuning(unfreeze_backbone_at_epoch=5)
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=10, callbacks=[callback], **quiet)
    trainer.fit(Classifier(), torch.utils.data.DataLoader(data, batch_size=4))  # <- FC506
    ```

    fastai freezes all but BatchNorm as well:

    ```python source
    from fastai.vision.all import *

    dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, item_tfms=Resize(224))
    learn = vision_learner(dls, resnet34, metrics=error_rate)
    learn.fine_tune(3)  # <- FC506
    ```

    ## Good

    ```python source
    from fastai.vision.all import *

    dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, item_tfms=Resize(224))
    learn = vision_learner(dls, resnet34, metrics=error_rate, train_bn=False)
    learn.fine_tune(3)
    learn.unfreeze()
    learn.fit_one_cycle(2, lr_max=slice(1e-6, 1e-4))
    ```

    ```python needs=lightning
    import lightning, torch, torchvision
    from lightning.pytorch.callbacks import BackboneFinetuning
    from torch.nn import functional as F

    class WholeBackboneFinetuning(BackboneFinetuning):
        def freeze_before_training(self, pl_module):
            pl_module.backbone.requires_grad_(False)

        def on_train_epoch_start(self, trainer, pl_module):
            super().on_train_epoch_start(trainer, pl_module)
            if trainer.current_epoch < self.unfreeze_backbone_at_epoch:
                pl_module.backbone.eval()

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.backbone = torchvision.models.resnet18(weights="DEFAULT")
            self.backbone.fc = torch.nn.Identity()
            self.head = torch.nn.Linear(512, 5)

        def training_step(self, batch, index):
            x, y = batch
            return F.cross_entropy(self.head(self.backbone(x)), y)

        def configure_optimizers(self):
            return torch.optim.SGD(filter(lambda p: p.requires_grad, self.parameters()), lr=0.01)

    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4))
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    callback = WholeBackboneFinetuning(unfreeze_backbone_at_epoch=5)
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=10, callbacks=[callback], **quiet)
    trainer.fit(Classifier(), torch.utils.data.DataLoader(data, batch_size=4))
    ```

    ## How it is found

    In a recorded run: the trainer has such a callback, or fastai's `freeze()` was called, and
    in a stage whose other parameters are all frozen BatchNorm layers are trainable and run in
    train mode. With `BackboneFinetuning(train_bn=False)`, which says that this is not wanted, it
    is a warning.

    In a text: the module's life in `trainer.fit` is gone through with its callbacks, and
    the layers that the callback spares are known, trainable and in train mode at the first
    step. Where a base model's layers are not known, it is silent. fastai's `freeze()`,
    and `vision_learner` and `fine_tune`, which call it, are told the same way.

    ## Limits

    With `Learner(train_bn=False)` fastai freezes the layers' weights, but their running
    statistics still move: that is FC401's to tell.

    ## References

    - [lightning.pytorch.callbacks.BackboneFinetuning](https://lightning.ai/docs/pytorch/stable/api/lightning.pytorch.callbacks.BackboneFinetuning.html)
    - [lightning.pytorch.callbacks.BaseFinetuning](https://lightning.ai/docs/pytorch/stable/api/lightning.pytorch.callbacks.BaseFinetuning.html)
    """

    code = "FC506"
    name = "backbone-finetuning-trains-batchnorm"
    severity = Severity.INFO
    explains = ("FC201", "FC401")

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        fact = next((e for e in past.of(FACT) if e.value in _FREEZES), None)
        if fact is None:
            return
        for index in range(len(now.models)):
            left = _left_training(now, index)
            if left:
                yield self._judge(now, past, index, left, fact)

    def in_source(self, world: program.World) -> Iterator[Finding]:
        told: set[Site | None] = set()
        for event in world.of(program.ATTRIBUTE):
            if event.data.get("attribute") == "fastai.freeze" and event.site not in told:
                told.add(event.site)
                yield self.finding(
                    f"fastai freezes {event.value}, but not its BatchNorm layers: their weights and"
                    " running statistics move from the first step.",
                    site=event.site,
                    symbol=event.value,
                    fix=_FREEZES["fastai-freeze"],
                )
        for event in world.of(program.FLAG):
            if event.data.get("via") != "finetuning" or event.value is not True:
                continue
            step = next(world.since(event, program.STEP), None)
            left = [] if step is None else [p for p in event.params if _trains(p, step)]
            if left and "callback" in event.data and event.site not in told:
                told.add(event.site)
                yield self._in_text(event, left)

    def _in_text(self, event: program.Event, left: list[program.Param]) -> Finding:
        norms = list(dict.fromkeys(p.module.path for p in left))
        unheeded = event.data["train_bn"] is False
        return self.finding(
            f"{event.data['callback']} leaves {count(len(norms), 'BatchNorm layer')} trainable and"
            f" in train mode in what it froze: {summarise(norms)}. Their weights and running"
            f" statistics move from the first step.{_UNHEEDED if unheeded else ''}",
            site=event.site,
            symbol=norms[0],
            fix=_FIX,
            severity=Severity.WARNING if unheeded else self.severity,
            subject=left[0].module.root.shown,
        )

    def _judge(
        self, now: Snapshot, past: Timeline, index: int, left: list[Norm], fact: Event
    ) -> Finding:
        model, callback = now.models[index], fact.data["callback"]
        paths = {norm.path for norm in left}
        own = [p for p in now.of_model(index) if p.module in paths]
        moving = "weights and running statistics" if any(p.held for p in own) else "statistics"
        unheeded = fact.data.get("train_bn") is False
        option = _UNHEEDED if unheeded else ""
        names = [now.path(index, norm.path) for norm in left]
        return self.finding(
            f"{callback} leaves {count(len(left), 'BatchNorm layer')} trainable and in train mode"
            f" in what it froze: {summarise(names)}. Their {moving} move from the first step."
            + option,
            site=_site(now, past, {now.path(index, p.name) for p in own}),
            symbol=names[0],
            fix=_FREEZES[fact.value],
            severity=Severity.WARNING if unheeded else self.severity,
            subject=model.label if _nothing_else_missing(now, index, own) else (),
        )


_UNHEEDED = " train_bn=False counts only once the backbone is unfrozen."
_FIX = (
    "freeze the backbone in freeze_before_training() with requires_grad_(False), and put it in"
    " eval mode at the start of each epoch until it is unfrozen"
)

# Who freezes all but BatchNorm -> what to do where that is not meant.
_FREEZES = {
    "lightning-finetuning": _FIX,
    "fastai-freeze": "make the Learner with train_bn=False, if they are meant to stay",
}


def _trains(param: program.Param, step: program.Event) -> bool:
    """A parameter of a BatchNorm layer that trains, in train mode, at a step."""
    module = param.module
    known = module.norm == "batch" and not module.name.startswith("<") and not module.escaped
    return known and param.trains(step.index) is True and module.learns(step.index) is True


def _left_training(now: Snapshot, model: int) -> list[Norm]:
    """BatchNorm layers that train in stages where all else is frozen."""
    norms = [n for n in now.norms if n.model == model and n.has_stats]
    paths = {n.path for n in norms}
    frozen = {
        stage
        for stage in range(len(now.models[model].stages))
        if (rest := [p for p in now.by_stage[model, stage] if p.module not in paths])
        and not any(p.trainable for p in rest)
    }
    return [n for n in norms if n.stage in frozen and n.trainable and n.training]


def _nothing_else_missing(now: Snapshot, model: int, own: list[Param]) -> bool:
    """What is in no optimizer is in these layers, which the callback will add."""
    mine = {id(p) for p in own}
    return all(id(p) in mine for p in now.missing if p.model == model)


def _site(now: Snapshot, past: Timeline, names: set[str]) -> Site | None:
    written = [e.site for e in past.of(FLAG) if e.value and names & set(e.names)]
    return next(reversed(written), None) or next((o.site for o in now.optimizers if o.site), None)
