"""DeepLab-v2 with ResNet-101 (Chen et al. 2018, arXiv:1606.00915, Section 4.1.2): output stride 8, four-branch ASPP.

The backbone is the residual network of He et al. (arXiv:1512.03385, Table 1) with the strides of its last two stages
turned into dilations 2 and 4; public weights of it come in two forms, which differ in where a block has its stride.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn

from lovasz.lab.errors import LabError
from lovasz.lab.models.images import require_image
from lovasz.lab.progress import say

BLOCKS = (3, 4, 23, 3)  # ResNet-101
WIDTHS = (64, 128, 256, 512)
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 2, 4)
RATES = (6, 12, 18, 24)  # of the classifier's branches: "DeepLab-ASPP-L"
EXPANSION = 4

# The authors' Caffe network reads BGR values 0..255 without this mean (B, G, R).
CAFFE_MEAN = (104.008, 116.669, 122.675)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's weights, RGB in 0..1


class Bottleneck(nn.Module):
    """1x1, 3x3 (dilated), 1x1; names of the parts as in torchvision."""

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, *, first: bool, stride_first: bool) -> None:
        super().__init__()
        outer = width * EXPANSION
        one, three = (stride, 1) if stride_first else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, one, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, three, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outer, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outer)
        self.downsample = None
        if first:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.bn1(self.conv1(maps)).relu()
        inner = self.bn2(self.conv2(inner)).relu()
        inner = self.bn3(self.conv3(inner))
        return (inner + (maps if self.downsample is None else self.downsample(maps))).relu()


class DeepLabV2(nn.Module):
    """DeepLab-v2 ResNet-101: about 44 million parameters; logits at the input's resolution.

    Args:
        num_classes: number of output channels C, at least 1.
        stride_first: whether a block that halves the resolution does so in its first convolution (1x1), as in the
            authors' Caffe network, or in its second (3x3), as in torchvision's.

    Shapes:
        image: (N, 3, H, W) floating, RGB in [0, 1], any H and W >= 1.
        returns: (N, C, H, W) logits: those of `coarse`, made larger bilinearly with the corners kept, as the
        authors' Interp layer does.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(self, num_classes: int, *, stride_first: bool = True) -> None:
        super().__init__()
        if num_classes < 1:
            raise LabError(f"num_classes is {num_classes}; a segmentation network needs at least 1 class.")
        self.register_buffer("input_mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("input_std", torch.tensor(IMAGENET_STD).view(3, 1, 1))
        # Both forms have tensors of the same names and shapes. A name of its own keeps a file of one from passing for
        # the other, which would compute something else.
        self.register_buffer("stride_in_1x1" if stride_first else "stride_in_3x3", torch.zeros(()))
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)  # Caffe rounds sizes up
        inputs = 64
        for i, (count, width, stride, dilation) in enumerate(zip(BLOCKS, WIDTHS, STRIDES, DILATIONS, strict=True), 1):
            blocks = []
            for number in range(count):
                step = stride if number == 0 else 1
                blocks.append(Bottleneck(inputs, width, step, dilation, first=number == 0, stride_first=stride_first))
                inputs = width * EXPANSION
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
        self.classifier = nn.ModuleList(
            nn.Conv2d(inputs, num_classes, 3, padding=rate, dilation=rate) for rate in RATES
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if module.bias is None:
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                else:  # the classifier's, as in the authors' prototxt
                    nn.init.normal_(module.weight, std=0.01)
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """What an optimiser is given: the rates of the authors' train.prototxt (lr_mult, decay_mult).

        Convolutions of the backbone learn at `learning_rate`, the classifier's weights at ten times and its biases at
        twenty times that, these without weight decay. The scale and shift of batch normalisation are not trained; its
        statistics are those of the data in training, unless they are frozen, as the authors' are.
        """
        backbone = [p for name, p in self.named_parameters() if p.requires_grad and not name.startswith("classifier.")]
        weights, biases = [b.weight for b in self.classifier], [b.bias for b in self.classifier]
        return [
            {"params": backbone, "lr": learning_rate, "weight_decay": weight_decay},
            {"params": weights, "lr": 10 * learning_rate, "weight_decay": weight_decay},
            {"params": biases, "lr": 20 * learning_rate, "weight_decay": 0.0},
        ]

    def coarse(self, image: Tensor) -> Tensor:
        """Logits (N, C, h, w) at an eighth of the size: side s gives 41 for s = 321, in general about s / 8 + 1."""
        require_image(image)
        maps = (image - self.input_mean) / self.input_std
        maps = self.pool(self.bn1(self.conv1(maps)).relu())
        for i in range(1, 5):
            maps = getattr(self, f"layer{i}")(maps)
        return torch.stack([branch(maps) for branch in self.classifier]).sum(0)

    def forward(self, image: Tensor) -> Tensor:
        size = tuple(image.shape[2:])
        return F.interpolate(self.coarse(image), size, mode="bilinear", align_corners=True).contiguous()


def deeplab_torchvision(num_classes: int) -> DeepLabV2:
    """DeepLabV2 with the strides of torchvision's ResNet-101, randomly initialised."""
    return DeepLabV2(num_classes, stride_first=False)


def load_deeplab(path: str | Path, num_classes: int, progress: Progress | None = None) -> DeepLabV2:
    """A DeepLabV2 with the weights of a published file.

    path: a .pth of torch.save (read with weights_only=True) or a .safetensors, that holds one of
        torchvision's ResNet-101 ("layer1.0.conv1.weight", ...; "fc" is left out);
        isht7/pytorch-deeplab-resnet ("Scale.layer1.0.conv1.weight", ..., "Scale.layer5.conv2d_list.0.weight"); or
        kazuto1011/deeplab-pytorch ("base.layer2.block1.reduce.conv.weight", ..., "base.aspp.c0.weight"),
        which are conversions of the authors' Caffe files. For those, the first convolution is turned from BGR to RGB
        and the mean and scale of the input are Caffe's.
    num_classes: outputs; where the file has no classifier, or one of another number, only its backbone is taken, and
        the classifier is random, by torch's seed.
    progress: is told of such a classifier.

    Raises LabError naming the file: not there, not loadable, or another network.
    """
    path = Path(path)
    state = {key.removeprefix("module."): value for key, value in _read(path).items()}
    caffe = any(key.startswith(("Scale.", "base.")) for key in state)
    renamed = {}
    for key, value in state.items():
        ours = _our_key(key)
        if ours is not None:
            renamed[ours] = value
    model = DeepLabV2(num_classes, stride_first=caffe)
    if caffe:
        if "conv1.weight" in renamed:
            renamed["conv1.weight"] = renamed["conv1.weight"].flip(1)  # BGR to RGB
        renamed["input_mean"] = torch.tensor(CAFFE_MEAN[::-1]).view(3, 1, 1) / 255
        renamed["input_std"] = torch.full((3, 1, 1), 1 / 255)
    expected = model.state_dict()
    theirs = {key: value for key, value in renamed.items() if key.startswith("classifier.") and key in expected}
    may_lack = ("num_batches_tracked", "input_mean", "input_std", "stride_in_")
    if not theirs or all(value.shape[1:] == expected[key].shape[1:] for key, value in theirs.items()):
        outputs = {value.shape[0] for value in theirs.values()}
        if outputs != {num_classes} and len(outputs) < 2:
            renamed = {key: value for key, value in renamed.items() if key not in theirs}
            may_lack += ("classifier.",)
            has = f"has {outputs.pop()} classes, not {num_classes}" if outputs else "has none"
            say(progress, f"{path}: the classifier is new and random, for the file {has}; the backbone is the file's.")
    missing = [key for key in expected if key not in renamed and not _any_part(key, may_lack)]
    unexpected = [key for key in renamed if key not in expected]
    if missing or unexpected:
        raise LabError(
            f"{path}: not the weights of DeepLab-v2 with ResNet-101: {len(missing)} tensors missing "
            f"({', '.join(missing[:3])}), {len(unexpected)} unexpected ({', '.join(unexpected[:3])}). Give a file of "
            "torchvision's resnet101, isht7/pytorch-deeplab-resnet or kazuto1011/deeplab-pytorch."
        )
    for key, value in renamed.items():
        if value.shape != expected[key].shape:
            raise LabError(f"{path}: {key} has shape {tuple(value.shape)}; expected {tuple(expected[key].shape)}.")
        if value.is_floating_point() and not value.isfinite().all():
            raise LabError(f"{path}: {key} holds NaN or infinite values; the network cannot be used.")
    model.load_state_dict(expected | renamed)
    return model


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise LabError(f"{path}: there is no such weights file; check the path.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for a damaged or foreign file
        raise LabError(
            f"{path}: not a file of tensors ({error or type(error).__name__}); expected .safetensors, or a .pth of a "
            "state dict. Files with other objects in them may run code and are not opened."
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise LabError(f"{path}: it holds no state dict of tensors.")
    return state


# kazuto1011's names of a block's parts, and ours: the convolution and the normalisation after it.
_KAZUTO = {"reduce": "1", "conv3x3": "2", "increase": "3"}


def _our_key(key: str) -> str | None:
    """The name of ours for a published tensor, None for a classifier of whole images; unknown names stay the same."""
    if key.removeprefix("Scale.").removeprefix("base.").startswith("fc."):
        return None
    if key.startswith("Scale."):
        return re.sub(r"^layer5\.conv2d_list\.", "classifier.", key.removeprefix("Scale."))
    if not key.startswith("base."):
        return key
    key = key.removeprefix("base.")
    key = re.sub(r"^aspp\.c(\d)\.", r"classifier.\1.", key)
    key = re.sub(r"^layer1\.conv1\.conv\.", "conv1.", key)
    key = re.sub(r"^layer1\.conv1\.bn\.", "bn1.", key)
    match = re.fullmatch(r"layer([2-5])\.block(\d+)\.(\w+)\.(conv|bn)\.(\w+)", key)
    if match is None:
        return key
    layer, block, part, kind, tensor = match.groups()
    place = f"layer{int(layer) - 1}.{int(block) - 1}"
    if part in ("shortcut", "proj"):  # the name of today, and of before 2018
        return f"{place}.downsample.{'0' if kind == 'conv' else '1'}.{tensor}"
    return f"{place}.{kind}{_KAZUTO.get(part, part)}.{tensor}"


def _any_part(key: str, parts: tuple[str, ...]) -> bool:
    return any(part in key for part in parts)
