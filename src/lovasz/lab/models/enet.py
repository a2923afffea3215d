"""ENet (Paszke, Chaurasia, Kim and Culurciello 2016, arXiv:1606.02147) in the two variants of which weights are public.

The blocks are shared; everything in which the variants differ is one field of `Variant`, so that it can be read in one
place. Files and their key names are the business of `weights.py` and `layouts.py`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lovasz.lab.errors import LabError
from lovasz.lab.models.images import require_image
from lovasz.lab.models.prelu import PReLU

INITIAL_CHANNELS = 16
DROPOUT = {"stage1": 0.01, "stage2": 0.1, "stage3": 0.1}  # Section 4: p = 0.01 before bottleneck 2.0, 0.1 afterwards
DIVISOR = 8  # three halvings; inputs are padded to a multiple

# Table 1, stages 2 and 3, without the downsampling bottleneck: the middle convolution of each bottleneck.
CONTEXT = ("regular", "dilated 2", "asymmetric", "dilated 4", "regular", "dilated 8", "asymmetric", "dilated 16")


@dataclass(frozen=True)
class Variant:
    """What the two networks called ENet do differently."""

    pool_kernel: int  # 2, or 3 with padding 1; the unpooling is 2 x 2 in both
    norm_eps: float
    spatial_bias: bool  # bias in 3x3 convolutions, in the last of an asymmetric pair and in transposed ones
    narrow_by_output: bool  # a resampling bottleneck narrows to a quarter of its output's channels, else its input's
    slope_per_channel: bool  # PReLUs inside the extension branch; else one slope for all channels
    expand_activation: bool  # a PReLU after the expansion, before the sum
    asymmetric_kernels: tuple[tuple[int, int], tuple[int, int]]
    asymmetric_norm_between: bool  # normalise and activate also between the two asymmetric convolutions
    decoder_dropout: float
    classifier_kernel: int  # 2, or 3 with padding 1 and output padding 1; stride 2 in both
    classifier_bias: bool


# davidtvs/PyTorch-ENet as of March 2018.
PYTORCH = Variant(
    pool_kernel=3,
    norm_eps=1e-5,
    spatial_bias=False,
    narrow_by_output=False,
    slope_per_channel=False,
    expand_activation=True,
    asymmetric_kernels=((5, 1), (1, 5)),
    asymmetric_norm_between=True,
    decoder_dropout=0.1,
    classifier_kernel=3,
    classifier_bias=False,
)

# The paper's authors' own Torch7 model, e-lab/ENet-training.
TORCH7 = Variant(
    pool_kernel=2,
    norm_eps=1e-3,
    spatial_bias=True,
    narrow_by_output=True,
    slope_per_channel=True,
    expand_activation=False,
    asymmetric_kernels=((1, 5), (5, 1)),
    asymmetric_norm_between=False,
    decoder_dropout=0.0,
    classifier_kernel=2,
    classifier_bias=True,
)


def _activation(variant: Variant, channels: int) -> PReLU:
    return PReLU(channels if variant.slope_per_channel else 1)


def _norm(variant: Variant, channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=variant.norm_eps)


def _middle(variant: Variant, channels: int, kind: str) -> nn.Sequential:
    """The spatial part of an extension branch: "regular", "dilated D", "asymmetric" or "transposed"."""
    bias = variant.spatial_bias
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if kind == "asymmetric":
        first, second = variant.asymmetric_kernels
        layers["conv1"] = nn.Conv2d(channels, channels, first, padding=(first[0] // 2, first[1] // 2), bias=False)
        if variant.asymmetric_norm_between:
            layers["norm1"] = _norm(variant, channels)
            layers["activation1"] = _activation(variant, channels)
        layers["conv2"] = nn.Conv2d(channels, channels, second, padding=(second[0] // 2, second[1] // 2), bias=bias)
    elif kind == "transposed":
        layers["conv"] = nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1, bias=bias)
    else:
        dilation = int(kind.removeprefix("dilated ")) if kind.startswith("dilated ") else 1
        layers["conv"] = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=bias)
    layers["norm"] = _norm(variant, channels)
    layers["activation"] = _activation(variant, channels)
    return nn.Sequential(layers)


class Initial(nn.Module):
    """Figure 2a: 13 convolution maps beside the 3 pooled colours, at half the resolution."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        bias = variant.spatial_bias
        self.conv = nn.Conv2d(3, INITIAL_CHANNELS - 3, 3, stride=2, padding=1, bias=bias)
        self.pool = nn.MaxPool2d(variant.pool_kernel, stride=2, padding=(variant.pool_kernel - 1) // 2)
        self.norm = _norm(variant, INITIAL_CHANNELS)
        self.activation = PReLU(INITIAL_CHANNELS)

    def forward(self, image: Tensor) -> Tensor:
        maps = torch.cat((self.conv(image), self.pool(image)), dim=1)  # (N, 16, H/2, W/2)
        return self.activation(self.norm(maps))


class ExtensionBranch(nn.Module):
    """What the bottlenecks of Figure 2b share: narrow, spatial convolution, widen, drop maps; the PReLU of the sum."""

    def __init__(
        self,
        variant: Variant,
        in_channels: int,
        out_channels: int,
        *,
        inner: int,
        kind: str,
        dropout: float,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(in_channels, inner, stride, stride=stride, bias=False),  # 1x1, or 2x2 with stride 2
                norm=_norm(variant, inner),
                activation=_activation(variant, inner),
            )
        )
        self.middle = _middle(variant, inner, kind)
        expand: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(inner, out_channels, 1, bias=False), norm=_norm(variant, out_channels)
        )
        if variant.expand_activation:
            expand["activation"] = _activation(variant, out_channels)
        self.expand = nn.Sequential(expand)
        self.dropout = nn.Dropout2d(dropout)
        self.activation = PReLU(out_channels)

    def extension(self, maps: Tensor) -> Tensor:
        return self.dropout(self.expand(self.middle(self.reduce(maps))))


