"""Lightning's BackboneFinetuning: the head first, the backbone from the third epoch on."""

import argparse

import lightning as L
import torch
from digits import get_loaders, pretrained
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--no-group", action="store_true", help="forget to tell the optimizer")
args = parser.parse_args()


class Digits(L.LightningModule):
    def __init__(self):
        super().__init__()
        net = pretrained(num_classes=5)
        self.backbone = nn.Sequential(
            net.stem, net.layer1, net.layer2, net.layer3, net.pool, nn.Flatten()
        )
        self.head = net.fc

    def forward(self, images):
        return self.head(self.backbone(images))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("accuracy", (self(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(filter(lambda p: p.requires_grad, self.parameters()), lr=5e-3)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=20, gamma=0.5)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 2},
        }


class Unfreezing(BaseFinetuning):
    def freeze_before_training(self, module):
        self.freeze(module.backbone, train_bn=False)

    def finetune_function(self, module, epoch, optimizer):
        if epoch == 2:
            self.make_trainable(module.backbone)


callback = BackboneFinetuning(unfreeze_backbone_at_epoch=2, backbone_initial_lr=1e-4)
train_loader, test_loader = get_loaders([5, 6, 7, 8, 9])
trainer = L.Trainer(
    max_epochs=4,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[Unfreezing() if args.no_group else callback],
)
trainer.fit(Digits(), train_loader, test_loader)
print("finished")
