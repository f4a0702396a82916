"""Trains from worker processes, started the way named first."""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Numbers(Dataset):
    def __len__(self):
        return 100_000

    def __getitem__(self, index):
        if len(sys.argv) > 2 and index > 50_000:
            Path(sys.argv[2]).touch()
        return torch.full((64, 64), float(index)), index % 2


if __name__ == "__main__":
    loader = DataLoader(
        Numbers(), batch_size=16, num_workers=2, multiprocessing_context=sys.argv[1]
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
