"""Lightning's BackboneFinetuning in two processes: the backbone is unfrozen behind DDP."""

import lightning as L
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.backbone(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(filter(lambda p: p.requires_grad, self.parameters()), lr=1e-3)


if __name__ == "__main__":
    L.seed_everything(0)
    inputs = torch.randn(256, 16)
    data = TensorDataset(inputs, (inputs.sum(1) > 0).long())
    trainer = L.Trainer(
        max_epochs=12,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=10)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(), DataLoader(data, batch_size=8))
