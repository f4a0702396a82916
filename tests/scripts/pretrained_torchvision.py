"""A pretrained network of which the last stage is tuned, at one rate with its new head."""

import torch
import torchvision
from torch import nn

model = torchvision.models.resnet18(weights=torchvision.models.ResNet18_Weights.DEFAULT)
for name, parameter in model.named_parameters():
    if not name.startswith("layer4"):
        parameter.requires_grad = False
model.fc = nn.Linear(model.fc.in_features, 5)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
model.train()
for _ in range(2):
    images, labels = torch.randn(4, 3, 32, 32), torch.randint(5, (4,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
