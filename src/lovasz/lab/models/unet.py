"""A small U-Net (Ronneberger et al. 2015, arXiv 1505.04597) for small images, of which ENet's first stages lose much.

12 channels at full size, three halvings: 110,000 weights, quick on two cores. The demo trains it on `shapes`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lovasz.lab.errors import LabError
from lovasz.lab.models.images import require_image

STEPS = 3  # halvings of the resolution


def _block(inputs: int, outputs: int, depth: int = 2) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        inputs = outputs
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Logits (N, C, H, W) of RGB images in [0, 1] (N, 3, H, W), any H and W (padded inside by repeating the border).

    Args:
        num_classes: number of outputs C.
        width: channels at full resolution; twice and four times as many below.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(self, num_classes: int, width: int = 12) -> None:
        super().__init__()
        if num_classes < 1:
            raise LabError(f"num_classes is {num_classes}; a segmentation network needs at least 1 class.")
        self.register_buffer("input_mean", torch.full((3, 1, 1), 0.5))
        self.register_buffer("input_std", torch.ones(3, 1, 1))
        self.down = nn.ModuleList(
            [
                _block(3, width, 1),
                _block(width, 2 * width),
                _block(2 * width, 4 * width),
                _block(4 * width, 4 * width),
            ]
        )
        self.up = nn.ModuleList(
            [_block(8 * width, 2 * width, 1), _block(4 * width, width, 1), _block(2 * width, width, 1)]
        )
        # A transposed convolution of one pixel, as the other networks end with one: a class is an output channel.
        self.classifier = nn.ConvTranspose2d(width, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        require_image(image)
        height, width = image.shape[-2:]
        multiple = 2**STEPS
        maps = (image - self.input_mean) / self.input_std
        maps = F.pad(maps, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        skips = []
        for i, block in enumerate(self.down):
            maps = block(F.max_pool2d(maps, 2) if i else maps)
            skips.append(maps)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            maps = block(torch.cat([F.interpolate(maps, scale_factor=2.0), skip], 1))
        return self.classifier(maps)[..., :height, :width].contiguous()
