"""What some devices lack: Apple's GPUs have no float64. Apart because losses, kernels and metrics all meet it."""

from __future__ import annotations

import torch
from torch import Tensor


def widest(device: torch.device) -> torch.dtype:
    """The most exact type to compute in there: float64, or float32 where there is none."""
    return torch.float32 if device.type == "mps" else torch.float64


def where_float64_is(counts: Tensor) -> Tensor:
    """The same, on the CPU if its own device has no float64: for what is small, or must be exact."""
    return counts.cpu() if counts.device.type == "mps" else counts
