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
LOG2E = tl.constexpr(1.4426950408889634)
# The entry of a cell in the tail: the lowest cell always is, so bin 0, its first, is never counted in.
TAIL = tl.constexpr(31)
COUNT_BITS = 38  # a packed bin is count << 38 | sum of fractions: 2^25 errors fit
COUNT = tl.constexpr(1 << COUNT_BITS)
# Numbers that only count something: compiling anew where one of them happens to be 1 or even would gain nothing.
COUNTED = ("pixels", "tiles", "void", "parts", "part_size", "size", "step", "rows", "row_stride", "processes")


@triton.jit
def exp_of(x, shift, ONE_SHIFT: tl.constexpr):
    """exp(x - shift) as a power of two.

    ONE_SHIFT: all classes of a pixel have the same. Then the rounding of ``shift * LOG2E`` cancels in the softmax, and
    the exponent can be one fused step.
    """
    if ONE_SHIFT:
        return tl.exp2(x * LOG2E - shift * LOG2E)
    else:
        return tl.exp2((x - shift) * LOG2E)


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
    """The bin of a place by its cell's entry ``first bin << 5 | bits dropped``, and where in it, in units of 2^-12.

    In the tail, whose entry is ``TAIL``, this is the start of bin 0.
    """
    within = place & CELL_MASK
    dropped = entry & 31
    rest = within & ~(-1 << dropped)
    return (entry >> 5) + (within >> dropped), (rest << FRACTION_BITS) >> dropped


@triton.jit
def tally(place, counted, group, kind, class_, lut, hist, size, CELLS: tl.constexpr):
    """Count errors into ``hist`` (G, 2, size), but for those in the class's tail: these are what is left of the total.

    lut: (C, CELLS) entries, ``TAIL`` in the tail. Every place has one, so it is read whether it counts or not.
    """
    entry = tl.load(lut + class_ * CELLS + (place >> CELL_BITS))
    bin_, fraction = bin_and_fraction(place, entry)
    counted = counted & (entry != TAIL)
    at = hist + (group * 2 + kind) * size + bin_
    tl.atomic_add(at, fraction.to(tl.int64) + COUNT, mask=counted, sem="relaxed")


@triton.jit
def slope(place, counted, group, kind, class_, lut, table, size, CELLS: tl.constexpr):
    """What an error weighs: ``offset + rise * fraction`` of its bin, 0 if not counted.

    table: (G, 2, size) two float32 in one int64, offset below and rise above; bin 0 holds the weight of the whole tail.
    """
    entry = tl.load(lut + class_ * CELLS + (place >> CELL_BITS))
    bin_, fraction = bin_and_fraction(place, entry)
    both = tl.load(table + (group * 2 + kind) * size + bin_)
    offset = both.to(tl.int32).to(tl.float32, bitcast=True)
    rise = (both >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    return tl.where(counted, offset + rise * (fraction.to(tl.float32) + 0.5), 0.0)