class Bottleneck(ExtensionBranch):
    """Keeps resolution and channels; the main branch is the input."""

    def __init__(self, variant: Variant, channels: int, kind: str, dropout: float) -> None:
        super().__init__(variant, channels, channels, inner=channels // 4, kind=kind, dropout=dropout)

    def forward(self, maps: Tensor) -> Tensor:
        return self.activation(maps + self.extension(maps))


class DownBottleneck(ExtensionBranch):
    """Halves the resolution; the main branch is a max-pooling whose places are kept, filled up with zero maps."""

    def __init__(self, variant: Variant, in_channels: int, out_channels: int, dropout: float) -> None:
        inner = (out_channels if variant.narrow_by_output else in_channels) // 4
        super().__init__(variant, in_channels, out_channels, inner=inner, kind="regular", dropout=dropout, stride=2)
        kernel = variant.pool_kernel
        self.pool = nn.MaxPool2d(kernel, stride=2, padding=(kernel - 1) // 2, return_indices=True)
        self.zero_maps = out_channels - in_channels

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        pooled, places = self.pool(maps)
        pooled = F.pad(pooled, (0, 0, 0, 0, 0, self.zero_maps))  # (N, out_channels, H/2, W/2)
        return self.activation(pooled + self.extension(maps)), places


class UpBottleneck(ExtensionBranch):
    """Doubles the resolution; the main branch puts its maps back where the matching pooling took its maxima."""

    def __init__(self, variant: Variant, in_channels: int, out_channels: int, dropout: float) -> None:
        inner = (out_channels if variant.narrow_by_output else in_channels) // 4
        super().__init__(variant, in_channels, out_channels, inner=inner, kind="transposed", dropout=dropout)
        self.places_overlap = variant.pool_kernel > 2
        self.skip = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(in_channels, out_channels, 1, bias=False), norm=_norm(variant, out_channels))
        )

    def forward(self, maps: Tensor, places: Tensor) -> Tensor:
        unpooled = unpool(self.skip(maps), places, places_overlap=self.places_overlap)  # (N, out_channels, 2H, 2W)
        return self.activation(unpooled + self.extension(maps))


