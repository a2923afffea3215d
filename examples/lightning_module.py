"""A Lightning module: the loss is a submodule, the mIoU a metric that Lightning resets, joins and logs by itself."""

import lightning.pytorch as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lovasz import LovaszSoftmaxLoss
from lovasz.metrics import DatasetIoU


class Segmentation(L.LightningModule):
    def __init__(self, num_classes):
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, num_classes, 1))
        self.criterion = LovaszSoftmaxLoss(ignore_index=255)
        self.miou = DatasetIoU(num_classes, ignore_index=255)

    def training_step(self, batch, batch_idx):
        images, masks = batch
        loss = self.criterion(self.network(images), masks)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        images, masks = batch
        self.miou.update(self.network(images), masks)  # logits or class indices
        self.log("miou", self.miou, prog_bar=True)  # of all images together: not a mean over batches

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


L.seed_everything(0, verbose=False)

# Drawn data: squares of two classes on noise; 255 is void. Your data set stands here.
masks = torch.zeros(16, 48, 48, dtype=torch.long)
for i, mask in enumerate(masks):
    y, x = torch.randint(0, 28, (2,)).tolist()
    mask[y : y + 20, x : x + 20] = 1 + i % 2
    mask[0] = 255
images = torch.eye(3)[masks % 255].movedim(-1, 1) + 0.7 * torch.randn(16, 3, 48, 48)
train = DataLoader(TensorDataset(images[:12], masks[:12]), batch_size=4, shuffle=True)
val = DataLoader(TensorDataset(images[12:], masks[12:]), batch_size=4)

trainer = L.Trainer(
    max_epochs=15,
    accelerator="auto",
    logger=False,
    enable_checkpointing=False,
    enable_model_summary=False,
    enable_progress_bar=False,
)
model = Segmentation(num_classes=3)
before = trainer.validate(model, val, verbose=False)[0]["miou"]
trainer.fit(model, train, val)
after = trainer.validate(model, val, verbose=False)[0]["miou"]
print(f"validation mIoU {before:.3f} before, {after:.3f} after")
