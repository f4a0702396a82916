"""A tiny, randomly initialised BERT in the Hugging Face Trainer."""

import argparse
import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

parser = argparse.ArgumentParser()
parser.add_argument("--late-head", action="store_true")
args = parser.parse_args()

config = BertConfig(
    vocab_size=100,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=64,
    num_labels=3,
)
model = BertForSequenceClassification(config)


class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(100, (12,), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": index % 3}


with tempfile.TemporaryDirectory() as folder:
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=8,
            num_train_epochs=1,
            learning_rate=5e-5,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            warmup_steps=2,
        ),
        train_dataset=Tokens(),
    )
    if args.late_head:
        trainer.create_optimizer()
        model.classifier = torch.nn.Linear(32, 3)
    trainer.train()
print("finished")
