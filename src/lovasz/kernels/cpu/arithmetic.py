"""Scalar arithmetic of the CPU kernel, inlined into its loops: exp, and the place and bin of an error.

Apart from the loops because all of them share it. Numba compiles these functions, so their types are not annotated.
"""

import math
from typing import Any, NamedTuple

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from lovasz.kernels.bins import CELL_BITS, FLOOR, HALF_RANGE, SUM_BITS

TOP = np.int32(2 * HALF_RANGE - 1)  # the last place of a mirrored error
LOWEST = np.int32(FLOOR)
ONE = np.int64(1) << SUM_BITS  # one count of a packed bin
SUM_MASK = ONE - np.int64(1)
_CELL_MASK = np.int32((1 << CELL_BITS) - 1)

# Contraction to fused multiply-add only: NaN must stay NaN, and sums keep their order.
inlined = nb.njit(forceinline=True, fastmath={"contract"}, error_model="numpy")
compiled = nb.njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")


class Scores(NamedTuple):
    """One input as the loops read it: flat memory, and how to walk it.

    x, target: flat memory from the first element on; strides: of x for (image, class, pixel); shape: (images, classes,
    pixels); target_strides: for (image, class, pixel), the class's being 0 for labels; labelled: whether the target
    holds class indices; void, has_void: the label to leave out, if any; per_image: whether each image has groups of its
    own.
    """

    x: np.ndarray
    strides: tuple[int, int, int]
    shape: tuple[int, int, int]
    target: np.ndarray
    target_strides: tuple[int, int, int]
    labelled: bool
    void: int
    has_void: bool
    per_image: bool


def _bits_of(typing_context, value):
    """The bits of a float32 as int32."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), codegen


def _from_bits(typing_context, value):
    """The float32 with the given int32 bits."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), codegen


bits_of: Any = intrinsic(_bits_of)
from_bits: Any = intrinsic(_from_bits)


@inlined
def _exp32(x):
    """exp of a float32 that is not positive, to about one unit in the last place; it vectorises, math.exp does not."""
    shifted = x * np.float32(1.4426950408889634) + np.float32(12582912.0)  # 1.5 * 2^23: rounds to an integer
    k = bits_of(shifted) - np.int32(0x4B400000)
    kf = np.float32(k)
    r = x - kf * np.float32(0.693359375)
    r = r - kf * np.float32(-2.12194440e-4)
    y = np.float32(1.9875691500e-4)
    y = y * r + np.float32(1.3981999507e-3)
    y = y * r + np.float32(8.3334519073e-3)
    y = y * r + np.float32(4.1665795894e-2)
    y = y * r + np.float32(1.6666665459e-1)
    y = y * r + np.float32(5.0000001201e-1)
    y = y * (r * r) + r + np.float32(1.0)
    scaled = y * from_bits((k + np.int32(127)) << np.int32(23))  # a product, so that NaN stays NaN
    return np.float32(0.0) if x < np.float32(-87.0) else scaled


def exp(x):
    """exp of a float that is not positive: the fast one for float32, the C library's for float64."""
    raise TypeError(f"exp is for compiled code only, got {x!r}")


@overload(exp, jit_options={"forceinline": True, "fastmath": {"contract"}})
def _exp_overload(x):
    if x == types.float32:
        return lambda x: _exp32(x)
    return lambda x: math.exp(x)


@inlined
def mirrored_place(error, complement):
    """The place of an error in [0, 1]: its bits up to 1/2; beyond, those of 1 - error counted from the top."""
    low = bits_of(np.float32(error)) - LOWEST
    high = TOP - (bits_of(np.float32(complement)) - LOWEST)
    place = low if error <= 0.5 else high
    return min(max(place, np.int32(0)), TOP)


# Unsigned indices spare the loops the question whether an index counts from the end.


@inlined
def cell_of(place):
    """The cell of a place."""
    return np.uint32(place) >> np.uint32(CELL_BITS)


@inlined
def bin_of(place, entry):
    """The bin of a place, by its cell's entry ``first bin << 5 | bits dropped``."""
    return np.uint64((entry >> np.int32(5)) + ((place & _CELL_MASK) >> (entry & np.int32(31))))


@inlined
def packed(place, entry):
    """One count, and the bits that the bin drops: their sum gives the exact sum of the errors in the bin."""
    return ONE + np.int64(place & ((np.int32(1) << (entry & np.int32(31))) - np.int32(1)))
