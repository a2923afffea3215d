"""ESPNetv2 (Mehta, Rastegari, Shapiro and Hajishirzi, CVPR 2019, arXiv:1811.11431) for segmentation, scale s = 2.

The encoder is the paper's (EESP blocks, Figure 1; strided ones with the image reinforced, Figure 2); the decoder with
pyramid pooling is that of its authors' repository sacmehta/EdgeNets, of which VOC weights are public.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lovasz.lab.errors import LabError
from lovasz.lab.models.images import require_image
from lovasz.lab.models.prelu import PReLU

CHANNELS = (32, 128, 256, 512)  # of the four levels, at 1/2, 1/4, 1/8 and 1/16 of the size
REPEATS = {3: 3, 4: 7}  # EESP blocks after the strided one of levels 3 and 4
BRANCHES = 4
DILATIONS = (1, 2, 3, 4)
DILATIONS_LAST = (1, 1, 2, 3)  # in level 4: a branch whose field would exceed 7 pixels falls back to 3
DECODER = (64, 48, 32)
PYRAMID = 10  # channels inside the pyramid pooling: min(21 classes // 2, 16) in the published network
SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)
SMALLEST = 5  # pixels a side of the coarsest scale
DIVISOR = 16


def _block(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        norm=nn.BatchNorm2d(outputs),
    )
    if act:
        layers["activation"] = PReLU(outputs)
    return nn.Sequential(layers)


def _norm(channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(channels), activation=PReLU(channels)))


class Pyramid(nn.Module):
    """The middle of an EESP block: narrow, depthwise convolutions of growing dilation, summed up in turn, merge."""

    def __init__(self, inputs: int, outputs: int, dilations: tuple[int, ...], stride: int = 1) -> None:
        super().__init__()
        inner = outputs // BRANCHES
        self.reduce = _block(inputs, inner, 1, groups=BRANCHES)
        self.branches = nn.ModuleList(
            nn.Conv2d(inner, inner, 3, stride, padding=d, dilation=d, groups=inner, bias=False) for d in dilations
        )
        self.inner = _norm(outputs)
        self.merge = _block(outputs, outputs, 1, groups=BRANCHES, act=False)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.reduce(maps)
        sums: list[Tensor] = []
        for branch in self.branches:
            sums.append(branch(maps) + sums[-1] if sums else branch(maps))
        return self.merge(self.inner(torch.cat(sums, 1)))


class EESP(nn.Module):
    """Keeps resolution and channels; the input is added."""

    def __init__(self, channels: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.pyramid = Pyramid(channels, channels, dilations)
        self.activation = PReLU(channels)

    def forward(self, maps: Tensor) -> Tensor:
        return self.activation(self.pyramid(maps) + maps)


class StridedEESP(nn.Module):
    """Halves the resolution: average pooling beside a strided pyramid, and the image itself at that resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pyramid = Pyramid(inputs, outputs - inputs, DILATIONS, stride=2)
        self.image = nn.Sequential(_block(3, 3, 3), _block(3, outputs, 1, act=False))
        self.activation = PReLU(outputs)

    def forward(self, maps: Tensor, image: Tensor) -> Tensor:
        return self.activation(torch.cat((_halve(maps), self.pyramid(maps)), 1) + self.image(image))


class PyramidPooling(nn.Module):
    """Depthwise convolutions at five scales of the map, normalised together, shuffled and mixed."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.reduce = _block(inputs, PYRAMID, 1)
        self.stages = nn.ModuleList(
            nn.Conv2d(PYRAMID, PYRAMID, 3, padding=1, groups=PYRAMID, bias=False) for _ in SCALES
        )
        self.inner = _norm(PYRAMID * len(SCALES))
        self.mix = _block(PYRAMID * len(SCALES), PYRAMID, 3, groups=PYRAMID)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.reduce(maps)
        size = maps.shape[2], maps.shape[3]
        found = []
        for scale, stage in zip(SCALES, self.stages, strict=True):
            rows, columns = (max(SMALLEST, math.ceil(side * scale)) for side in size)
            inner = rows, columns
            if scale < 1:
                found.append(_resize(stage(F.adaptive_avg_pool2d(maps, inner)), size))
            elif scale > 1:
                found.append(F.adaptive_avg_pool2d(stage(_resize(maps, inner)), size))
            else:
                found.append(stage(maps))
        stacked = self.inner(torch.cat(found, 1))  # (N, 5 * 10, H, W)
        shuffled = stacked.unflatten(1, (len(SCALES), PYRAMID)).transpose(1, 2).flatten(1, 2)
        return self.mix(shuffled)


class Skip(nn.Module):
    """Encoder maps narrowed for the decoder, each channel weighted by a gate of the whole map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.expand = _block(inputs, outputs, 3, groups=math.gcd(inputs, outputs))

    def forward(self, maps: Tensor) -> Tensor:
        return self.expand(maps) * self.gate(F.adaptive_avg_pool2d(maps, 1)).sigmoid()


