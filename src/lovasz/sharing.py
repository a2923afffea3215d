"""Sums over the processes of a torch.distributed group: the one thing that the kernels of several machines exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as distributed
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
else:
    ProcessGroup = object  # a torch without distributed lacks it


def sum_over(group: ProcessGroup | None, tensor: Tensor) -> Tensor:
    """The elementwise sum of the processes' tensors, the same bits in each; the tensor itself without a group."""
    if group is None:
        return tensor
    tensor = tensor.contiguous()
    distributed.all_reduce(tensor, group=group)
    return tensor
