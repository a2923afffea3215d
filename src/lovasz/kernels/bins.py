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

CELL_BITS = 19  # low bits of a place inside its cell: 16 cells to the octave of a float32
FLOOR = 0x30800000  # bits of 2^-30
HALF_RANGE = 0x3F000000 - FLOOR  # places from 2^-30 up to 1/2
MIRRORED_CELLS = (2 * HALF_RANGE) >> CELL_BITS
UNBOUNDED_CELLS = (0x7F800000 - FLOOR) >> CELL_BITS
SUM_BITS = 40  # of a packed 64-bit bin: sum of dropped bits below, count above
CHUNK = 1 << (SUM_BITS - CELL_BITS)  # errors of one class that a packed bin can take without overflow

SAMPLE = 16384  # pixels looked at to deal out the bins
FINEST = 17  # a cell has at most 2^17 bins
TAIL_CELLS, TAIL_DECAY = 32, 0.9  # cells above the largest sampled error that may hold unsampled ones
MEMORY = 1 << 21  # bins of all groups together
MOST_BINS = 65536


def capacity(groups: int, cells: int, pixels: int) -> tuple[int, int]:
    """Bins per group and the power of two that every cell gets at least, within the memory for all groups.

    Where the sample is the whole input no cell needs bins in reserve, and few pixels can afford many bins.
    """
    most = max(min(max(MOST_BINS, 32 * cells, (1 << 25) // pixels), MEMORY // groups), 2 * cells)
    least = 0 if pixels < SAMPLE else max(0, min(4, int(math.log2(most / (2 * cells)))))
    return most, least


def resolution(pixels: int) -> float:
    """Each bin is to change the slope of the loss by about one part in this many; few pixels can afford more."""
    return max(512.0, (1 << 22) / pixels)