class ESPNetV2(nn.Module):
    """About 0.8 million parameters for 21 classes; logits at the input's resolution.

    Args:
        num_classes: number of output channels C, at least 1.

    Shapes:
        image: (N, 3, H, W) floating, RGB in [0, 1], any H and W >= 1; sizes that are not multiples of 16 are padded at
        the right and the bottom by repeating the border, and the logits are cropped. The published weights were trained
        on 384 x 384, to which their evaluation resizes every image: see `lovasz.lab.models.resized.AtSize`.
        returns: (N, C, H, W) logits.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise LabError(f"num_classes is {num_classes}; a segmentation network needs at least 1 class.")
        self.register_buffer("input_mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("input_std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))
        first, second, third, fourth = CHANNELS
        self.level1 = _block(3, first, 3, stride=2)
        self.down2 = StridedEESP(first, second)
        self.down3 = StridedEESP(second, third)
        self.level3 = nn.Sequential(*(EESP(third, DILATIONS) for _ in range(REPEATS[3])))
        self.down4 = StridedEESP(third, fourth)
        self.level4 = nn.Sequential(*(EESP(fourth, DILATIONS_LAST) for _ in range(REPEATS[4])))
        inputs = (fourth, *DECODER)
        self.pools = nn.ModuleList(PyramidPooling(channels) for channels in inputs)
        self.widen = nn.ModuleList(nn.Conv2d(PYRAMID, channels, 1, bias=False) for channels in DECODER)
        self.after = nn.ModuleList(_norm(channels) for channels in DECODER)
        self.skips = nn.ModuleList(Skip(*pair) for pair in zip((third, second, first), DECODER, strict=True))
        self.join = nn.ModuleList(_norm(channels) for channels in DECODER)
        self.classifier = nn.Conv2d(PYRAMID, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015 by outputs, as the authors
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        require_image(image)
        height, width = image.shape[2:]
        image = (image - self.input_mean) / self.input_std
        if height % DIVISOR or width % DIVISOR:
            image = F.pad(image, (0, -width % DIVISOR, 0, -height % DIVISOR), mode="replicate")
        padded = image.shape[2:]
        level1 = self.level1(image)
        image = _halve(_halve(image))
        level2 = self.down2(level1, image)
        image = _halve(image)
        level3 = self.level3(self.down3(level2, image))
        level4 = self.level4(self.down4(level3, _halve(image)))
        maps = self.pools[0](level4)
        for i, skipped in enumerate((level3, level2, level1)):
            wide = self.after[i](self.widen[i](maps))
            maps = self.join[i](self.skips[i](skipped) + _resize(wide, skipped.shape[2:]))
            maps = self.pools[i + 1](maps)
        return _resize(self.classifier(maps), padded)[:, :, :height, :width].contiguous()  # (N, C, H, W)


def _halve(maps: Tensor) -> Tensor:
    return F.avg_pool2d(maps, 3, stride=2, padding=1)


def _resize(maps: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=True)


_LEVELS = {"level1": "level1", "down2": "level2_0", "down3": "level3_0", "down4": "level4_0"}
_LEVELS |= {"level3": "level3", "level4": "level4"}
_ENCODER = {"norm": "bn", "activation": "act", "reduce": "proj_1x1", "branches": "spp_dw", "inner": "br_after_cat"}
_ENCODER |= {"merge": "conv_1x1_exp", "image": "inp_reinf"}
_DECODER = {"conv": "cbr.0", "norm": "cbr.1", "activation": "cbr.2"}
# Tensors of the published file that its network never reads: the activation after a strided pyramid.
UNUSED = frozenset(f"base_net.level{level}_0.eesp.module_act.weight" for level in (2, 3, 4))


def edgenets_key(key: str) -> str:
    """Our key to that of sacmehta/EdgeNets."""
    head, *rest = key.split(".")
    if head in _LEVELS:
        words = [f"base_net.{_LEVELS[head]}"]
        if head in ("level3", "level4") and rest[1:] == ["activation", "weight"]:
            return f"{words[0]}.{rest[0]}.module_act.weight"
        for word in rest:
            if word == "pyramid":
                words += ["eesp"] if head.startswith("down") else []
            else:
                words.append(_ENCODER.get(word, word))
        if "branches" in rest:
            words.insert(-1, "conv")
        return ".".join(words)
    if head == "classifier":
        return f"bu_dec_l4.merge_layer.3.{rest[0]}"
    number, part, tensor = int(rest[0]), rest[1], rest[-1]
    if head == "pools":
        block = f"bu_dec_l{number + 1}"
        if part == "stages":
            return f"{block}.stages.{rest[2]}.{tensor}"
        if part == "inner":
            return f"{block}.merge_layer.0.br.{'01'[rest[2] == 'activation']}.{tensor}"
        place = {"reduce": "projection_layer", "mix": "merge_layer.2"}[part]
        return f"{block}.{place}.{_DECODER[rest[2]]}.{tensor}"
    if head == "widen":
        return f"bu_dec_l{number + 1}.merge_layer.3.{tensor}"
    if head == "after":
        return f"bu_dec_l{number + 1}.br.br.{'01'[part == 'activation']}.{tensor}"
    if head == "join":
        return f"bu_br_l{number + 2}.{'01'[part == 'activation']}.{tensor}"
    if part == "gate":
        return f"merge_enc_dec_l{number + 2}.wt_layer.1.{tensor}"
    return f"merge_enc_dec_l{number + 2}.expansion_layer.{_DECODER[rest[2]]}.{tensor}"
