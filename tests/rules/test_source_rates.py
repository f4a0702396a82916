"""FC3 in a text: rates, groups and schedules, as people write them."""

from __future__ import annotations

import re
import textwrap

import pytest
from source import lint

HEAD = """\
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
import torchvision
from torch.optim.lr_scheduler import *
from torch.optim import lr_scheduler
from torchvision import models
"""
NET = """\
model = models.resnet18(weights="DEFAULT")
model.fc = nn.Linear(512, 5)
"""
PROBE = """\
model = models.resnet18(weights="DEFAULT").eval()
model.requires_grad_(False)
model.fc = nn.Linear(512, 5)
"""
STEP = """\
for x, y in loader:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
"""
GROUPS = """\
backbone = [p for n, p in model.named_parameters() if not n.startswith("fc")]
groups = [{"params": backbone, "lr": 1e-5}, {"params": model.fc.parameters(), "lr": 1e-3}]
"""


def loop(*before: str, after: str = "", epochs: object = 20) -> str:
    """An epoch loop with lines before and after the batches."""
    body = "".join(f"{line}\n" for line in before) + STEP + after
    return f"for epoch in range({epochs}):\n" + textwrap.indent(body, "    ")


CASES = {
    # one rate
    "one rate": NET + "optimizer = optim.Adam(model.parameters(), lr=1e-3)  # <- FC301\n" + STEP,
    "the default rate": NET + "optimizer = optim.Adam(model.parameters())  # <- FC301\n" + STEP,
    "SGD, high": NET
    + "optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # <- FC301\n"
    + STEP,
    "a filter": NET
    + "optimizer = optim.AdamW(filter(lambda p: p.requires_grad, model.parameters()), 1e-3)  # <- FC301\n"
    + STEP,
    "two groups of one rate": NET + "optimizer = optim.Adam([  # <- FC301\n"
    "    {'params': model.layer4.parameters(), 'lr': 1e-3}, {'params': model.fc.parameters()}], lr=1e-3)\n"
    + STEP,
    "a class around": "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    "        self.body = models.resnet18(weights='DEFAULT')\n        self.body.fc = nn.Identity()\n"
    "        self.head = nn.Linear(512, 5)\n    def forward(self, x):\n"
    "        return self.head(self.body(x))\nmodel = Net()\n"
    "optimizer = optim.Adam(model.parameters(), lr=1e-3)  # <- FC301\n" + STEP,
    "SGD, not high": NET
    + "optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)\n"
    + STEP,
    "not pretrained": NET.replace("weights='DEFAULT'", "").replace('weights="DEFAULT"', "")
    + "optimizer = optim.Adam(model.parameters(), lr=1e-3)\n"
    + STEP,
    "a rate from outside": NET + "optimizer = optim.Adam(model.parameters(), lr=args.lr)\n" + STEP,
    "the head alone": PROBE + "optimizer = optim.Adam(model.fc.parameters(), lr=1e-3)\n" + STEP,
    "rates of their own": NET + GROUPS + "optimizer = optim.Adam(groups)\n" + STEP,
    "loaded before": NET
    + "model.load_state_dict(torch.load('best.pt'))\n"
    + "optimizer = optim.Adam(model.parameters(), lr=1e-3)\n"
    + STEP,
    "never used": NET + "optimizer = optim.Adam(model.parameters(), lr=1e-3)\n",
    "norms and biases alone": PROBE
    + "for n, p in model.named_parameters():\n    if 'bn' in n or n.endswith('bias'):\n"
    "        p.requires_grad = True\n"
    "optimizer = optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)\n" + STEP,
    "lowered by hand at once": NET
    + "optimizer = optim.Adam(model.parameters(), lr=1e-3)\n"
    + "for group in optimizer.param_groups:\n    group['lr'] = 1e-5\n"
    + STEP,
    # inverted
    "head slower than backbone": NET
    + "optimizer = optim.SGD([  # <- FC302\n    {'params': model.layer4.parameters(), 'lr': 1e-2},\n"
    "    {'params': model.fc.parameters(), 'lr': 1e-4}], momentum=0.9)\n" + STEP,
    "rates rise to the head": NET
    + "stages = [model.layer1, model.layer2, model.layer3, model.layer4, model.fc]\n"
    "optimizer = optim.SGD([{'params': s.parameters(), 'lr': 1e-2 * 0.3 ** (4 - i)}\n"
    "    for i, s in enumerate(stages)], momentum=0.9)\n" + STEP,
    # after an unfreeze
    "unfrozen in one optimizer": PROBE
    + "optimizer = optim.Adam(model.parameters(), lr=1e-3)\n"
    + loop("if epoch == 5:", "    model.requires_grad_(True)  # <- FC303"),
    "unfrozen and lowered": PROBE
    + "optimizer = optim.Adam(model.parameters(), lr=1e-3)\n"
    + loop(
        "if epoch == 5:",
        "    model.requires_grad_(True)",
        "    for g in optimizer.param_groups:",
        "        g['lr'] = 1e-5",
    ),
    "added at the head's rate": PROBE
    + "optimizer = optim.Adam(model.fc.parameters(), lr=1e-3)\n"
    + loop(
        "if epoch == 5:",
        "    model.layer4.requires_grad_(True)",
        "    optimizer.add_param_group({'params': model.layer4.parameters(), 'lr': 1e-3})  # <- FC303",
    ),
    "rebuilt, and slower": PROBE
    + "optimizer = optim.Adam(model.fc.parameters(), lr=1e-3)\n"
    + loop(
        "if epoch == 5:",
        "    model.requires_grad_(True)",
        "    optimizer = optim.Adam(model.parameters(), lr=1e-4)",
    ),
    # groups added
    "added at the default rate": PROBE
    + "optimizer = optim.SGD(model.fc.parameters(), lr=0.01, momentum=0.9)\n"
    "scheduler = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.8)\n"
    + loop(
        "if epoch == 5:",
        "    model.layer4.requires_grad_(True)",
        "    optimizer.add_param_group({'params': model.layer4.parameters()})  # <- FC304",
        after="scheduler.step()\n",
    ),
    "added before anything was lowered": PROBE
    + "optimizer = optim.SGD(model.fc.parameters(), lr=0.01, momentum=0.9)\n"
    "scheduler = optim.lr_scheduler.StepLR(optimizer, 10)\n"
    + loop(
        "if epoch == 5:",
        "    model.layer4.requires_grad_(True)",
        "    optimizer.add_param_group({'params': model.layer4.parameters()})",
        after="scheduler.step()\n",
    ),
    "added, and set by hand": PROBE
    + "optimizer = optim.SGD(model.fc.parameters(), lr=0.01, momentum=0.9)\n"
    + loop(
        "if epoch == 5:",
        "    model.layer4.requires_grad_(True)",
        "    optimizer.add_param_group({'params': model.layer4.parameters()})",
        "for g in optimizer.param_groups:",
        "    g['lr'] = 0.001",
    ),
    "added under LambdaLR": PROBE + "optimizer = optim.SGD(model.fc.parameters(), lr=0.01)\n"
    "scheduler = lr_scheduler.LambdaLR(optimizer, lambda e: 0.9 ** e)\n"
    + loop(
        "if epoch == 5:",
        "    model.layer4.requires_grad_(True)",
        "    optimizer.add_param_group({'params': model.layer4.parameters(), 'lr': 1e-4})  # <- FC306",
        after="scheduler.step()\n",
    ),
    "added, scheduler built again": PROBE
    + "optimizer = optim.SGD(model.fc.parameters(), lr=0.01)\n"
    "scheduler = lr_scheduler.LambdaLR(optimizer, lambda e: 0.9 ** e)\n"
    + loop(
        "if epoch == 5:",
        "    model.layer4.requires_grad_(True)",
        "    optimizer.add_param_group({'params': model.layer4.parameters(), 'lr': 1e-4})",
        "    scheduler = lr_scheduler.LambdaLR(optimizer, lambda e: 0.9 ** e)",
        after="scheduler.step()\n",
    ),
    "added in a warm-up of several parts": PROBE
    + "optimizer = optim.SGD(model.fc.parameters(), lr=0.01)\n"
    "warm = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)\n"
    "rest = lr_scheduler.CosineAnnealingLR(optimizer, 15)\n"
    "scheduler = lr_scheduler.SequentialLR(optimizer, [warm, rest], [5])\n"
    + loop(
        "if epoch == 3:",
        "    model.layer4.requires_grad_(True)",
        "    optimizer.add_param_group({'params': model.layer4.parameters(), 'lr': 1e-4})  # <- FC311",
        after="scheduler.step()\n",
    ),
    "added when the warm-up may be over": PROBE
    + "optimizer = optim.SGD(model.fc.parameters(), lr=0.01)\n"
    "scheduler = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=500)\n"
    + loop(
        "if epoch == 3:",
        "    model.layer4.requires_grad_(True)",
        "    optimizer.add_param_group({'params': model.layer4.parameters(), 'lr': 1e-4})",
        after="    scheduler.step()\n",
    ),
    # schedulers
    "optimizer rebuilt, scheduler not": PROBE
    + "optimizer = optim.SGD(model.fc.parameters(), lr=0.01)\n"
    "scheduler = StepLR(optimizer, 5)\n"
    + loop(
        "if epoch == 5:",
        "    model.requires_grad_(True)",
        "    optimizer = optim.SGD(model.parameters(), lr=0.001)  # <- FC305",
        after="scheduler.step()\n",
    ),
    "both rebuilt": PROBE + "optimizer = optim.SGD(model.fc.parameters(), lr=0.01)\n"
    "scheduler = StepLR(optimizer, 5)\n"
    + loop(
        "if epoch == 5:",
        "    model.requires_grad_(True)",
        "    optimizer = optim.SGD(model.parameters(), lr=0.001)",
        "    scheduler = StepLR(optimizer, 5)",
        after="scheduler.step()\n",
    ),
    "one max_lr for two rates": NET + GROUPS + "optimizer = optim.AdamW(groups)\n"
    "scheduler = OneCycleLR(optimizer, max_lr=1e-3, total_steps=100)  # <- FC307\n" + STEP,
    "max_lr for each": NET + GROUPS + "optimizer = optim.AdamW(groups)\n"
    "scheduler = OneCycleLR(optimizer, max_lr=[1e-5, 1e-3], total_steps=100)\n" + STEP,
    "max_lr from the groups": NET + GROUPS + "optimizer = optim.AdamW(groups)\n"
    "scheduler = OneCycleLR(optimizer, max_lr=[g['lr'] for g in groups], total_steps=100)\n" + STEP,
    "groups that differ in decay alone": NET
    + "optimizer = optim.AdamW([{'params': model.layer4.parameters()},\n"
    "    {'params': model.fc.parameters(), 'weight_decay': 0}], lr=1e-4)\n"
    "scheduler = OneCycleLR(optimizer, max_lr=2e-4, total_steps=100)\n" + STEP,
    "a floor above a rate": NET + GROUPS + "optimizer = optim.AdamW(groups)\n"
    "scheduler = CosineAnnealingLR(optimizer, T_max=20, eta_min=1e-4)  # <- FC308\n"
    + loop(after="scheduler.step()\n"),
    "a rate by hand between two schedules": PROBE
    + "optimizer = optim.SGD(model.fc.parameters(), lr=0.1)\n"
    "scheduler = LambdaLR(optimizer, lambda e: 0.9 ** e)\n"
    + loop(after="scheduler.step()\n", epochs=5)
    + "for g in optimizer.param_groups:\n    g['lr'] = 0.001\n"
    "scheduler = LambdaLR(optimizer, lambda e: 0.9 ** e)  # <- FC309\n"
    + loop(after="scheduler.step()\n", epochs=5),
    "a cosine after a cosine": PROBE + "optimizer = optim.SGD(model.fc.parameters(), lr=0.1)\n"
    "scheduler = CosineAnnealingLR(optimizer, 5)\n"
    + loop(after="scheduler.step()\n", epochs=5)
    + "scheduler = CosineAnnealingLR(optimizer, 10)  # <- FC309\n"
    + loop(after="scheduler.step()\n", epochs=10),
    "past its end": PROBE + "optimizer = optim.SGD(model.fc.parameters(), lr=0.1)\n"
    "scheduler = CosineAnnealingLR(optimizer, T_max=10)  # <- FC310\n"
    + loop(after="scheduler.step()\n", epochs=30),
    "stepped for each batch, epochs from outside": PROBE
    + "def main(args):\n"
    + textwrap.indent(
        "optimizer = optim.SGD(model.fc.parameters(), lr=0.1)\n"
        "scheduler = CosineAnnealingLR(optimizer, T_max=args.epochs)  # <- FC310\n"
        + loop(after="    scheduler.step()\n", epochs="args.epochs"),
        "    ",
    ),
    "to its end, epochs from outside": PROBE
    + "def main(args):\n"
    + textwrap.indent(
        "optimizer = optim.SGD(model.fc.parameters(), lr=0.1)\n"
        "scheduler = CosineAnnealingLR(optimizer, T_max=args.epochs)\n"
        + loop(after="scheduler.step()\n", epochs="args.epochs"),
        "    ",
    ),
    "a new one in each fold": PROBE
    + "for fold in range(5):\n"
    + textwrap.indent(
        "optimizer = optim.SGD(model.fc.parameters(), lr=0.1)\n"
        "scheduler = CosineAnnealingLR(optimizer, T_max=20)\n" + loop(after="scheduler.step()\n"),
        "    ",
    ),
    "restarts": PROBE + "optimizer = optim.SGD(model.fc.parameters(), lr=0.1)\n"
    "scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=5)\n"
    + loop(after="scheduler.step()\n"),
    "stepped under a condition": PROBE + "optimizer = optim.SGD(model.fc.parameters(), lr=0.1)\n"
    "scheduler = CosineAnnealingLR(optimizer, T_max=5)\n"
    + loop(after="if epoch % 4 == 0:\n    scheduler.step()\n"),
    "a rate of 0": NET
    + "optimizer = optim.AdamW([  # <- FC312\n    {'params': model.layer1.parameters(), 'lr': 0},\n"
    "    {'params': model.fc.parameters(), 'lr': 1e-4}])\n" + STEP,
    "a default that nobody gets": NET
    + "optimizer = optim.AdamW([{'params': model.layer4.parameters(), 'lr': 1e-5},  # <- FC313\n"
    "    {'params': model.fc.parameters(), 'lr': 1e-4}], lr=1e-2)\n" + STEP,
    "a default that one gets": NET + GROUPS + "optimizer = optim.AdamW(groups, lr=1e-3)\n" + STEP,
}


@pytest.mark.parametrize("name", CASES)
def test_rates(name):
    code = HEAD + CASES[name]
    marked = [
        (number, match.group(1))
        for number, line in enumerate(code.splitlines(), 1)
        if (match := re.search(r"<- (FC3\d\d)", line))
    ]
    assert [found for found in lint(code) if found[1].startswith("FC3")] == marked
