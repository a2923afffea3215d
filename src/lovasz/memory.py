"""Memory of gradients that are gone, kept for those of the next call; apart because it outlives a call.

The system takes a large block back as soon as it is freed, and to fault the pages of a new one in again costs up
to two fifths of the CPU kernel's time, step after step.
"""

from __future__ import annotations

import os
import weakref
from collections import deque

import torch
from torch import Tensor

VARIABLE = "LOVASZ_KEEP_MEMORY"
_LEAST = 1 << 20  # bytes; smaller blocks the allocator keeps itself
# Two, for a network with a second output. A block that comes back to a full deque frees the oldest.
_idle: deque[Tensor] = deque(maxlen=2)


def release_memory() -> None:
    """Give the memory that the CPU kernel keeps between calls back to the system.

    The kernel keeps the blocks of at most the last two gradients that are gone, and writes the next ones into them, so
    the process keeps, between steps, the memory that the gradient needs within a step. All of it is freed when a
    gradient comes that fits none of the blocks. Call this after a training whose process lives on, or set the
    environment variable LOVASZ_KEEP_MEMORY=0 and nothing is kept.
    """
    _idle.clear()


def reused_empty_like(input: Tensor, dtype: torch.dtype) -> Tensor:
    """``torch.empty_like(input, dtype=dtype)`` of a CPU tensor, in idle memory where some fits.

    The block comes back when the last tensor or array that shares the storage is gone. Where nothing idle fits, all
    of it is freed before the new block is taken. Such a storage cannot be resized.
    """
    size = input.numel() * dtype.itemsize
    if size < _LEAST or os.environ.get(VARIABLE) == "0":
        return torch.empty_like(input, dtype=dtype)
    block = _take(size)
    lease = block.numpy()[:size]  # a new object for each loan: the storage holds it, and its end is the loan's
    weakref.finalize(lease, _idle.append, block).atexit = False
    strides = torch.empty_like(input, device="meta").stride()
    empty = torch.empty(0, dtype=dtype, device="cpu")
    return empty.set_(torch.from_numpy(lease).untyped_storage(), 0, input.shape, strides)


def _take(size: int) -> Tensor:
    """An idle block of at most twice the size, or a new one."""
    others = []
    while _idle:
        try:
            block = _idle.popleft()
        except IndexError:  # another thread was quicker
            break
        if size <= block.numel() <= 2 * size:
            _idle.extend(others)
            return block
        others.append(block)
    others.clear()
    return torch.empty(size, dtype=torch.uint8, device="cpu")
