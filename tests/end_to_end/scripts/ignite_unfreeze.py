"""An ignite engine with a handler that unfreezes the last stage after the third epoch."""

import argparse

import torch
from digits import get_loaders, hold_frozen_batchnorm, pretrained
from ignite.engine import Engine, Events, create_supervised_evaluator
from ignite.handlers import LRScheduler
from ignite.metrics import Accuracy
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--no-group", action="store_true", help="forget to tell the optimizer")
args = parser.parse_args()

train_loader, test_loader = get_loaders([5, 6, 7, 8, 9])
model = pretrained(num_classes=5)
model.requires_grad_(False)
model.fc.requires_grad_(True)
optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.05, momentum=0.9)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.7)
criterion = nn.CrossEntropyLoss()


def train_step(engine, batch):
    model.train()
    hold_frozen_batchnorm(model)
    images, labels = batch
    optimizer.zero_grad()
    loss = criterion(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


trainer = Engine(train_step)
evaluator = create_supervised_evaluator(model, metrics={"accuracy": Accuracy()})


@trainer.on(Events.EPOCH_COMPLETED(once=3))
def unfreeze(engine):
    model.layer3.requires_grad_(True)
    if not args.no_group:
        optimizer.add_param_group({"params": list(model.layer3.parameters()), "lr": 0.005})


@trainer.on(Events.EPOCH_COMPLETED)
def validate(engine):
    evaluator.run(test_loader)
    print(f"epoch {engine.state.epoch}: {evaluator.state.metrics['accuracy']:.3f}")


trainer.add_event_handler(Events.EPOCH_COMPLETED, LRScheduler(scheduler))
trainer.run(train_loader, max_epochs=6)
print("finished")
