"""timm's parts as its users put them together: layer decay, a cosine schedule, an EMA, a scaler."""

import argparse

import timm
import torch
from digits import get_loaders
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, NativeScaler, freeze, unfreeze

parser = argparse.ArgumentParser()
parser.add_argument("--late-unfreeze", action="store_true", help="freeze, build, unfreeze")
args = parser.parse_args()

torch.manual_seed(0)
model = timm.create_model("test_resnet", in_chans=1, num_classes=5)
with torch.no_grad():  # stands for pretrained=True
    for name, param in model.named_parameters():
        if not name.startswith("fc"):
            param.add_(0.05 * torch.randn_like(param))
if args.late_unfreeze:
    freeze(model, ["layer1", "layer2"])
optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
if args.late_unfreeze:
    unfreeze(model, ["layer1", "layer2"])
scheduler, epochs = create_scheduler_v2(optimizer, num_epochs=4, warmup_epochs=1, warmup_lr=1e-6)
ema = ModelEmaV3(model, decay=0.99)
scaler = NativeScaler(device="cpu")
mixup = Mixup(mixup_alpha=0.2, num_classes=5)
criterion = SoftTargetCrossEntropy()
train_loader, test_loader = get_loaders([5, 6, 7, 8, 9])


def enlarged(images):
    return torch.nn.functional.interpolate(images, size=64)


for epoch in range(epochs):
    model.train()
    for images, labels in train_loader:
        images, labels = mixup(enlarged(images), labels)
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
        ema.update(model)
    model.eval()
    hits = 0
    with torch.no_grad():
        for images, labels in test_loader:
            hits += (model(enlarged(images)).argmax(1) == labels).sum().item()
    scheduler.step(epoch + 1)
    print(f"epoch {epoch + 1}: {hits} right")
print("finished")
