"""Adapters that were trained before, to be trained on; they come frozen."""

import sys

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

folder, adapters = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
model = PeftModel.from_pretrained(model, adapters)
model.classifier.requires_grad_(True)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model.train()
for _ in range(2):
    batch = {"input_ids": torch.randint(0, 100, (4, 8)), "labels": torch.randint(3, (4,))}
    optimizer.zero_grad()
    model(**batch).loss.backward()
    optimizer.step()
