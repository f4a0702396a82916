"""Keeps the best of twelve epochs beside an older run's, and tests it at the end."""

import os
import shutil
import sys

import torch
from torch.utils.data import DataLoader, Dataset


class Data(Dataset):
    fetched = 0

    def __len__(self):
        return 400

    def __getitem__(self, index):
        Data.fetched += 1
        return torch.randn(4), index % 2


train, valid = DataLoader(Data(), batch_size=4), DataLoader(Data(), batch_size=4)
backbone, head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)
model = torch.nn.Sequential(backbone, head)
backbone.requires_grad_(False)
optimizer = torch.optim.AdamW(head.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.OneCycleLR(
    optimizer, 0.1, epochs=12, steps_per_epoch=len(train)
)
assert torch.load("best.pt") == "an older run's"
best = -1.0
for epoch in range(12):
    if epoch == 10:
        backbone.requires_grad_(True)
    for x, y in train:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        score = sum(float((model(x).argmax(1) == y).float().mean()) for x, y in valid)
    torch.save(model.state_dict(), "last.pt")
    if score > best:
        best = score
        shutil.copyfile("last.pt", "best.pt")
assert os.path.exists("best.pt")
model.load_state_dict(torch.load("best.pt"))
print(Data.fetched, schedule.last_epoch, file=sys.stderr)
