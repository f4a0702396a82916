"""How many different rows there are is a shape, and hangs on values."""

import torch
from torch import nn

model = nn.Linear(8, 5)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
out = model(torch.randn(4, 8))
rows = torch.unique(out.detach(), dim=0)
(out.sum() / len(rows)).backward()
optimizer.step()
