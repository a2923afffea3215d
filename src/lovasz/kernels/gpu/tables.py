"""The small tables between the two GPU passes: bins dealt from a sample, then weights and value from the counts.

Plain torch operations of fixed shapes, which run on the device and never wait for it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lovasz.kernels import bins
from lovasz.kernels.gpu.arithmetic import COUNT_BITS

MOST_BINS = 16384  # of each group: all tables together are to stay in the cache
MEMORY = 1 << 19  # bins of all groups together
FINENESS = 1.0  # by what to multiply the steps of bins.deal
TAIL = 2.0**-13  # of a class's loss: errors below that share weigh alike, and are not counted one by one

_FRACTIONS = 1 << bins.FRACTION_BITS
_COUNTS = (1 << (64 - COUNT_BITS)) - 1


class Dealt(NamedTuple):
    """Bins of each class: ``entries`` (C, cells) int32 as in bins.deal, ``tail`` (C,) int32 the first cell above the
    tail, ``tail_error`` (C,) the mean error in the tail, as the sample has it."""

    entries: Tensor
    tail: Tensor
    tail_error: Tensor


def capacity(groups: int, cells: int, pixels: int) -> int:
    """Bins of each group: those of the other kernels where the sample is the whole input, fewer beyond."""
    if pixels < 2 * bins.SAMPLE:
        return bins.capacity(groups, 1, cells, pixels)[0]
    return max(min(MOST_BINS, MEMORY // groups), 2 * cells)


def one_bin_per_cell(classes: int, cells: int, device: torch.device) -> Tensor:
    """The entries (C, cells) with which the sample is counted."""
    entries = torch.arange(cells, dtype=torch.int32, device=device) << 5 | bins.CELL_BITS
    return entries.expand(classes, cells).contiguous()


def unpacked(hist: Tensor) -> tuple[Tensor, Tensor]:
    """Counts and sums of fractions (G, 2, bins) of packed parts (parts, G, 2, bins)."""
    return (hist >> COUNT_BITS & _COUNTS).sum(0), (hist & ((1 << COUNT_BITS) - 1)).sum(0)


def deal(
    sample: Tensor, foreground: Tensor, active: Tensor, step: int | Tensor, finer: float, most: int, *,
    mirrored: bool, tailed: bool,
) -> Dealt:  # fmt: skip
    """Deal the bins, and cut off the tail.

    The weights of a class add up to at most 1, so all errors below a number e change the loss by at most e. Where the
    gradient fades with the error (``tailed``: softmax, sigmoid) the tail reaches up to a small part of ``sum m (1 - m)
    g`` of the sample, which is no more than the loss; else it is the lowest cell: the errors that are as good as 0.

    Args:
        sample: (C, 2, cells) counts, background and foreground, times ``step``.
        foreground: (C,) number or estimate of foreground pixels.
        active: (C,) whether the class counts; of the others all is tail.
        step, finer, most: as in :func:`bins.deal`.
        mirrored: whether errors end at 1.
    """
    cells = sample.shape[-1]
    background, seen = sample[:, 0], sample[:, 1]
    place = torch.arange(cells + 1, device=sample.device) << bins.CELL_BITS
    bounds = error_at(place, mirrored)
    middle = (bounds[1:] + bounds[:-1]) / 2  # (cells,)
    cell = torch.arange(cells, device=sample.device)
    tail = torch.ones_like(foreground)
    if tailed:
        total = seen.sum(1, keepdim=True)
        # A class that the sample missed may be all right: its foreground as the lowest errors there are.
        scaled = seen.double() * foreground.unsqueeze(1) / total.clamp(min=1)
        scaled[:, 0] += torch.where(total[:, 0] > 0, 0, foreground)
        mean, _ = bins.weights(background.double(), scaled)  # (C, 2, cells)
        faded = middle * (1 - middle if mirrored else 1 / middle.clamp(min=1))
        loss = (faded * (mean[:, 0] * background + mean[:, 1] * scaled)).sum(1)  # (C,)
        tail = (bounds[1:] < TAIL * loss.unsqueeze(1)).sum(1).clamp(min=1)
    below = cell < tail.unsqueeze(1)  # (C, cells)
    both = (background + seen) * below
    lowest = bounds.gather(0, tail) / 2
    tail_error = torch.where(both.any(1), (both * middle).sum(1) / both.sum(1).clamp(min=1), lowest)
    above = torch.where(below, 0, background), torch.where(below, 0, seen)
    entries = bins.deal(*above, foreground, step, finer, most, 0)
    return Dealt(entries.int(), torch.where(active, tail, cells).int(), tail_error)


def error_at(place: Tensor, mirrored: bool) -> Tensor:
    """The error at a place (int64) or between two, in float64; the last one is the end of them all."""
    if not mirrored:
        return _float_of(place + bins.FLOOR)
    high = 1 - _float_of(bins.FLOOR + 2 * bins.HALF_RANGE - 1 - place)
    return torch.where(place < bins.HALF_RANGE, _float_of(place + bins.FLOOR), high)


def _float_of(bits: Tensor) -> Tensor:
    return bits.clamp(bins.FLOOR - 1, 0x7F7FFFFF).int().view(torch.float32).double()


def weigh(
    counts: Tensor, fractions: Tensor, rest: Tensor, dealt: Dealt, mirrored: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and weights of each group from its counts.

    Args:
        counts, fractions: (G, 2, bins) of the errors above the tail.
        rest: (G, 2) errors in the tail.
        dealt: the classes' bins; G is C, or images times C.

    Returns:
        losses (G,), the weights' lines (G, 2, bins, 2) offset and rise with each 2^-12 of the bin, and the tail's
        weights (G, 2).
    """
    groups, _, size = counts.shape
    classes, cells = dealt.entries.shape
    mean, fall = bins.weights(*(torch.cat([rest[:, i : i + 1], counts[:, i]], 1) for i in range(2)))
    flat, mean, fall = mean[..., 0], mean[..., 1:], fall[..., 1:]
    offset, rise = bins.lines(mean, fall, counts, fractions)
    # Where each bin begins: the cell whose first bin is the last one not beyond it.
    first = (dealt.entries >> 5).contiguous()
    number = torch.arange(size, dtype=torch.int32, device=counts.device).expand(classes, size).contiguous()
    cell = torch.searchsorted(first, number, right=True) - 1  # (C, bins)
    dropped = dealt.entries.gather(1, cell).long() & 31
    begin = (cell << bins.CELL_BITS) + ((number - first.gather(1, cell)).long() << dropped)
    end = (begin + (1 << dropped)).clamp(max=cells << bins.CELL_BITS)
    low, high = (error_at(place, mirrored).view(1, classes, 1, size) for place in (begin, end))
    inner, count, sums, weight = (t.view(groups // classes, classes, 2, size) for t in (rise, counts, fractions, mean))
    position = (sums + 0.5 * count) / _FRACTIONS  # sum over the bin's errors, in units of its width
    # Inside a bin larger errors weigh more: errors spread evenly have a variance of 1/12.
    spread = inner * (count - 1).clamp(min=0) / 12
    losses = (weight * (count * low + position * (high - low)) + spread * (high - low)).sum((2, 3)).view(groups)
    tail_error = dealt.tail_error.expand(groups // classes, classes).reshape(groups, 1)
    losses = losses + (flat * rest * tail_error).sum(1)
    return losses, torch.stack([offset, rise / _FRACTIONS], -1), flat
