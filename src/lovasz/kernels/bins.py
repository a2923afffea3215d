"""The bins that replace the sort, shared by the binned kernels: the order key of an error, and how bins are dealt out.

Place: a float's own bits order it, and are nearly uniform in its logarithm. Errors in [0, 1] are placed by their bits
up to 1/2 and by the bits of 1 - error, counted from the top, beyond it: nearly uniform in the logit. Hinge errors have
no upper end and are placed by their bits alone. Everything below 2^-30 shares the lowest place.

Cells and bins: a cell is 1/16 of an octave. Each class cuts each of its cells into a power of two of bins, more where
many pixels lie close together in the steep part of the Jaccard loss; a sample of the pixels says where that is. Bins
never cross an octave, so the sum of the errors in a bin follows exactly from its count and the sum of the bits that the
bin drops.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lovasz.devices import widest

CELL_BITS = 19  # low bits of a place inside its cell: 16 cells to the octave of a float32
FLOOR = 0x30800000  # bits of 2^-30
HALF_RANGE = 0x3F000000 - FLOOR  # places from 2^-30 up to 1/2
MIRRORED_CELLS = (2 * HALF_RANGE) >> CELL_BITS
UNBOUNDED_CELLS = (0x7F800000 - FLOOR) >> CELL_BITS
SUM_BITS = 40  # of a packed 64-bit bin: a sum of where the errors lie in cell or bin, and above it their count
CHUNK = 1 << (SUM_BITS - CELL_BITS)  # errors of one class that a packed bin can take without overflow
FRACTION_BITS = 12  # of a pixel's position inside its bin

SAMPLE = 16384  # pixels looked at to deal out the bins
FINEST = 17  # a cell has at most 2^17 bins
TAIL_CELLS, TAIL_DECAY = 32, 0.9  # cells above the largest sampled error that may hold unsampled ones
MEMORY = 1 << 20  # bins of all groups together
CACHE = 1 << 18  # bins of the classes that are counted side by side: more of them cost much time, except for few pixels
FEW_PIXELS = 1 << 17
MOST_BINS = 65536
LEAST_BINS = 8192  # of all cells together, for those that the sample did not show
SHARED_BINS = 8192  # of each class where several processes send theirs to one another

# How finely the slope of the loss is cut: bins for each unit by which the logarithm of the union changes, more for a
# rare class, whose few foreground pixels must not share bins with background; and bins for the whole foreground.
UNION_STEPS = 64, 512
RARE = 4096  # pixels of a class that has the finest steps
FOREGROUND_STEPS = 2048
HALF_STEPS = 16  # times as many in half precision: pixels fall together there, and fine bins hold one error each


def capacity(classes: int, images: int, cells: int, pixels: int) -> tuple[int, int]:
    """Bins per group, and the power of two that every cell gets at least.

    images: how many have groups of their own, 1 where the batch counts as one.

    Where the sample is the whole input no cell needs bins in reserve.
    """
    cache = CACHE * max(1, FEW_PIXELS // pixels)
    most = max(min(MOST_BINS, cache // classes, MEMORY // (classes * images)), 2 * cells)
    least = 0 if pixels < SAMPLE else max(0, int(math.log2(min(most / 2, LEAST_BINS) / cells)))
    return most, least


def spacing(pixels: int, classes: int) -> int:
    """Every how many-th pixel is looked at to deal out the bins; an odd number. Many classes see much in few pixels."""
    return max(1, pixels // min(SAMPLE, max(SAMPLE // 4, (SAMPLE << 4) // classes))) | 1


def fineness(pixels: int, dtype: torch.dtype = torch.float32) -> float:
    """By what to multiply the steps: few pixels can afford more bins, and so can the few distinct errors of half
    precision, for bins that stay empty cost little.
    """
    return max(1.0, (1 << 13) / pixels) * (HALF_STEPS if dtype.itemsize == 2 else 1)


def mirrored_place(errors: Tensor, complement: Tensor) -> Tensor:
    """The place (int64) of errors in [0, 1] whose complement to 1 is given apart, for its digits near 0."""
    low = errors.float().contiguous().view(torch.int32).long() - FLOOR
    high = 2 * HALF_RANGE - 1 - (complement.float().contiguous().view(torch.int32).long() - FLOOR)
    return torch.where(errors <= 0.5, low, high).clamp(0, 2 * HALF_RANGE - 1)


def unbounded_place(errors: Tensor) -> Tensor:
    """The place (int64) of errors that are not negative."""
    place = errors.float().contiguous().view(torch.int32).long() - FLOOR
    return place.clamp(0, (UNBOUNDED_CELLS << CELL_BITS) - 1)


def deal(
    background: Tensor, foreground: Tensor, totals: Tensor, step: int | Tensor, finer: float, most: int, least: int
) -> Tensor:
    """Deal out bins to the cells of each class, from a sample of every ``step``-th pixel.

    A cell is to have bins in proportion to the change of the logarithm of the union, and of the missed share of the
    class, over it: there the slope of the Jaccard loss changes. Where that is more than there are, the wishes are
    compressed by a power. Cells in reach of the largest sampled errors are taken to hold one pixel that the sample
    missed.

    Args:
        background, foreground: (C, cells) counts in the sample, times ``step``.
        totals: (C,) foreground pixels of the whole input.
        step: see above. The number 1 says that the sample is the whole input, so a pixel alone in its cell needs no
            cut; a tensor is taken as more than 1.
        finer: from :func:`fineness`.
        most: bins for each class. least: power of two that each cell gets in any case.

    Returns:
        (C, cells) entries ``first bin << 5 | bits dropped``, int64.
    """
    dtype = widest(background.device)
    b, f = background.to(dtype), foreground.to(dtype)
    n = totals.to(dtype).clamp(min=1).unsqueeze(1)  # (C, 1)
    above = n + (b.flip(1).cumsum(1) - b.flip(1)).flip(1)
    cell = torch.arange(b.shape[1], device=b.device)
    seen = b > 0
    whole = isinstance(step, int) and step == 1
    if whole:
        unseen = -torch.ones_like(b)
    else:
        highest = (seen * cell).amax(1, keepdim=True)
        lowest = torch.where(seen, cell, b.shape[1]).amin(1, keepdim=True)
        distance = (cell - highest).clamp(min=0)
        unseen = step * torch.where((cell >= lowest) & (distance <= TAIL_CELLS), TAIL_DECAY ** distance.to(dtype), 0)
    union = (b + unseen).clamp(min=0) / above
    missed = (torch.where(seen, f, f - 1) if whole else f) / n
    coarse, fine = UNION_STEPS
    union_steps = (fine * RARE / n).clamp(coarse, fine)
    wanted = (finer * (union * union_steps + missed * FOREGROUND_STEPS)).clamp(min=1).log2()
    low = torch.zeros_like(n)  # powers between which the largest that fits is sought
    high = torch.ones_like(n)
    power = high
    for _ in range(8):
        fits = (2 ** (wanted * power).ceil().clamp(least, FINEST)).sum(1, keepdim=True) <= most
        low, high = torch.where(fits, power, low), torch.where(fits, high, power)
        power = torch.where(low == 1, low, (low + high) / 2)
    bits = (wanted * low).ceil().clamp(least, FINEST).long()
    size = 1 << bits
    return (size.cumsum(1) - size) << 5 | (CELL_BITS - bits)


def weights(background: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
    """What an error in each bin weighs, from (G, K) counts of background and foreground pixels, lowest bin first.

    The pixels of one bin get on average the Jaccard loss's slope over the straight path through the bin (Aumann-Shapley
    value). With n foreground pixels, of which k lie in higher bins together with j background pixels, a = n + j,
    A = n - k, and f and b pixels in the bin::

        foreground: log1p(b / a) / b                                          (1 / a for b = 0)
        background: A / (a (a + b)) - f (log1p(b / a) - b / (a + b)) / b^2    (A / (a (a + 1)) for b = 0)
        n = 0: the pixels of the highest bin that has any share the weight 1

    so that f and b times these add up to the Jaccard loss's increase over the bin. Inside the bin the slope falls from
    1 / a to 1 / (a + b), and from A / (a (a + 1)) to (A - f) / ((a + b) (a + b + 1)): the second result is these falls.

    Returns:
        (G, 2, K) mean weights of background and foreground and (G, 2, K) how much more the upper end of the bin weighs
        than the lower; float64 where the device has it.
    """
    dtype = widest(background.device)
    b, f = background.flip(-1), foreground.flip(-1)  # highest bin first
    n = f.sum(-1, keepdim=True)
    union = (n + b.cumsum(-1) - b).to(dtype)
    remaining = (n - f.cumsum(-1) + f).to(dtype)
    first = (n == 0) & (union == 0) & (b > 0)
    a = union.clamp(min=1)
    b, f = b.to(dtype), f.to(dtype)
    x = b / a
    log = x.log1p()
    rest = torch.where(x < 1e-3, x * x * (0.5 - x * (2 / 3 - 0.75 * x)), log - x / (1 + x))
    some = b.clamp(min=1)
    q_foreground = torch.where(b > 0, log / some, 1 / a)
    q_background = remaining / (a * (a + some)) - torch.where(b > 0, f * rest / (some * some), 0)
    q_background = torch.where(n == 0, first / some, q_background)
    q_foreground = torch.where(n == 0, 0, q_foreground)
    end = a + b
    fall_foreground = torch.where(n == 0, 0, b / (a * end))
    fall_background = torch.where(n == 0, 0, remaining / (a * (a + 1)) - (remaining - f) / (end * (end + 1)))
    mean, fall = torch.stack([q_background, q_foreground], 1), torch.stack([fall_background, fall_foreground], 1)
    return mean.flip(-1), fall.flip(-1)


def lines(mean: Tensor, fall: Tensor, count: Tensor, fractions: Tensor) -> tuple[Tensor, Tensor]:
    """The weights inside each bin as a straight line through the mean weight at the mean place of the bin's pixels.

    A pixel that lies at ``fraction`` in [0, 1) of its bin then weighs ``offset + rise * fraction``; the weights of a
    bin's pixels keep their sum, and none is negative.

    Args:
        mean, fall: (G, 2, K) from :func:`weights`.
        count, fractions: (G, 2, K) numbers of pixels, and sums of their fractions in units of 2^-12, rounded down.

    Returns:
        offset and rise, (G, 2, K).
    """
    middle = (fractions.to(mean.dtype) + 0.5 * count) / (count.clamp(min=1) << FRACTION_BITS)
    rise = torch.minimum(fall, mean / middle.clamp(min=2.0**-FRACTION_BITS))
    rise = torch.where(count > 0, rise, 0)
    return mean - rise * middle, rise
