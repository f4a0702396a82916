"""The callbacks of each framework: a run that unfreezes late, with and without the optimizer's knowing.

The network is a backbone and a head; its backbone is unfrozen at the start of the second
epoch of two batches, so that the defect is there from step 3 on.
"""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import freezecheck

pytestmark = pytest.mark.frameworks

Run = Callable[..., Any]  # (broken, **options) -> the callback, after its run


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, 3)
        with torch.no_grad():  # as if it were pretrained
            for p in self.backbone.parameters():
                p.mul_(1.5)
        self.backbone.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))

    def unfreeze(self, optimizer: Any = None, broken: bool = True) -> None:
        self.backbone.requires_grad_(True)
        if not broken:
            optimizer.add_param_group({"params": list(self.backbone.parameters()), "lr": 1e-4})


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(16, 8), torch.randint(3, (16,))), batch_size=8)


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=1e-2, momentum=0.9)


def lightning(broken: bool, **options: Any) -> Any:
    home = pytest.importorskip("lightning.pytorch")
    from freezecheck.integrations.lightning import FreezeCheck

    return _lightning(home, FreezeCheck, broken, **options)


def pytorch_lightning(broken: bool, **options: Any) -> Any:
    home = pytest.importorskip("pytorch_lightning")
    from freezecheck.integrations.lightning import FreezeCheck

    return _lightning(home, FreezeCheck, broken, **options)


def _lightning(home: Any, kind: Any, broken: bool, **options: Any) -> Any:
    class Module(home.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                self.net.unfreeze(self.optimizers().optimizer, broken)

        def configure_optimizers(self) -> Any:
            optimizer = sgd(self.net.head)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 2},
            }

    callback = kind(**options)
    names = "logger enable_checkpointing enable_progress_bar enable_model_summary".split()
    trainer = home.Trainer(
        max_epochs=3, accelerator="cpu", callbacks=[callback], **dict.fromkeys(names, False)
    )
    trainer.fit(Module(), loader())
    return callback


def transformers(broken: bool, **options: Any) -> Any:
    home = pytest.importorskip("transformers")
    from freezecheck.integrations.transformers import FreezeCheckCallback

    class Unfreezing(home.TrainerCallback):  # type: ignore[misc,name-defined]
        def on_epoch_begin(self, _: Any, state: Any, __: Any, **given: Any) -> None:
            if round(state.epoch or 0) == 1:
                given["model"].net.unfreeze()

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": nn.functional.cross_entropy(self.net(x), labels)}

    rows = [{"x": torch.randn(8), "labels": i % 3} for i in range(16)]
    callback = FreezeCheckCallback(**options)
    arguments = home.TrainingArguments(
        output_dir="unused",
        per_device_train_batch_size=8,
        num_train_epochs=3,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        lr_scheduler_type="constant",
    )
    model = Wrapped()
    trainer = home.Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        callbacks=[Unfreezing(), callback],
        optimizers=(sgd(model.net.head if broken else model), None),
    )
    trainer.train()
    return callback


def ignite(broken: bool, **options: Any) -> Any:
    home = pytest.importorskip("ignite.engine")
    from freezecheck.integrations.ignite import FreezeCheck

    net = Net()
    optimizer = sgd(net.head)
    trainer = home.create_supervised_trainer(net, optimizer, nn.functional.cross_entropy)
    once = home.Events.EPOCH_COMPLETED(once=1)
    trainer.add_event_handler(once, lambda: net.unfreeze(optimizer, broken))
    callback = FreezeCheck(net, optimizer, **options).attach(trainer)
    trainer.run(loader(), max_epochs=3)
    return callback


def fastai(broken: bool, **options: Any) -> Any:
    pytest.importorskip("fastai")
    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import SGD

    from freezecheck.integrations.fastai import FreezeCheckCallback

    class Unfreezing(Callback):  # type: ignore[misc]
        def before_epoch(self) -> None:
            if self.learn.epoch == 1:
                self.learn.model.backbone.requires_grad_(True)

    def splitter(net: Net) -> list[list[nn.Parameter]]:
        groups = [list(net.backbone.parameters()), list(net.head.parameters())]
        return groups[1:] if broken else groups

    callback = FreezeCheckCallback(**options)
    learn = Learner(
        DataLoaders(loader(), loader()),
        Net(),
        loss_func=nn.functional.cross_entropy,
        opt_func=SGD,
        splitter=splitter,
        cbs=[Unfreezing(), callback],
    )
    with learn.no_logging():
        learn.fit(3, lr=1e-2)
    return callback


def accelerate(broken: bool, **options: Any) -> Any:
    home = pytest.importorskip("accelerate")

    accelerator = home.Accelerator(cpu=True)
    net = Net()
    optimizer = sgd(net.head)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 100)
    model, optimizer, batches, scheduler = accelerator.prepare(net, optimizer, loader(), scheduler)
    with freezecheck.watch(model, optimizer, scheduler, **options) as watch:
        for epoch in range(3):
            if epoch == 1:
                net.unfreeze(optimizer, broken)
            for x, y in batches:
                optimizer.zero_grad()
                accelerator.backward(nn.functional.cross_entropy(model(x), y))
                optimizer.step()
                scheduler.step()
    return watch


