"""Handwritten digits, and a network that was pretrained on half of them, for the scripts beside this file."""

import sys
from pathlib import Path

import torch
from torch import nn

FOLDER = Path(__file__).resolve().parents[3] / "fixtures" / "digits"
sys.path.insert(0, str(FOLDER))

from data import get_datasets, get_loaders  # noqa: E402, F401
from model import DigitNet  # noqa: E402


def pretrained(num_classes=5):
    """The network with a new head for `num_classes`."""
    model = DigitNet(num_classes=5)
    model.load_state_dict(torch.load(FOLDER / "pretrained.pt", weights_only=True))
    model.fc = nn.Linear(model.fc.in_features, num_classes)
    return model


def hold_frozen_batchnorm(model):
    """Keep the statistics of frozen BatchNorm layers as they were pretrained."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()
