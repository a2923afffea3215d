"""Volumes with MONAI: a 3-D U-Net, logits (N, C, D, H, W), targets with MONAI's channel of one."""

import torch
from monai.losses import DiceLoss
from monai.metrics import MeanIoU
from monai.networks.nets import UNet
from monai.networks.utils import one_hot

from lovasz import LovaszSoftmaxLoss

torch.manual_seed(0)

# Drawn data: a box with a smaller one inside, in noise, as MONAI's loaders give it. Your DataLoader stands here.
labels = torch.zeros(4, 1, 24, 32, 32)
for volume in labels:
    z, y, x = (int(torch.randint(2, limit, ())) for limit in (10, 14, 14))
    volume[:, z : z + 12, y : y + 16, x : x + 16] = 1
    volume[:, z + 3 : z + 9, y + 4 : y + 12, x + 4 : x + 12] = 2
images = (labels == 1) + 2.0 * (labels == 2) + 0.5 * torch.randn(labels.shape)

network = UNet(spatial_dims=3, in_channels=1, out_channels=3, channels=(8, 16, 32), strides=(2, 2), num_res_units=1)
lovasz = LovaszSoftmaxLoss()
dice = DiceLoss(softmax=True, to_onehot_y=True)  # MONAI's usual one takes the same logits and labels
optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)


@torch.no_grad()
def iou():
    """Mean over volumes and classes 1 and 2, MONAI's own measure."""
    network.eval()
    metric = MeanIoU(include_background=False)
    metric(one_hot(network(images).argmax(1, keepdim=True), 3), one_hot(labels, 3))
    network.train()
    return metric.aggregate().item()


before = iou()
for _ in range(15):
    for image, label in zip(images.split(2), labels.split(2), strict=True):
        logits = network(image)  # (N, C, D, H, W)
        # MONAI keeps the channel of labels, (N, 1, D, H, W), and loads them as float; class indices are (N, D, H, W).
        loss = lovasz(logits, label[:, 0].long()) + dice(logits, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
after = iou()
print(f"IoU of the two structures {before:.3f} before, {after:.3f} after")
