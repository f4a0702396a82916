"""A network of timm that is tuned as a whole, in eval mode but for its head."""

import timm
import torch
from torch import nn

model = timm.create_model("resnet18", pretrained=True, num_classes=5)
model.eval()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _ in range(2):
    images, labels = torch.randn(4, 3, 32, 32), torch.randint(5, (4,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
