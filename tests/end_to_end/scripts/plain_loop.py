"""A backbone with a new head, frozen but for its last block, in a plain loop."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--late-unfreeze", action="store_true")
args = parser.parse_args()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Linear(16, 32), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
        self.layer3 = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        return self.fc(self.layer3(self.layer2(self.layer1(x))))


def unfreeze(module):
    for p in module.parameters():
        p.requires_grad = True


model = Net()
for p in model.parameters():
    p.requires_grad = False
model.fc = nn.Linear(32, 4)
if not args.late_unfreeze:
    unfreeze(model.layer3)
optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
if args.late_unfreeze:
    unfreeze(model.layer3)

data = TensorDataset(torch.randn(64, 16), torch.randint(4, (64,)))
for epoch in range(3):
    model.train()
    for x, y in DataLoader(data, batch_size=16, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
print("finished")
