"""Labels that overlap: one sigmoid and one Lovász loss for each label, and the IoU of each label.

A pixel may have none of the labels, one, or all. Target and logits have the same shape (N, labels, H, W).
"""

import torch
from torch import nn

from lovasz import LovaszSigmoidLoss

torch.manual_seed(0)
labels = ("tissue", "vessel", "lesion")

# Drawn data: each label is a square of its own in a channel of its own, and they overlap. Your data stands here.
targets = torch.zeros(16, 3, 64, 64, dtype=torch.long)
for image in targets:
    for mask, side in zip(image, (40, 20, 8), strict=True):
        y, x = torch.randint(0, 64 - side, (2,)).tolist()
        mask[y : y + side, x : x + side] = 1
targets[:, :, 0] = 255  # void, for each label by itself
images = (targets == 1).float() + 0.7 * torch.randn(16, 3, 64, 64)

network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))
criterion = LovaszSigmoidLoss(multilabel=True, ignore_index=255)
optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)


def iou():
    predicted, valid = network(images) > 0, targets != 255
    both = (predicted & (targets == 1) & valid).sum((0, 2, 3))
    either = ((predicted | (targets == 1)) & valid).sum((0, 2, 3))
    return both / either  # (labels,)


before = iou()
for _ in range(15):
    for image, target in zip(images.split(4), targets.split(4), strict=True):
        logits = network(image)  # (N, labels, H, W)
        loss = criterion(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
after = iou()

for label, start, end in zip(labels, before, after, strict=True):
    print(f"{label}: IoU {start:.3f} before, {end:.3f} after")
