"""fastai's fine_tune: one epoch of the head, then all of the model at lower rates."""

import argparse

import torch
from digits import get_loaders, pretrained
from fastai.callback import schedule  # noqa: F401  (gives a Learner its fine_tune)
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper
from fastai.torch_core import params
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--no-head", action="store_true", help="a splitter that leaves out the head")
parser.add_argument("--torch-optimizer", action="store_true")
args = parser.parse_args()


def splitter(model):
    early = nn.ModuleList([model.stem, model.layer1, model.layer2])
    if args.no_head:
        return [params(early), params(model.layer3)]
    return [params(early), params(model.layer3), params(model.fc)]


def adamw(groups, lr, **options):
    return OptimWrapper(groups, torch.optim.AdamW, lr=lr, **options)


train_loader, test_loader = get_loaders([5, 6, 7, 8, 9])
extra = {"opt_func": adamw} if args.torch_optimizer else {}
learn = Learner(
    DataLoaders(train_loader, test_loader),
    pretrained(num_classes=5),
    loss_func=nn.CrossEntropyLoss(),
    splitter=splitter,
    metrics=accuracy,
    **extra,
)
with learn.no_bar(), learn.no_logging():
    learn.fine_tune(3, base_lr=5e-3, freeze_epochs=1)
print("finished")
