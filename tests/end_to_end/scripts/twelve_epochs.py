"""Twelve epochs: the head alone, then layer3 (epoch 7) and layer2 (epoch 10), at a lower rate.

With --no-group, what is unfrozen is never given to the optimizer.
"""

import argparse

import torch
from digits import get_loaders, hold_frozen_batchnorm, pretrained
from torch.nn.functional import cross_entropy

parser = argparse.ArgumentParser()
parser.add_argument("--no-group", action="store_true")
args = parser.parse_args()

torch.manual_seed(0)
train, valid = get_loaders(range(5, 10), batch_size=16)
model = pretrained()
model.requires_grad_(False)
model.fc.requires_grad_(True)
optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.05, momentum=0.9)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)
best = 0.0
for epoch in range(12):
    stage, rate = {6: (model.layer3, 5e-3), 9: (model.layer2, 1e-3)}.get(epoch, (None, 0.0))
    if stage is not None:
        stage.requires_grad_(True)
        if not args.no_group:
            optimizer.add_param_group({"params": stage.parameters(), "lr": rate})
    model.train()
    hold_frozen_batchnorm(model)
    for images, labels in train:
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    scheduler.step()
    model.eval()
    with torch.no_grad():
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in valid)
    if right > best:
        best = right
        torch.save(model.state_dict(), "best.pt")
model.load_state_dict(torch.load("best.pt"))
