"""Manual optimization: backbone and head have optimizers and schedules of their own; layer2 joins later."""

import argparse

import lightning as L
import torch
from digits import get_loaders, hold_frozen_batchnorm, pretrained
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--no-group", action="store_true", help="forget to tell the optimizer")
args = parser.parse_args()


class Digits(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.net = pretrained(num_classes=5)
        self.net.requires_grad_(False)
        self.net.layer3.requires_grad_(True)
        self.net.fc.requires_grad_(True)

    def training_step(self, batch, batch_idx):
        hold_frozen_batchnorm(self)
        optimizers = self.optimizers()
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()

    def on_train_epoch_end(self):
        for scheduler in self.lr_schedulers():
            scheduler.step()
        if self.current_epoch == 1:
            self.net.layer2.requires_grad_(True)
            if not args.no_group:
                group = {"params": list(self.net.layer2.parameters()), "lr": 1e-4}
                self.optimizers()[0].optimizer.add_param_group(group)

    def configure_optimizers(self):
        slow = torch.optim.AdamW(self.net.layer3.parameters(), lr=5e-4)
        fast = torch.optim.AdamW(self.net.fc.parameters(), lr=5e-3)
        steps = torch.optim.lr_scheduler.StepLR(slow, 1, gamma=0.9)
        return (
            {"optimizer": slow, "lr_scheduler": {"scheduler": steps, "frequency": 1}},
            {
                "optimizer": fast,
                "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(fast, 4),
            },
        )


trainer = L.Trainer(
    max_epochs=4,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Digits(), get_loaders([5, 6, 7, 8, 9])[0])
print("finished")
