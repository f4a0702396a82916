"""A loop that asks for values wherever people do, on a GPU if one is named: `asks_values.py cuda`."""

import copy
import math
import sys

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision import models, transforms


class Images(torch.utils.data.Dataset):
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(32),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )

    def __len__(self):
        return 64

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        return self.transform(Image.fromarray(pixels)), index % 5


def mixup(x, y):
    share = np.random.beta(0.2, 0.2)
    order = torch.randperm(x.size(0)).to(device)
    return share * x + (1 - share) * x[order], y, y[order], share


device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
sampler = torch.utils.data.WeightedRandomSampler(torch.as_tensor(np.full(64, 0.2)), 64)
loader = torch.utils.data.DataLoader(
    Images(), batch_size=8, sampler=sampler, num_workers=2, persistent_workers=True
)
model = models.resnet18(weights=None)
model.fc = nn.Linear(model.fc.in_features, 5)
torch.save(model.state_dict(), "initial.pt")
model.load_state_dict(torch.load("initial.pt", map_location=device))
model = model.to(device)
average = copy.deepcopy(model)
for param in average.parameters():
    param.requires_grad_(False)
criterion = nn.CrossEntropyLoss(torch.tensor([1.0, 1, 1, 1, 2]), label_smoothing=0.1).to(device)
decayed = [p for p in model.parameters() if p.dim() > 1]
others = [p for p in model.parameters() if p.dim() <= 1]
optimizer = torch.optim.SGD(
    [{"params": decayed, "weight_decay": 1e-4}, {"params": others}], lr=0.01, momentum=0.9
)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
scaler = torch.amp.GradScaler(device.type)
confusion = torch.zeros(5, 5, dtype=torch.long)
for epoch in range(2):
    model.train()
    for x, y in loader:
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        x, first, second, share = mixup(x, y)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            h = model.maxpool(model.relu(model.bn1(model.conv1(x))))
            h = checkpoint(model.layer1, h, use_reentrant=False)
            h = model.layer4(model.layer3(model.layer2(h)))
            out = model.fc(torch.flatten(model.avgpool(h), 1)).float()
            loss = share * criterion(out, first) + (1 - share) * criterion(out, second)
        if not torch.isfinite(loss) or torch.isnan(out).any():
            raise SystemExit("the loss is not finite")
        assert not math.isnan(loss.item())
        sure = out.detach().softmax(1).amax(1) > 0.0
        if sure.any():
            loss = loss + 0.1 * F.cross_entropy(out[sure], y[sure])
        right = out.topk(3, 1).indices.eq(y.view(-1, 1)).float().sum(0)
        predicted = out.argmax(1)
        for target, answer in zip(y, predicted):
            confusion[target.long(), answer.long()] += 1
        np.concatenate([predicted.cpu().numpy(), y.cpu().numpy()])
        print(f"{loss:.4f} {float(right[0]):.2f} {predicted.tolist()} {model.fc.weight}")
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        nn.utils.clip_grad_value_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        with torch.no_grad():
            for kept, param in zip(average.parameters(), model.parameters()):
                kept.lerp_(param, 0.01)
    scheduler.step()
