"""FC4 in a text: the mode of each layer at each training forward, as people write it."""

from __future__ import annotations

import re
import textwrap

import pytest
from source import lint

HEAD = """\
import copy
import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from torchvision import models
"""
STEP = """\
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
"""
PROBE = """\
model = models.resnet18(weights="DEFAULT")
for p in model.parameters():
    p.requires_grad = False
model.fc = nn.Linear(512, 5)
optimizer = torch.optim.Adam(model.fc.parameters(), lr=1e-4)
"""


def loop(*before: str, after: str = "") -> str:
    """An epoch loop with lines before and after the batches."""
    body = "\n".join(before) + "\n" + STEP + after
    return "for epoch in range(3):\n" + textwrap.indent(body, "    ")


CASES = {
    "the mode of a new model": PROBE.replace("= False", "= False  # <- FC401") + STEP,
    "train() in the loop": PROBE + loop("model.train()  # <- FC401"),
    "train(True) through a helper": "def on(m):\n    m.train(True)  # <- FC401\n"
    + PROBE
    + loop("on(model)"),
    "DataParallel": PROBE + "model = nn.DataParallel(model)\n" + loop("model.train()  # <- FC401"),
    "compiled": PROBE + "model = torch.compile(model)\n" + loop("model.train()  # <- FC401"),
    "on a device, chained": PROBE + "model = model.to('cuda').train()  # <- FC401\n" + STEP,
    "unfrozen later": PROBE
    + loop("model.train()  # <- FC401")
    + "model.requires_grad_(True)\noptimizer = torch.optim.Adam(model.parameters(), lr=1e-5)\n"
    + STEP,
    "training is set by hand": PROBE
    + "model.eval()\nfor m in model.modules():\n    m.training = True  # <- FC401\n"
    + STEP,
    "a loss of several": PROBE
    + loop("model.train()  # <- FC401").replace(
        "loss = F.cross_entropy(model(x), y)",
        "losses = {'a': F.cross_entropy(model(x), y)}\n        loss = sum(l for l in losses.values())",
    ),
    "eval() at the start": PROBE + loop("model.eval()"),
    "eval() of all but the head": PROBE + loop("model.eval()", "model.fc.train()"),
    "frozen layers rest after train()": PROBE
    + loop(
        "model.train()",
        "for m in model.modules():",
        "    if isinstance(m, nn.BatchNorm2d):",
        "        m.eval()",
    ),
    "by the name of the class": PROBE
    + "def rest(m):\n    if m.__class__.__name__.find('BatchNorm') != -1:\n        m.eval()\n"
    + loop("model.train()", "model.apply(rest)"),
    "training is unset by hand": PROBE
    + loop(
        "model.train()",
        "for m in model.modules():",
        "    if isinstance(m, nn.BatchNorm2d):",
        "        m.training = False",
    ),
    "a mode that hangs on an argument": PROBE + loop("model.train(flag)"),
    "handed to an unknown function": PROBE + "prepare(model)\n" + loop("model.train()"),
    "never trained": PROBE + "model.train()\nprint(model(x))\n",
    "no step": PROBE + "model.train()\nF.cross_entropy(model(x), y).backward()\n",
    "no BatchNorm": PROBE.replace("resnet18", "vgg11").replace("model.fc", "model.classifier[6]")
    + loop("model.train()"),
    "momentum 0": PROBE
    + "for m in model.modules():\n    if isinstance(m, nn.BatchNorm2d):\n        m.momentum = 0\n"
    + loop("model.train()"),
    "eval() once": PROBE
    + "for m in model.modules():\n    if isinstance(m, nn.BatchNorm2d):\n        m.eval()\n"
    + loop("model.train()  # <- FC402"),
    "a frozen part in eval mode once": PROBE.replace(
        "model.fc = ", "model.layer1.eval()\nmodel.fc = "
    )
    .replace(
        "for p in model.parameters()",
        "for p in [*model.conv1.parameters(), *model.bn1.parameters(), *model.layer1.parameters()]",
    )
    .replace("model.fc.parameters()", "model.parameters()")
    .replace("model.bn1.parameters()", "model.bn1.parameters()")
    + "model.bn1.eval()\n"
    + loop("model.train()  # <- FC402"),
    "a phase in which they rest": PROBE
    + loop(
        "model.train()",
        "if epoch < 2:",
        "    for m in model.modules():",
        "        if isinstance(m, nn.BatchNorm2d):",
        "            m.eval()",
        "else:",
        "    model.requires_grad_(True)",
    ),
    "one class of BatchNorm": """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.neck = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 2)
    def forward(self, x):
        return self.head(self.neck(self.body(x).mean((2, 3))))
model = Net()
model.load_state_dict(torch.load("net.pt"))
model.body.requires_grad_(False)
model.neck.requires_grad_(False)
optimizer = torch.optim.SGD(model.head.parameters(), lr=1e-3)
for epoch in range(3):
    model.train()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()  # <- FC406
"""
    + textwrap.indent(STEP, "    "),
    "converted to SyncBatchNorm, then looked for as BatchNorm2d": PROBE
    + "model = nn.SyncBatchNorm.convert_sync_batchnorm(model)\n"
    + loop(
        "model.train()  # <- FC401",
        "for m in model.modules():",
        "    if isinstance(m, nn.BatchNorm2d):",
        "        m.eval()",
    ),
    "statistics off": "model = models.resnet18(weights='DEFAULT')\n"
    "for m in model.modules():\n    if isinstance(m, nn.BatchNorm2d):\n"
    "        m.track_running_stats = False  # <- FC407\n"
    "optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)\n" + STEP,
    "statistics off for one forward": "model = models.resnet18(weights='DEFAULT')\n"
    "optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)\n"
    "def switch(m):\n    if hasattr(m, 'track_running_stats'):\n        m.track_running_stats ^= True\n"
    "for x, y in loader:\n    model.apply(switch)\n    z = model(x)\n    model.apply(switch)\n"
    "    F.cross_entropy(z, y).backward()\n    optimizer.step()\n",
    "a validation that nothing undoes": "model = models.resnet18(weights='DEFAULT')\n"
    "optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)\n"
    "def test(net, loader):\n    net.eval()  # <- FC403\n    with torch.no_grad():\n"
    "        for x, y in loader:\n            print(net(x))\n"
    + loop(after="test(model, val_loader)\n"),
    "a validation that is undone at its end": "model = models.resnet18(weights='DEFAULT')\n"
    "optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)\n"
    "def test(net, loader):\n    net.eval()\n    with torch.no_grad():\n"
    "        for x, y in loader:\n            print(net(x))\n    net.train()\n"
    + loop(after="test(model, val_loader)\n"),
    "a validation that puts the mode back": "model = models.resnet18(weights='DEFAULT')\n"
    "optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)\n"
    "def test(net, loader):\n    was = net.training\n    net.eval()\n    with torch.no_grad():\n"
    "        for x, y in loader:\n            print(net(x))\n    net.train(was)\n"
    + loop(after="test(model, val_loader)\n"),
    "a validation by an imported function": "from engine import evaluate\n"
    "model = models.resnet18(weights='DEFAULT')\n"
    "optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)\n"
    + loop(after="evaluate(model, val_loader)\n"),
    "the model of the validation is a copy": "model = models.resnet18(weights='DEFAULT')\n"
    "optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)\n"
    + loop(after="ema = copy.deepcopy(model)\nema.eval()\nfor x, y in val_loader:\n    ema(x)\n"),
    "validation in train mode": "model = models.resnet18(weights='DEFAULT')\n"
    "optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)\n"
    "@torch.no_grad()\ndef evaluate(data):\n    for x, y in data:\n        model(x)  # <- FC405\n"
    + loop("model.train()", after="evaluate(val_data)\n"),
    "statistics computed anew": "model = models.resnet18(weights='DEFAULT')\n"
    "optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)\n"
    "@torch.no_grad()\ndef update_bn(loader):\n    for x, y in loader:\n        model(x)\n"
    + loop("model.train()", after="update_bn(test_loader)\n"),
    "dropout at test time, on purpose": "model = models.resnet18(weights='DEFAULT')\n"
    "optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)\n"
    "def evaluate(loader):\n    model.train()\n    with torch.no_grad():\n"
    "        for x, y in loader:\n            model(x)\n"
    + loop("model.train()", after="evaluate(val_loader)\n"),
    "pseudo-labels": "model = models.resnet18(weights='DEFAULT')\n"
    "optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)\nmodel.train()\n"
    "for (x, y), u in zip(loader, unlabelled):\n    with torch.no_grad():\n        guess = model(u)\n"
    "    loss = F.cross_entropy(model(x), y) + F.cross_entropy(model(u), guess.softmax(1))\n"
    "    loss.backward()\n    optimizer.step()\n",
    "a flag that hides a method": "class Net(nn.Module):\n    def __init__(self, cfg):\n"
    "        super().__init__()\n        self.freeze_bn = cfg.freeze_bn  # <- FC408\n"
    "    def freeze_bn(self):\n        pass\n    def forward(self, x):\n        return x\n"
    "def main(cfg):\n    return Net(cfg)\n",
    "a function that takes the place of a method": "class Net(nn.Module):\n"
    "    def __init__(self, loss):\n        super().__init__()\n        self.loss = loss\n"
    "    def loss(self, x):\n        return x\n    def forward(self, x):\n        return x\n"
    "net = Net(F.mse_loss)\n",
}


@pytest.mark.parametrize("name", CASES)
def test_modes(name):
    code = HEAD + CASES[name]
    marked = [
        (number, match.group(1))
        for number, line in enumerate(code.splitlines(), 1)
        if (match := re.search(r"<- (FC4\d\d)", line))
    ]
    assert [found for found in lint(code) if found[1].startswith("FC4")] == marked
