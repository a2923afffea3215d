"""Our loss in MMSegmentation's registry: the class and its registration go into a file that `custom_imports` names.

It runs without mmseg too: the last lines train with the call that mmseg's decode heads make.
"""

import importlib.util

import torch
from torch import nn

from lovasz import LovaszSoftmaxLoss


class LovaszSoftmax(LovaszSoftmaxLoss):
    """As mmseg's heads want a loss: a name that begins with loss_, a weight, and ignore_index with each call."""

    def __init__(self, loss_weight=1.0, loss_name="loss_lovasz_softmax", class_weight=None, **options):
        super().__init__(weight=class_weight, **options)
        self.loss_weight, self.loss_name = loss_weight, loss_name

    def forward(self, cls_score, label, weight=None, ignore_index=255, **kwargs):
        if weight is not None:
            raise ValueError("weight: a loss on sets of pixels has no pixel weights; leave the head's sampler out.")
        self.ignore_index = ignore_index
        return self.loss_weight * super().forward(cls_score, label)


if importlib.util.find_spec("mmseg"):
    from mmseg.registry import MODELS  # of 1.x; in 0.x: from mmseg.models.builder import LOSSES as MODELS

    MODELS.register_module(module=LovaszSoftmax)

# In the config, alone or in a list beside other losses, which mmseg adds up:
custom_imports = dict(imports=["my_losses"], allow_failed_imports=False)
loss_decode = [
    dict(type="CrossEntropyLoss", loss_weight=1.0),
    dict(type="LovaszSoftmax", loss_weight=1.0),  # options of LovaszSoftmaxLoss too, such as per_image=True
]

# What a decode head does with it, in short.
torch.manual_seed(0)
masks = torch.zeros(4, 1, 64, 64, dtype=torch.long)
masks[:, :, 16:48, 16:48] = torch.tensor([1, 2, 1, 2]).view(4, 1, 1, 1)
masks[:, :, 0] = 255
images = torch.eye(3)[masks[:, 0] % 255].movedim(-1, 1) + 0.5 * torch.randn(4, 3, 64, 64)
head = nn.Conv2d(3, 3, 3, padding=1)
settings = {name: value for name, value in loss_decode[1].items() if name != "type"}
criterion = LovaszSoftmax(**settings)
optimizer = torch.optim.Adam(head.parameters(), lr=5e-2)
losses = []
for _ in range(20):
    loss = {criterion.loss_name: criterion(head(images), masks.squeeze(1), weight=None, ignore_index=255)}
    optimizer.zero_grad()
    sum(loss.values()).backward()
    optimizer.step()
    losses.append(loss[criterion.loss_name].item())
print(f"loss_lovasz_softmax {losses[0]:.3f} at first, {losses[-1]:.3f} at last")
