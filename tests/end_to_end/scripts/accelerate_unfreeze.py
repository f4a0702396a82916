"""A head first, the last stage from the fourth epoch on, in a loop with accelerate's API."""

import argparse

import torch
from accelerate import Accelerator
from digits import get_loaders, hold_frozen_batchnorm, pretrained
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--no-group", action="store_true", help="forget to tell the optimizer")
args = parser.parse_args()

accelerator = Accelerator(cpu=True)
train_loader, test_loader = get_loaders([5, 6, 7, 8, 9])
net = pretrained(num_classes=5)
net.requires_grad_(False)
net.fc.requires_grad_(True)
optimizer = torch.optim.AdamW(net.fc.parameters(), lr=5e-3)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=60, gamma=0.5)
model, optimizer, train_loader, test_loader, scheduler = accelerator.prepare(
    net, optimizer, train_loader, test_loader, scheduler
)

for epoch in range(6):
    if epoch == 3:
        net.layer3.requires_grad_(True)
        if not args.no_group:
            optimizer.add_param_group({"params": list(net.layer3.parameters()), "lr": 5e-4})
    model.train()
    hold_frozen_batchnorm(model)
    for images, labels in train_loader:
        with accelerator.accumulate(model):
            optimizer.zero_grad()
            accelerator.backward(nn.functional.cross_entropy(model(images), labels))
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
    model.eval()
    hits = 0
    with torch.no_grad():
        for images, labels in test_loader:
            hits += (model(images).argmax(1) == labels).sum().item()
    accelerator.print(f"epoch {epoch + 1}: {hits} right")
print("finished")
