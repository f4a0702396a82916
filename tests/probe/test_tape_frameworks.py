"""Training loops of libraries, unmodified, replayed to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from taped import Recording, check, recording
from torch import nn
from torch.nn import functional as F

from freezecheck.probe.faithful import whole
from freezecheck.probe.task import task
from freezecheck.warmup import CLASSES, TOKENS

pytestmark = [pytest.mark.frameworks, pytest.mark.slow]


def bert() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def sentences(count: int) -> list[dict[str, torch.Tensor]]:
    return [
        {"input_ids": torch.randint(30, (7,)), "labels": torch.randint(3, ())} for _ in range(count)
    ]


def images(count: int, size: int = 4) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for _ in range(count):
        yield torch.randn(size, 3, 16, 16), torch.randint(3, (size,))


def names(heard: Recording) -> list[str]:
    return [
        getattr(call.function, "__name__", type(call.function).__name__)
        for call in heard.tapes[0].calls
    ]


def test_transformers_trainer(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    model = bert()
    options = transformers.TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=3,
        report_to=[],
        use_cpu=True,
        learning_rate=1e-2,
        bf16=True,
    )
    trainer = transformers.Trainer(model, options, train_dataset=sentences(32))
    with recording(model) as heard:
        trainer.train()
    setup = check(heard, 3)
    assert heard.model is model
    assert [taped.samples for taped in heard.tapes] == [8, 8, 8]
    _, outputs, targets = setup.run(heard.tapes[0])
    assert outputs.shape == (8, 3)
    assert targets.shape == (8,)


def test_low_rank_adapters():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        bert(), peft.LoraConfig("SEQ_CLS", target_modules=["query", "value"], lora_dropout=0.1)
    )
    with recording(model) as heard:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for first in (0, 4):
            batch = torch.utils.data.default_collate(sentences(8)[first : first + 4])
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    check(heard, 2)


def test_language_model():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=30, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    with recording(model) as heard:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        for _ in range(2):
            words = torch.randint(30, (4, 9))
            logits = model(words).logits
            loss = F.cross_entropy(logits[:, :-1].reshape(-1, 30), words[:, 1:].reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    setup = check(heard, 2)
    _, outputs, targets = setup.run(heard.tapes[0])
    assert task(outputs, targets) == TOKENS


def test_accelerate():
    accelerate = pytest.importorskip("accelerate")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    accelerator = accelerate.Accelerator(gradient_accumulation_steps=2, cpu=True)
    with recording(model) as heard:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        prepared, fast, loader = accelerator.prepare(model, optimizer, list(images(6)))
        for x, y in loader:
            with accelerator.accumulate(prepared):
                loss = F.cross_entropy(prepared(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(prepared.parameters(), 0.5)
                fast.step()
                fast.zero_grad()
    setup = check(heard, 3)
    assert setup.criterion() is not None


def test_lightning_automatic_optimization(tmp_path: Path):
    lightning = pytest.importorskip("lightning")

    class Task(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.BatchNorm1d(8))
            self.head = nn.Linear(8, 3)

        def training_step(self, batch: Any, index: int) -> Any:
            x, y = batch
            loss = F.cross_entropy(self.head(F.relu(self.backbone(x))), y)
            self.log("loss", loss, prog_bar=True)
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            x, y = batch
            self.log("val", F.cross_entropy(self.head(self.backbone(x)), y))

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.05)

    torch.manual_seed(0)
    model = Task()
    loader = torch.utils.data.DataLoader([(x[0], y[0]) for x, y in images(24)], batch_size=4)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        accumulate_grad_batches=2,
        gradient_clip_val=0.3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    with recording(model) as heard:
        trainer.fit(model, loader, loader)
    check(heard, 3)
    assert whole(heard.tapes, [model]) is model
    assert sum(name in ("Sequential", "Linear") for name in names(heard)) == 4


def test_timm():
    timm = pytest.importorskip("timm")
    losses = pytest.importorskip("timm.loss")
    optimizers, utils = pytest.importorskip("timm.optim"), pytest.importorskip("timm.utils")
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=3, drop_path_rate=0.1)
    criterion = losses.LabelSmoothingCrossEntropy(0.1)
    with recording(model) as heard:
        optimizer = optimizers.create_optimizer_v2(model, "lamb", lr=0.01)
        for x, y in images(2):
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            utils.dispatch_clip_grad(model.parameters(), 0.1, mode="norm")
            optimizer.step()
    setup = check(heard, 2)
    _, outputs, targets = setup.run(heard.tapes[0])
    assert task(outputs, targets) == CLASSES
    asked = setup.criterion()
    assert asked is not None
    assert float(asked(outputs, targets)) == pytest.approx(float(criterion(outputs, targets)))


def test_fastai_with_an_optimizer_of_torch(tmp_path: Path):
    fastai = pytest.importorskip("fastai.vision.all")
    torch.manual_seed(0)
    rows = [(x[0], y[0]) for x, y in images(12)]
    loaders = fastai.DataLoaders.from_dsets(rows, rows[:4], bs=4, num_workers=0, device="cpu")
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    learner = fastai.Learner(
        loaders,
        model,
        loss_func=nn.CrossEntropyLoss(),
        opt_func=lambda params, **options: fastai.OptimWrapper(
            params, torch.optim.AdamW, **options
        ),
        path=tmp_path,
    )
    with recording(model) as heard, learner.no_bar(), learner.no_logging():
        learner.fit(1, 0.01)
    check(heard, 3)
