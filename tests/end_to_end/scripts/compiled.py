"""A compiled model and a compiled training step."""

import torch
from torch import nn

model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
model = torch.compile(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


@torch.compile
def forward_loss(x, y):
    return nn.functional.cross_entropy(model(x), y)


for step in range(3):
    optimizer.zero_grad()
    loss = forward_loss(torch.randn(8, 16), torch.randint(4, (8,)))
    loss.backward()
    optimizer.step()
print("finished")
