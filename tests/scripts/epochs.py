"""Trains for a long time, with loader workers, a child process, and a file each epoch."""

import subprocess
import sys

import torch

child = subprocess.Popen(["sleep", "1000"])
data = torch.utils.data.TensorDataset(torch.randn(4000, 4), torch.randint(0, 2, (4000,)))
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=int(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    for x, y in loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    torch.save(model.state_dict(), "last.pt")
child.kill()
