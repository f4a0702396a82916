"""A classifier on a language model, which stays in the mode that it comes in."""

import sys

import torch
from transformers import AutoModelForSequenceClassification

model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=3)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _ in range(2):
    batch = {"input_ids": torch.randint(0, 100, (4, 8)), "labels": torch.randint(3, (4,))}
    optimizer.zero_grad()
    model(**batch).loss.backward()
    optimizer.step()
