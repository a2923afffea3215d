"""Ways of asking a trained network: at one size whatever the image's, or at several sizes. Each is a network itself, so
that evaluation and prediction need not know of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lovasz.lab.crf import WithCRF
from lovasz.lab.errors import LabError


class AtSize(nn.Module):
    """Resizes the image to `size` (height, width), and the logits back to the image's own size, both bilinearly.

    For weights that were trained on images resized to one size.
    Shapes: image (N, 3, H, W) to logits (N, C, H, W), as the networks have it.
    """

    def __init__(self, network: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        pair = isinstance(size, Sequence) and len(size) == 2
        if not (pair and all(isinstance(side, int) and side > 0 for side in size)):
            raise LabError(f"size: got {size!r}, expected (height, width), whole numbers above 0, such as (384, 512).")
        self.network, self.size = network, size

    def forward(self, image: Tensor) -> Tensor:
        # antialias: each pixel of a smaller image averages what it covers, as Pillow's resizing does.
        small = F.interpolate(image, self.size, mode="bilinear", align_corners=False, antialias=True)
        return F.interpolate(self.network(small), tuple(image.shape[2:]), mode="bilinear", align_corners=False)


class MultiScale(nn.Module):
    """The mean over `scales` of the class probabilities of the resized image, each brought back to the image's size.

    DeepLab-v2's evaluation (Section 4.3 of the paper) has the scales 1, 0.75 and 0.5.
    Shapes: image (N, 3, H, W) to log-probabilities (N, C, H, W), which have the arg max and the softmax of the mean.
    """

    def __init__(self, network: nn.Module, scales: Sequence[float] = (1.0, 0.75, 0.5)) -> None:
        super().__init__()
        if not scales or not all(0 < scale <= 8 for scale in scales) or len(set(scales)) != len(scales):
            raise LabError(
                f"scales: got {list(scales)}, expected different factors above 0, up to 8, such as 1,0.75,0.5."
            )
        self.network, self.scales = network, tuple(scales)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        total = None
        for scale in self.scales:
            size = max(1, round(height * scale)), max(1, round(width * scale))
            resized = image
            if size != (height, width):
                resized = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=scale < 1)
            probabilities = self.network(resized).float().softmax(1)
            if size != (height, width):
                probabilities = F.interpolate(probabilities, (height, width), mode="bilinear", align_corners=False)
            total = probabilities if total is None else total + probabilities
        assert total is not None
        return (total / len(self.scales)).clamp_min(1e-30).log()


def ask_as(network: nn.Module, *, size: tuple[int, int] | None, scales: Sequence[float] | None, crf: bool) -> nn.Module:
    """The network behind these ways of asking: at one size outside, at several scales of that within, the CRF last."""
    if scales is not None:
        network = MultiScale(network, scales)
    if size is not None:
        network = AtSize(network, size)
    return WithCRF(network) if crf else network
