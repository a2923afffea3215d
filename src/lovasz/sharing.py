"""Sums over the processes of a torch.distributed group: the one thing that the kernels of several machines exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as distributed
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
else:
    ProcessGroup = object  # a torch without distributed lacks it


NEEDS_BINS = (
    "method='exact' with group: a sort would need the errors of all processes in one place, bins need only "
    "their counts; use method='binned' (the default), or leave group out"
)


def require_member(group: ProcessGroup | None) -> None:
    """Raise unless ``group`` is None or a process group that this process is part of."""
    if group is None:
        return
    if not distributed.is_available():
        raise ValueError("group: this torch was built without torch.distributed; leave group out")
    if group is distributed.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(
            "group: this process is not in it (torch.distributed.new_group gave it no group); call the loss with group "
            "in the processes of the group alone"
        )
    if not isinstance(group, distributed.ProcessGroup):
        raise TypeError(
            f"group must be a torch.distributed process group, got {type(group).__name__}; after "
            "torch.distributed.init_process_group() the group of all processes is torch.distributed.group.WORLD"
        )


def is_shared(group: ProcessGroup | None, per_image: bool) -> bool:
    """Whether the loss is that of a batch spread over processes."""
    require_member(group)
    if group is not None and per_image:
        raise ValueError(
            "per_image=True with group: each image has its loss to itself, and averaging the processes' losses (as "
            "DistributedDataParallel does) is all there is to do; leave group out, or use per_image=False"
        )
    return group is not None


def kept(group: ProcessGroup | None, per_image: bool, method: str) -> ProcessGroup | None:
    """``group`` for a module to keep; raise as a call with these options would."""
    if is_shared(group, per_image) and method == "exact":
        raise ValueError(NEEDS_BINS)
    return group


def sum_over(group: ProcessGroup | None, tensor: Tensor) -> Tensor:
    """The elementwise sum of the processes' tensors, the same bits in each; the tensor itself without a group.

    The tensor is overwritten where it is contiguous.
    """
    if group is None:
        return tensor
    tensor = tensor.contiguous()
    distributed.all_reduce(tensor, group=group)
    return tensor


def loss_of_all(part: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum of the processes' parts of a loss, with the gradient that averaging over the processes turns into its
    own: that of this process's part, times the number of processes."""
    if group is None:
        return part
    whole = part * group.size()
    return sum_over(group, part.detach().clone()) + (whole - whole.detach())  # the same bits in each process