RUNS = [lightning, pytorch_lightning, transformers, ignite, fastai, accelerate]
every_framework = pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)


def serious(callback: Any) -> list[tuple[str, int | None]]:
    return [(f.code, f.step) for f in callback.findings if f.severity > freezecheck.Severity.INFO]


def hooks() -> int:
    """Of the whole process: nothing of ours stays behind."""
    from torch.nn.modules import module
    from torch.optim import optimizer

    return sum(
        map(
            len,
            (
                optimizer._global_optimizer_pre_hooks,
                optimizer._global_optimizer_post_hooks,
                module._global_forward_pre_hooks,
            ),
        )
    )


@every_framework
def test_a_late_unfreeze_is_told_at_its_step(run: Run):
    told: list[freezecheck.Finding] = []
    callback = run(True, on_finding=told.append)
    assert serious(callback) == [("FC201", 3)]
    assert [f.code for f in told] == ["FC201"]
    assert "backbone" in told[0].symbol
    assert "in no optimizer" in str(callback.report)


@every_framework
def test_a_healthy_run_has_no_findings(run: Run):
    callback = run(False, on_finding=lambda finding: None)
    assert serious(callback) == []
    assert [chapter.first for chapter in callback.report.story] == [1, 3]


@every_framework
def test_the_run_is_stopped_on_an_error(run: Run):
    with pytest.raises(freezecheck.SetupError, match="FC201"):
        run(True, on_finding="log", stop_on="error")


@every_framework
def test_selected_rules_only(run: Run):
    assert serious(run(True, on_finding="log", ignore=["FC201"])) == []


def test_what_accelerate_prepared_is_inspected_as_itself():
    home = pytest.importorskip("accelerate")
    net = Net()
    optimizer = sgd(net.head)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 100)
    prepared = home.Accelerator(cpu=True).prepare(net, optimizer, scheduler)
    for model, opt, sched in ((net, optimizer, scheduler), prepared):
        nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.arange(4) % 3).backward()
        report = freezecheck.inspect(model, opt, scheduler=sched)
        freezecheck.assert_sane(model, opt, scheduler=sched, trainable="head.*")
        now = report.snapshot
        assert now.optimizers[0].family == "SGD"
        assert (now.schedulers[0].type, now.schedulers[0].optimizer) == ("StepLR", 0)
        told = {m.name: m.moves for m in freezecheck.forecast(model, opt)}
        assert {name for name, moves in told.items() if moves} == {"head.weight", "head.bias"}


def test_what_lightning_hands_out_is_inspected_as_itself():
    pytest.importorskip("lightning")
    from lightning.pytorch.core.optimizer import LightningOptimizer

    net = Net()
    nn.functional.cross_entropy(net(torch.randn(4, 8)), torch.arange(4) % 3).backward()
    report = freezecheck.assert_sane(net, LightningOptimizer(sgd(net.head)), frozen="backbone.*")
    assert report.snapshot.optimizers[0].type == "torch.optim.sgd.SGD"


CALLBACKS = [
    ("lightning", "FreezeCheck", "lightning"),
    ("transformers", "FreezeCheckCallback", "transformers"),
    ("fastai", "FreezeCheckCallback", "fastai"),
    ("ignite", "FreezeCheck", "pytorch-ignite"),
]


@pytest.mark.parametrize(("name", "kind", "package"), CALLBACKS, ids=[c[0] for c in CALLBACKS])
def test_wrong_options_are_told_at_once(name: str, kind: str, package: str):
    pytest.importorskip(name)
    callback = getattr(importlib.import_module(f"freezecheck.integrations.{name}"), kind)
    given = (Net(), None) if name == "ignite" else ()
    for options in ({"every": 0}, {"on_finding": "shout"}, {"stop_on": "x"}, {"select": ["FC9"]}):
        with pytest.raises(ValueError):
            callback(*given, **options)
    with pytest.raises(TypeError):
        callback(*given, often=3)


@pytest.mark.parametrize(("name", "kind", "package"), CALLBACKS, ids=[c[0] for c in CALLBACKS])
def test_a_missing_framework_is_one_line(name: str, kind: str, package: str):
    hidden = "".join(
        f"sys.modules[{root!r}] = None\n" for root in {name, "pytorch_lightning", "lightning"}
    )
    code = f"import sys\n{hidden}import freezecheck.integrations.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert f"pip install {package}" in last


def test_a_callback_is_pickled_without_its_run():
    callback = ignite(True, on_finding="log")
    again = copy.copy(callback)
    assert callback.watch is not None
    assert again.watch is None
    assert again.options == {"on_finding": "log"}


@pytest.fixture(autouse=True)
def _nothing_stays_behind() -> Iterator[None]:
    """Whatever becomes of the run, torch is as it was."""
    yield
    assert hooks() == 0
