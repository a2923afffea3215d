"""A network at one size whatever the image's: for weights that were trained on images resized to one size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class AtSize(nn.Module):
    """Resizes the image to `size` (height, width), and the logits back to the image's own size, both bilinearly.

    Shapes: image (N, 3, H, W) to logits (N, C, H, W), as the networks have it.
    """

    def __init__(self, network: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, image: Tensor) -> Tensor:
        # antialias: each pixel of a smaller image averages what it covers, as Pillow's resizing does.
        small = F.interpolate(image, self.size, mode="bilinear", align_corners=False, antialias=True)
        return F.interpolate(self.network(small), tuple(image.shape[2:]), mode="bilinear", align_corners=False)
