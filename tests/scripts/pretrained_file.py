"""Goes on from a checkpoint: what it holds, and what is done with each part."""

import sys

import torch
import torchvision
from torch import nn

checkpoint = torch.load(sys.argv[1], map_location="cpu")
state = {k.removeprefix("module."): v for k, v in checkpoint["model"].items()}
model = torchvision.models.resnet18(num_classes=5)
model.load_state_dict(state)
model.requires_grad_(False)
model.fc.requires_grad_(True)
optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.01, momentum=0.9)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
optimizer.load_state_dict(checkpoint["optimizer"])
scheduler.load_state_dict(checkpoint["scheduler"])
print(f"going on from epoch {checkpoint['epoch']}, best {checkpoint['best']:.3f}")
model.eval()
for _ in range(checkpoint["epoch"] + 1, 20):
    images, labels = torch.randn(4, 3, 32, 32), torch.randint(5, (4,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    scheduler.step()
