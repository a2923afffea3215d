"""Sums over the processes of a torch.distributed group: the one thing that the kernels of several machines exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as distributed
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
else:
    ProcessGroup = object  # a torch without distributed lacks it


def is_shared(group: ProcessGroup | None, per_image: bool) -> bool:
    """Whether the loss is that of a batch spread over processes."""
    if group is not None and per_image:
        raise ValueError(
            "per_image=True with group: each image has its loss to itself, and averaging the processes' losses (as "
            "DistributedDataParallel does) is all there is to do; leave group out, or use per_image=False"
        )
    return group is not None


def sum_over(group: ProcessGroup | None, tensor: Tensor) -> Tensor:
    """The elementwise sum of the processes' tensors, the same bits in each; the tensor itself without a group."""
    if group is None:
        return tensor
    tensor = tensor.contiguous()
    distributed.all_reduce(tensor, group=group)
    return tensor


def whole(total: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum over the processes of a scalar, with a gradient that averaging over them turns into that of the sum."""
    if group is None:
        return total
    mine = total * group.size()
    return mine + (sum_over(group, total.detach().clone()) - mine).detach()