def unpool(maps: Tensor, places: Tensor, *, places_overlap: bool) -> Tensor:
    """Values put back at the places of their maxima in maps of twice the size, zero elsewhere.

    Where pooling windows overlap, two may have taken one maximum. Then the value of the last in raster order counts and
    the others get no gradient, whatever the device and the threads; torch's max_unpool2d leaves that to a race.

    Shapes: maps and places (N, C, H, W), places in 0..4HW-1; returns (N, C, 2H, 2W).
    """
    count, channels, height, width = maps.shape
    if places_overlap:
        maps = maps.masked_fill(_taken_again(places), 0)
    # Channels last, as the convolutions have them. Of the values added at one place all but one are zero.
    values, targets = (x.permute(0, 2, 3, 1).reshape(count, -1, channels) for x in (maps, places))  # (N, HW, C)
    unpooled = maps.new_zeros(count, 4 * height * width, channels).scatter_add(1, targets, values)
    return unpooled.view(count, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


def _taken_again(places: Tensor) -> Tensor:
    """Which windows of a 3 x 3 pooling with stride 2 share their maximum with a later one: right or in the next row."""
    again = torch.zeros_like(places, dtype=torch.bool)
    again[..., :-1] |= places[..., :-1] == places[..., 1:]
    again[..., :-1, 1:] |= places[..., :-1, 1:] == places[..., 1:, :-1]
    again[..., :-1, :] |= places[..., :-1, :] == places[..., 1:, :]
    again[..., :-1, :-1] |= places[..., :-1, :-1] == places[..., 1:, 1:]
    return again


class ENet(nn.Module):
    """The encoder-decoder of Table 1 of the paper: about 0.35 million parameters, logits at the input's resolution.

    Args:
        num_classes: number of output channels C, at least 1.
        variant: `PYTORCH` (davidtvs/PyTorch-ENet) or `TORCH7` (the paper's authors).

    Shapes:
        image: (N, 3, H, W) floating, RGB in [0, 1], any H and W >= 1. Sizes that are not multiples of 8 are padded
        at the right and the bottom by repeating the border, and the logits are cropped.
        returns: (N, C, H, W) logits.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(self, num_classes: int, variant: Variant = PYTORCH) -> None:
        super().__init__()
        if num_classes < 1:
            raise LabError(f"num_classes is {num_classes}; a segmentation network needs at least 1 class.")
        self.num_classes = num_classes
        self.variant = variant
        self.register_buffer("input_mean", torch.zeros(3, 1, 1))
        self.register_buffer("input_std", torch.ones(3, 1, 1))

        p1, p2, p3, p4 = *DROPOUT.values(), variant.decoder_dropout
        self.initial = Initial(variant)
        self.down1 = DownBottleneck(variant, INITIAL_CHANNELS, 64, p1)
        self.stage1 = nn.Sequential(*(Bottleneck(variant, 64, "regular", p1) for _ in range(4)))
        self.down2 = DownBottleneck(variant, 64, 128, p2)
        self.stage2 = nn.Sequential(*(Bottleneck(variant, 128, kind, p2) for kind in CONTEXT))
        self.stage3 = nn.Sequential(*(Bottleneck(variant, 128, kind, p3) for kind in CONTEXT))
        self.up4 = UpBottleneck(variant, 128, 64, p4)
        self.stage4 = nn.Sequential(*(Bottleneck(variant, 64, "regular", p4) for _ in range(2)))
        self.up5 = UpBottleneck(variant, 64, 16, p4)
        self.stage5 = nn.Sequential(Bottleneck(variant, 16, "regular", p4))
        self.classifier = nn.ConvTranspose2d(
            16,
            num_classes,
            variant.classifier_kernel,
            stride=2,
            padding=variant.classifier_kernel - 2,
            output_padding=variant.classifier_kernel - 2,
            bias=variant.classifier_bias,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, for training from scratch: He et al. 2015 (arXiv:1502.01852, Eq. 15), slope 0.25."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                fan_in = module.in_channels * math.prod(module.kernel_size)
                if isinstance(module, nn.ConvTranspose2d):
                    fan_in /= math.prod(module.stride)  # with stride 2 one output is fed by a quarter of the taps
                nn.init.normal_(module.weight, std=math.sqrt(2 / ((1 + 0.25**2) * fan_in)))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, PReLU):
                nn.init.constant_(module.weight, 0.25)

    def forward(self, image: Tensor) -> Tensor:
        require_image(image)
        height, width = image.shape[2:]
        maps = (image - self.input_mean) / self.input_std
        if height % DIVISOR or width % DIVISOR:
            maps = F.pad(maps, (0, -width % DIVISOR, 0, -height % DIVISOR), mode="replicate")
        # Convolutions and pooling keep this order of memory; it is faster on CPU and on GPUs alike.
        maps = self.initial(maps.contiguous(memory_format=torch.channels_last))
        maps, places1 = self.down1(maps)
        maps = self.stage1(maps)
        maps, places2 = self.down2(maps)
        maps = self.stage3(self.stage2(maps))
        maps = self.stage4(self.up4(maps, places2))
        maps = self.stage5(self.up5(maps, places1))
        return self.classifier(maps)[:, :, :height, :width].contiguous()  # (N, C, H, W)


def pytorch_enet(num_classes: int) -> ENet:
    """ENet as in davidtvs/PyTorch-ENet, randomly initialised."""
    return ENet(num_classes, PYTORCH)


def torch7_enet(num_classes: int) -> ENet:
    """ENet as in its authors' own Torch7 model, randomly initialised."""
    return ENet(num_classes, TORCH7)
