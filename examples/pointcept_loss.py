"""Point clouds: logits (P, C) and labels (P,) of all points of a batch, and the entry in Pointcept's registry.

It runs without Pointcept too: the last lines train a network on a drawn cloud with the call that its Criteria makes.
"""

import importlib.util

import torch
from torch import nn

from lovasz import LovaszSoftmaxLoss
from lovasz.metrics import DatasetIoU


class LovaszSoftmax(LovaszSoftmaxLoss):
    """In the place of Pointcept's dict(type="LovaszLoss", mode="multiclass", loss_weight=1.0, ignore_index=-1)."""

    def __init__(self, loss_weight=1.0, ignore_index=-1, **options):
        super().__init__(ignore_index=ignore_index, **options)
        self.loss_weight = loss_weight

    def forward(self, pred, target):
        return self.loss_weight * super().forward(pred, target)


if importlib.util.find_spec("pointcept"):
    from pointcept.models.losses import LOSSES

    LOSSES.register_module(module=LovaszSoftmax)

# In the model's config, beside cross-entropy as Pointcept has it:
criteria = [
    dict(type="CrossEntropyLoss", loss_weight=1.0, ignore_index=-1),
    dict(type="LovaszSoftmax", loss_weight=1.0, ignore_index=-1),
]

# Two clouds in one batch, as Pointcept has them: points one after the other, no padding.
torch.manual_seed(0)
points = torch.rand(3000 + 2000, 3)
labels = (points[:, 2] < 0.1).long()  # 0 the room's air, 1 the floor, 2 a thing on it
labels[((points - torch.tensor([0.5, 0.5, 0.3])).abs() < 0.15).all(1)] = 2
labels[torch.rand(len(labels)) < 0.05] = -1  # nobody labelled these

network = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
settings = [{name: value for name, value in loss.items() if name != "type"} for loss in criteria]
cross_entropy, lovasz = nn.CrossEntropyLoss(ignore_index=settings[0]["ignore_index"]), LovaszSoftmax(**settings[1])
optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
losses = []
for _ in range(150):
    pred = network(points)  # (P, C)
    part = lovasz(pred, labels)
    optimizer.zero_grad()
    (cross_entropy(pred, labels) + part).backward()
    optimizer.step()
    losses.append(part.item())

metric = DatasetIoU(num_classes=3, ignore_index=-1)
metric.update(network(points).argmax(1), labels)
print(f"Lovász-Softmax loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last; mIoU {metric.compute():.3f}")
