"""What a wrong input most likely is, and what to do about it: the ends of messages of the losses and the metrics.

Apart from the checks, which decide that something is wrong; nothing here does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}  # of F.interpolate, by the dimensions of its input


def of_no_tensor(name: str, value: Any) -> str:
    """For what is no tensor: an array, or what networks of other libraries return."""
    if isinstance(value, Mapping):
        keys = [str(key) for key in value]
        key = next((key for key in ("out", "logits") if key in keys), keys[0] if keys else "")
        return f"pass one of its values, such as {name}[{key!r}]; it has {', '.join(keys) or 'none'}"
    if hasattr(value, "logits"):
        return f"pass {name}.logits"
    if isinstance(value, list | tuple) and any(isinstance(one, Tensor) for one in value):
        return "it holds several tensors: pass one, or add up the losses of each, resized to the target"
    return "wrap it with torch.as_tensor"


def of_float_labels(name: str, tensor: Tensor) -> str:
    """For labels that are not integers. ``.long()`` is right for whole numbers, and makes anything else wrong."""
    known = not torch.compiler.is_compiling() and type(tensor) is Tensor and tensor.device.type == "cpu"
    if known and tensor.is_floating_point():
        parts = tensor[tensor != tensor.round()]
        if parts.numel():
            return (
                f"it holds {float(parts[0]):g}, which is no label: read masks without dividing them by 255, as "
                "ToTensor does, and resize them by nearest neighbour; soft labels are not taken"
            )
    return f"convert it with {name}.long()"


def of_shapes(name: str, input: Tensor, target: Tensor) -> str:
    """For (N, C, *spatial) scores, called ``name``, and a target that is not (N, *spatial)."""
    given, expected = tuple(target.shape), (input.shape[0], *input.shape[2:])
    if given == (input.shape[0], 1, *input.shape[2:]):
        return "; drop the channel with target.squeeze(1)"
    if target.shape == input.shape:
        return "; class indices are expected, not one-hot: use target.argmax(1)"
    if given == (*expected, input.shape[1]):
        return "; class indices are expected, not one-hot: use target.argmax(-1)"
    if input.dim() > 2 and given == tuple(input.shape[:-1]):
        return f"; {name} looks channels-last, bring classes to dimension 1 with {name}.movedim(-1, 1)"
    if input.dim() > 2 and given == tuple(input.shape[1:]):
        return f"; of one image without a batch give {name}[None] and target[None]"
    return of_sizes(name, input, target) if target.dim() == input.dim() - 1 else ""


def of_sizes(name: str, input: Tensor, target: Tensor) -> str:
    """For scores whose pixels are fewer or more than those of the labels; "" where that is not the fault."""
    size = tuple(target.shape[-(input.dim() - 2) :])
    if input.dim() not in _MODES or input.shape[0] != target.shape[0] or len(size) != input.dim() - 2:
        return ""
    return f'; resize the scores to the labels: F.interpolate({name}, {size}, mode="{_MODES[input.dim()]}")'


def of_label(label: int, num_classes: int) -> str:
    """For a label beyond two classes, which may be a way to write the foreground or the background."""
    if num_classes != 2:
        return ""
    if label == 255:
        return "; where 255 is the foreground use (target > 0).long()"
    if label == -1:
        return "; where -1 is the background use (target > 0).long()"
    return ""
