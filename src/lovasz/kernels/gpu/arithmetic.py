"""Arithmetic that the GPU passes share: the place of an error, the bin it is counted in, the weight it finds there.

Apart from the passes because all of them inline it. Triton compiles these functions, so their types are not annotated.
"""

# What Triton compiles is not quite Python: its tuples mean more.
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from lovasz.kernels import bins

CELL_BITS = tl.constexpr(bins.CELL_BITS)
CELL_MASK = tl.constexpr((1 << bins.CELL_BITS) - 1)
FLOOR = tl.constexpr(bins.FLOOR)
MIRROR = tl.constexpr(bins.FLOOR + 2 * bins.HALF_RANGE - 1)
TOP = tl.constexpr(2 * bins.HALF_RANGE - 1)  # the last place of a mirrored error
LAST = tl.constexpr((bins.UNBOUNDED_CELLS << bins.CELL_BITS) - 1)  # of an unbounded one
FRACTION_BITS = tl.constexpr(bins.FRACTION_BITS)
COUNT_BITS = 38  # a packed bin is count << 38 | sum of fractions: 2^25 errors fit
COUNT = tl.constexpr(1 << COUNT_BITS)


@triton.jit
def mirrored_place(error, complement):
    """The place of an error in [0, 1]: its bits up to 1/2; beyond, those of 1 - error counted from the top."""
    low = error.to(tl.int32, bitcast=True) - FLOOR
    high = -(complement.to(tl.int32, bitcast=True) - MIRROR)  # tensors first: the interpreter wants it so
    return tl.minimum(tl.maximum(tl.where(error <= 0.5, low, high), 0), TOP)


@triton.jit
def unbounded_place(error):
    """The place of an error that is not negative."""
    return tl.minimum(tl.maximum(error.to(tl.int32, bitcast=True) - FLOOR, 0), LAST)


@triton.jit
def bin_and_fraction(place, entry):
    """The bin of a place by its cell's entry ``first bin << 5 | bits dropped``, and where in it, in units of 2^-12."""
    within = place & CELL_MASK
    dropped = entry & 31
    rest = within & ((1 << dropped) - 1)
    return (entry >> 5) + (within >> dropped), (rest << FRACTION_BITS) >> dropped


@triton.jit
def tally(place, counted, group, kind, class_, lut, tail, hist, CELLS: tl.constexpr, BINS: tl.constexpr):
    """Count errors into ``hist`` (G, 2, BINS), but for those in the class's tail: these are what is left of the total.

    lut: (C, CELLS) entries; tail: (C,) the first cell above the tail.
    """
    cell = place >> CELL_BITS
    counted = counted & (cell >= tl.load(tail + class_))
    entry = tl.load(lut + class_ * CELLS + cell, mask=counted, other=0)
    bin_, fraction = bin_and_fraction(place, entry)
    tl.atomic_add(hist + (group * 2 + kind) * BINS + bin_, fraction.to(tl.int64) + COUNT, mask=counted, sem="relaxed")


@triton.jit
def slope(place, counted, group, kind, class_, lut, tail, table, flat, CELLS: tl.constexpr, BINS: tl.constexpr):
    """What an error weighs: ``offset + rise * fraction`` of its bin, one weight for the whole tail, 0 if not counted.

    table: (G, 2, BINS) two float32 in one int64, offset below and rise above; flat: (G, 2) float32, of the tail.
    """
    cell = place >> CELL_BITS
    binned = counted & (cell >= tl.load(tail + class_))
    entry = tl.load(lut + class_ * CELLS + cell, mask=binned, other=0)
    bin_, fraction = bin_and_fraction(place, entry)
    row = group * 2 + kind
    both = tl.load(table + row * BINS + bin_, mask=binned, other=0)
    offset = both.to(tl.int32).to(tl.float32, bitcast=True)
    rise = (both >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    inside = offset + rise * (fraction.to(tl.float32) + 0.5)
    return tl.where(binned, inside, tl.where(counted, tl.load(flat + row), 0.0))
