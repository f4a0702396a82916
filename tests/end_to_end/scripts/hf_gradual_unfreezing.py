"""A BERT in the Hugging Face Trainer, of which a callback unfreezes one more layer in each epoch."""

import argparse
import tempfile

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

parser = argparse.ArgumentParser()
parser.add_argument("--freeze-first", action="store_true", help="before the Trainer, not in it")
args = parser.parse_args()


class GradualUnfreezing(TrainerCallback):
    """The classifier alone in the first epoch, then one more layer from the top in each."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        freeze(model)

    def on_epoch_begin(self, args, state, control, model=None, **kwargs):
        epoch = round(state.epoch or 0)
        for layer in list(model.bert.encoder.layer)[::-1][:epoch]:
            layer.requires_grad_(True)


class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(100, (12,), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": index % 3}


def freeze(model):
    for param in model.bert.parameters():
        param.requires_grad = False


def checkpoint(folder):
    """A small model, saved as a pretrained one would be."""
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
    )
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for param in model.bert.parameters():
            param.add_(0.02 * torch.randn_like(param))
    model.bert.save_pretrained(folder)
    return folder


with tempfile.TemporaryDirectory() as folder:
    model = BertForSequenceClassification.from_pretrained(checkpoint(folder), num_labels=3)
    if args.freeze_first:
        freeze(model)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=8,
            num_train_epochs=4,
            learning_rate=5e-5,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            warmup_steps=2,
        ),
        train_dataset=Tokens(),
        callbacks=[GradualUnfreezing()],
    )
    trainer.train()
print("finished")
