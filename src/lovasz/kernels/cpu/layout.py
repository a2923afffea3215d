"""How torch's tensors are given to the loops, which read numpy arrays of the types that they are compiled for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def computable(input: Tensor) -> Tensor:
    """The scores as the loops can read them."""
    return input.resolve_neg()  # an imaginary part of a conjugate is kept as its negative


def readable(target: Tensor) -> Tensor:
    """The target in a type that the loops read, without gaps."""
    if target.dtype == torch.bool:
        target = target.view(torch.uint8)
    elif target.dtype not in (torch.uint8, torch.int64):
        target = target.long()
    return target.contiguous()


def storage(tensor: Tensor) -> np.ndarray:
    """The memory under a tensor as a flat array that begins at its first element."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    flat = tensor.detach().as_strided((extent,), (1,))
    if tensor.dtype == torch.bfloat16:
        return flat.view(torch.int16).numpy()
    return flat.numpy().view(np.uint16) if tensor.dtype == torch.float16 else flat.numpy()


def is_batch(incoming: Tensor) -> bool:
    """Whether the gradient that comes in stands for several at once, by ``is_grads_batched=True`` or in torch.vmap: it
    has no value that a loop could be given, but what the loops find for 1 may be multiplied by it."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    return functorch.is_legacy_batchedtensor(incoming) or functorch.is_batchedtensor(incoming)
