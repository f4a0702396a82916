"""A setup without its data: `build()` is what a training script elsewhere would call."""

import torch
import torchvision


def build():
    model = torchvision.models.resnet18(weights="DEFAULT")
    model.requires_grad_(False)
    model.fc = torch.nn.Linear(model.fc.in_features, 5)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=1e-3)
    for param in model.layer4.parameters():
        param.requires_grad = True
    return model, optimizer
