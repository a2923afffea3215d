"""The published files: which of their tensors is which of ours, and what has to be done to them once.

Apart from `enet.py`, because the names in other people's files say nothing about the network, and from `weights.py`,
because that knows files but no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor, nn

from lovasz.lab.models.deeplab import RATES, DeepLabV2, deeplab_torchvision
from lovasz.lab.models.enet import DROPOUT, pytorch_enet, torch7_enet
from lovasz.lab.models.espnetv2 import UNUSED, ESPNetV2, edgenets_key
from lovasz.lab.models.unet import UNet

T = TypeVar("T")
SCALING = ("input_mean", "input_std")
COUNTER = "num_batches_tracked"  # BatchNorm counts its steps; nothing here reads the count, and files may leave it out

# The blocks of the network, ours → davidtvs/PyTorch-ENet (save/ENet_default of March 2018).
_KINDS_PYTORCH = ("regular", "dilated", "asymmetric", "dilated", "regular", "dilated", "asymmetric", "dilated")
_BLOCKS_PYTORCH = {
    "initial": "initial_block",
    "down1": "downsample1_0",
    **{f"stage1.{i}": f"regular1_{i + 1}" for i in range(4)},
    "down2": "downsample2_0",
    **{f"stage2.{i}": f"{kind}2_{i + 1}" for i, kind in enumerate(_KINDS_PYTORCH)},
    **{f"stage3.{i}": f"{kind}3_{i}" for i, kind in enumerate(_KINDS_PYTORCH)},
    "up4": "upsample4_0",
    **{f"stage4.{i}": f"regular4_{i + 1}" for i in range(2)},
    "up5": "upsample5_0",
    "stage5.0": "regular5_1",
    "classifier": "transposed_conv",
}
_PARTS_PYTORCH = {
    "conv": "main_branch",  # of the initial block
    "norm": "batch_norm",
    "activation": "out_prelu",
    "reduce.conv": "ext_conv1.0",
    "reduce.norm": "ext_conv1.1",
    "reduce.activation": "ext_conv1.2",
    "middle.conv": "ext_conv2.0",
    "middle.norm": "ext_conv2.1",
    "middle.activation": "ext_conv2.2",
    "expand.conv": "ext_conv3.0",
    "expand.norm": "ext_conv3.1",
    "expand.activation": "ext_conv3.2",
    "skip.conv": "main_conv1.0",
    "skip.norm": "main_conv1.1",
}
_ASYMMETRIC_PARTS_PYTORCH = _PARTS_PYTORCH | {
    "middle.conv1": "ext_conv2.0",
    "middle.norm1": "ext_conv2.1",
    "middle.activation1": "ext_conv2.2",
    "middle.conv2": "ext_conv2.3",
    "middle.norm": "ext_conv2.4",
    "middle.activation": "ext_conv2.5",
}

# The same for the Torch7 model as renamed in enet_cityscapes_elab.json.
_BLOCKS_TORCH7 = {
    "initial": "initial",
    "down1": "stage1.0",
    **{f"stage1.{i}": f"stage1.{i + 1}" for i in range(4)},
    "down2": "stage2.0",
    **{f"stage2.{i}": f"stage2.{i + 1}" for i in range(8)},
    **{f"stage3.{i}": f"stage3.{i}" for i in range(8)},
    "up4": "stage4.0",
    **{f"stage4.{i}": f"stage4.{i + 1}" for i in range(2)},
    "up5": "stage5.0",
    "stage5.0": "stage5.1",
    "classifier": "classifier",
}


def _split(key: str) -> tuple[str, str, str]:
    """Our key in three: "stage1.0.reduce.conv.weight" → block "stage1.0", part "reduce.conv", tensor "weight"."""
    words = key.split(".")
    depth = 2 if words[0].startswith("stage") else 1
    return ".".join(words[:depth]), ".".join(words[depth:-1]), words[-1]


def _pytorch_key(key: str) -> str:
    block, part, tensor = _split(key)
    theirs = _BLOCKS_PYTORCH[block]
    if not part:
        return f"{theirs}.{tensor}"
    parts = _ASYMMETRIC_PARTS_PYTORCH if theirs.startswith("asymmetric") else _PARTS_PYTORCH
    return f"{theirs}.{parts[part]}.{tensor}"


def _torch7_key(key: str) -> str:
    block, part, tensor = _split(key)
    words = [_BLOCKS_TORCH7[block], *part.split("."), tensor] if part else [_BLOCKS_TORCH7[block], tensor]
    return ".".join({"norm": "bn", "activation": "prelu"}.get(word, word) for word in words)


def _fold_torch7_dropout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Torch7's SpatialDropout does not rescale in training and multiplies by 1 - p in evaluation; PyTorch's divides by
    1 - p in training and does nothing in evaluation. Folding 1 - p into the normalisation before it makes both agree.
    """
    factors = {"down1": "stage1", "down2": "stage2"} | {stage: stage for stage in DROPOUT}
    folded = dict(state)
    for key, tensor in state.items():
        stage = factors.get(key.split(".")[0])
        if stage and key.endswith(("expand.norm.weight", "expand.norm.bias")):
            folded[key] = tensor * (1 - DROPOUT[stage])
    return folded


