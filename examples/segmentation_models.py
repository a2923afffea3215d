"""A network of segmentation_models_pytorch with our loss, for many classes or for a foreground.

`encoder_weights=None` keeps this example off the net; "imagenet" is the usual start.
"""

import segmentation_models_pytorch as smp
import torch

from lovasz import LovaszHingeLoss, LovaszSoftmaxLoss
from lovasz.metrics import DatasetIoU

torch.manual_seed(0)

# Drawn data: squares of two classes on noise; 255 is void. Your DataLoader stands here.
masks = torch.zeros(8, 64, 64, dtype=torch.long)
for i, mask in enumerate(masks):
    y, x = torch.randint(0, 32, (2,)).tolist()
    mask[y : y + 32, x : x + 32] = 1 + i % 2
    mask[0] = 255
images = torch.eye(3)[masks % 255].movedim(-1, 1) + 0.5 * torch.randn(8, 3, 64, 64)


def fit(network, criterion, targets, epochs=10):
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(epochs):
        for image, target in zip(images.split(4), targets.split(4), strict=True):
            loss = criterion(network(image), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


# Many classes: logits (N, C, H, W), in the place of smp.losses.LovaszLoss("multiclass", ignore_index=255).
network = smp.Unet("resnet18", encoder_depth=3, encoder_weights=None, decoder_channels=(64, 32, 16), classes=3)
losses = fit(network, LovaszSoftmaxLoss(ignore_index=255), masks)

metric = DatasetIoU(num_classes=3, ignore_index=255)
metric.update(network(images).argmax(1), masks)
print(f"loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last; mIoU on these images {metric.compute():.3f}")

# A foreground: one channel of scores, targets 0 and 1. smp's LovaszLoss("binary") takes the batch as one set of pixels
# (per_image=False); so does this. A pixel is foreground where its score is above 0.
network = smp.Linknet("resnet18", encoder_depth=3, encoder_weights=None, classes=1)
foreground = torch.where(masks == 255, masks, (masks > 0).long())
binary = fit(network, LovaszHingeLoss(per_image=False, ignore_index=255), foreground)
print(f"hinge loss {binary[0]:.3f} at first, {binary[-1]:.3f} at last")
