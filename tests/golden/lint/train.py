"""Fine-tuning, with mistakes; only ever read."""

import torch
import torchvision

model = torchvision.models.resnet18(weights="DEFAULT")
for param in model.parameters():
    param.requires_grad = False
model.fc = torch.nn.Linear(512, 5)
optimizer = torch.optim.AdamW(
    [p for p in model.parameters() if p.requires_grad],
    lr=1e-3,
)
model.layer4.requires_grad = True  # thaw the last stage
for param in model.layer4.parameters():
    param.requires_grad = True

for images, labels in []:
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
