"""PReLU with a backward pass for training on the CPU: torch's took a third of a training step of ENet there.

`torch.nn.PReLU` in everything else: the same values, names of weights and gradients. Apart from the networks because
two of them use it, and its loops (`prelu_loops.py`) because Numba compiles those.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lovasz.kernels import numba_problem


class PReLU(nn.PReLU):
    """max(x, 0) + slope * min(x, 0), with one slope or one per channel: He et al. 2015 (arXiv:1502.01852, Eq. 1)."""

    def forward(self, input: Tensor) -> Tensor:
        if _serves(input, self.weight):
            return _PReLU.apply(input, self.weight)  # type: ignore[no-any-return]
        return super().forward(input)


def _serves(x: Tensor, slopes: Tensor) -> bool:
    """Whether the loops can give the gradient that will be asked for: of float32 maps, dense in a usual order."""
    if torch.compiler.is_compiling() or torch._C._is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    if not (torch.is_grad_enabled() and (x.requires_grad or slopes.requires_grad)) or x.numel() == 0:
        return False
    if not (x.device.type == slopes.device.type == "cpu" and x.dtype == slopes.dtype == torch.float32 and x.ndim == 4):
        return False
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    return dense and not torch.is_autocast_enabled("cpu") and not numba_problem()


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(x, slopes)
        return F.prelu(x, slopes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, slopes = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient will be derived again
            per_channel = slopes.view(-1, 1, 1)
            of_slopes = (gradient * x.clamp(max=0)).sum_to_size(per_channel.shape)
            return torch.where(x > 0, gradient, gradient * per_channel), of_slopes.view_as(slopes)
        from lovasz.lab.models import prelu_loops

        return prelu_loops.backward(gradient, x, slopes)