def _same(value: T) -> T:
    return value


@lru_cache(maxsize=16)  # a network is built for it; a comparison asks for each of its files
def _shapes(build: Callable[[int], nn.Module], num_classes: int) -> Mapping[str, Tensor]:
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return MappingProxyType(build(num_classes).state_dict())


@dataclass(frozen=True)
class Layout:
    """One way of naming the tensors of one network in a file."""

    title: str
    names: tuple[str, ...]  # the model names it may be asked for by; the first is the network itself
    build: Callable[[int], nn.Module]
    rename: Callable[[str], str] = _same  # our key → the file's
    finish: Callable[[dict[str, Tensor]], dict[str, Tensor]] = _same
    holds_scaling: bool = True  # our own files hold the input's mean and std; of published ones the JSON has them
    # Our tensors of which a slice belongs to each class, and along which dimension; the first one tells their number.
    # A transposed convolution has (inputs, outputs, h, w), a plain one (outputs, inputs, h, w).
    outputs: tuple[tuple[str, int], ...] = (("classifier.weight", 1), ("classifier.bias", 0))
    unused: frozenset[str] = frozenset()  # tensors of the file that its network never reads

    @cached_property
    def keys(self) -> dict[str, str]:
        """The file's key → ours, for every tensor that the file must hold."""
        left_out = () if self.holds_scaling else SCALING
        ours = self.shapes(1)
        return {self.rename(key): key for key in ours if not key.endswith(COUNTER) and key not in left_out}

    def shapes(self, num_classes: int) -> Mapping[str, Tensor]:
        """The network's tensors by name, without their content."""
        return _shapes(self.build, num_classes)

    def skeleton(self, num_classes: int, seed: int | None = None) -> nn.Module:
        """The network before its weights, drawn by `seed`; random numbers drawn later are the same as without it."""
        with torch.random.fork_rng(devices=[]):
            if seed is not None:
                torch.manual_seed(seed)
            return self.build(num_classes)


_PLAIN = (("classifier.weight", 0), ("classifier.bias", 0))

_BRANCHES = tuple((f"classifier.{i}.{part}", 0) for i in range(len(RATES)) for part in ("weight", "bias"))

LAYOUTS = (
    Layout("lovasz export of enet", ("enet",), pytorch_enet),
    Layout("lovasz export of enet_torch7", ("enet_torch7", "enet"), torch7_enet),
    Layout("lovasz export of unet", ("unet",), UNet),
    Layout("lovasz export of espnetv2", ("espnetv2",), ESPNetV2, outputs=_PLAIN),
    Layout("lovasz export of deeplab", ("deeplab",), DeepLabV2, outputs=_BRANCHES),
    Layout("lovasz export of deeplab, torchvision", ("deeplab",), deeplab_torchvision, outputs=_BRANCHES),
    Layout(
        "sacmehta/EdgeNets, ESPNetv2",
        ("espnetv2",),
        ESPNetV2,
        edgenets_key,
        holds_scaling=False,
        outputs=_PLAIN,
        unused=UNUSED,
    ),
    Layout("davidtvs/PyTorch-ENet", ("enet",), pytorch_enet, _pytorch_key, holds_scaling=False),
    Layout(
        "e-lab/ENet-training, Torch7",
        ("enet_torch7", "enet"),
        torch7_enet,
        _torch7_key,
        _fold_torch7_dropout,
        holds_scaling=False,
    ),
)
