"""Scalar arithmetic of the CPU kernel, inlined into its loops: exp, half precision, the place and bin of an error.

Apart from the loops because all of them share it. Numba compiles these functions, so their types are not annotated.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, overload, register_jitable

from lovasz.kernels.bins import CELL_BITS, FLOOR, HALF_RANGE, SUM_BITS

TOP = np.int32(2 * HALF_RANGE - 1)  # the last place of a mirrored error
LOWEST = np.int32(FLOOR)
ONE = np.int64(1) << SUM_BITS  # one count of a packed bin
SUM_MASK = ONE - np.int64(1)

# What every function that is inlined is compiled with. Contraction to fused multiply-add only: NaN must stay NaN, and
# sums keep their order. Ways in from C, and with ``inlined`` from Python, would take a tenth longer to compile.
INLINED: Any = {
    "forceinline": True,
    "no_cfunc_wrapper": True,
    "fastmath": {"contract"},
    "error_model": "numpy",
}


def inlined(function: Callable[..., Any]) -> Any:
    """Make a function part of every loop that calls it; called from Python, it runs there, uncompiled."""
    return register_jitable(**INLINED)(function)


class Scores(NamedTuple):
    """One input as the loops read it: flat memory, and how to walk it.

    x, target: flat memory from the first element on (see ``load``); work: an empty array of the type to compute in;
    strides: of x for (image, class, pixel); shape: (images, classes, pixels); target_strides: for (image, class,
    pixel), the class's being 0 for labels; labelled: whether the target holds class indices; void, has_void: the label
    to leave out, if any; per_image: whether each image has groups of its own.
    """

    x: np.ndarray
    work: np.ndarray
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


def _larger(typing_context, a, b):
    """The larger of two floats of one type, the other one where one is NaN.

    Written as a comparison, LLVM stores a running maximum under a mask, which takes an AMD processor twelve cycles.
    """

    def codegen(context, builder, signature, arguments):
        kind = arguments[0].type
        function = builder.module.declare_intrinsic("llvm.maxnum", [kind], ir.FunctionType(kind, [kind, kind]))
        return builder.call(function, arguments)

    return a(a, a), codegen


larger: Any = intrinsic(_larger)
bits_of: Any = intrinsic(_bits_of)
from_bits: Any = intrinsic(_from_bits)


def _half_to_float(typing_context, value):
    """The float32 of a float16 given by its bits."""

    def codegen(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), codegen


def _float_to_half(typing_context, value):
    """The bits of the float16 nearest to a float32."""

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), codegen


_widened: Any = intrinsic(_half_to_float)
_narrowed: Any = intrinsic(_float_to_half)


@inlined
def widen(half):
    """The float32 of a float16 given by its bits, in integers: for processors without an instruction for it."""
    bits = np.int32(half)
    rest = np.int32(np.int32(bits & np.int32(0x7FFF)) << np.int32(13))
    # Read as a float32 its exponent is 112 too small, also where it is 0. That of infinity and NaN becomes the largest.
    value = bits_of(from_bits(rest) * np.float32(2.0**112))
    value = np.int32(rest | np.int32(0x7F800000)) if rest >= np.int32(0x0F800000) else value
    return from_bits(np.int32(value | np.int32(np.int32(bits & np.int32(0x8000)) << np.int32(16))))


@inlined
def narrow(value):
    """The bits of the float16 nearest to a float32, of two the even one, in integers."""
    bits = bits_of(value)
    rest = np.int32(bits & np.int32(0x7FFFFFFF))
    if rest > np.int32(0x7F800000):
        half = np.int32(0x7E00)
    elif rest >= np.int32(0x477FF000):  # 65520, from where on the nearest is infinity
        half = np.int32(0x7C00)
    elif rest < np.int32(0x38800000):  # 2^-14: added to 1/2, its last place is that of the smallest float16
        half = np.int32(bits_of(from_bits(rest) + np.float32(0.5)) - np.int32(0x3F000000))
    else:
        even = np.int32(np.int32(rest >> np.int32(13)) & np.int32(1))
        half = np.int32(np.int32(rest - np.int32(112 << 23) + np.int32(0xFFF) + even) >> np.int32(13))
    return np.uint16(half | np.int32(np.int32(bits >> np.int32(16)) & np.int32(0x8000)))


def _converts_half(target: tuple[str, str, str]) -> bool:
    """Whether the processor that Numba compiles for, its triple, name and features, has instructions for float16: where
    it has none LLVM calls a function that is not there, and ends the process."""
    triple, _, features = target
    return triple.startswith(("aarch64", "arm64")) or "+f16c" in features.split(",")


_numba: Any = cpu_target.target_context
_BY_PROCESSOR = _converts_half(_numba.codegen().magic_tuple())
half_to_float: Any = _widened if _BY_PROCESSOR else widen
float_to_half: Any = _narrowed if _BY_PROCESSOR else narrow

# NumPy has no bfloat16, Numba no float16: memory of the one is passed as int16, of the other as uint16.


def load(memory, i):
    """Element i of flat memory as the loops compute with it: float64 stays, everything else becomes float32."""
    raise TypeError(f"load is for compiled code only, got {memory!r}")


@overload(load, jit_options=INLINED)
def _load_overload(memory, i):
    if memory.dtype == types.uint16:
        return lambda memory, i: half_to_float(memory[i])
    if memory.dtype == types.int16:
        return lambda memory, i: from_bits(np.int32(memory[i]) << np.int32(16))
    return lambda memory, i: memory[i]


def store(memory, i, value):
    """Write element i of flat memory, rounded to what the memory holds."""
    raise TypeError(f"store is for compiled code only, got {memory!r}")


@inlined
def _to_bfloat(value):
    bits = bits_of(value)
    nearest = np.int16((bits + np.int32(0x7FFF) + ((bits >> np.int32(16)) & np.int32(1))) >> np.int32(16))
    return nearest if value == value else np.int16(0x7FC0)


@overload(store, jit_options=INLINED)
def _store_overload(memory, i, value):
    if memory.dtype == types.uint16:

        def store_half(memory, i, value):
            memory[i] = float_to_half(np.float32(value))

        return store_half
    if memory.dtype == types.int16:

        def store_bfloat(memory, i, value):
            memory[i] = _to_bfloat(np.float32(value))

        return store_bfloat

    def store_plain(memory, i, value):
        memory[i] = value

    return store_plain


class _Exp(NamedTuple):
    """The numbers of exp: x = k ln 2 + r, and exp(r) = 1 + r + r^2 P(r) with the P of degree 4 whose relative error is
    smallest, 3e-9."""

    per_octave: float = 1.4426950408889634  # 1 / ln 2
    # Added, 1.5 * 2^23 rounds to an integer k, and 127 more make its low bits the exponent of 2^k.
    shift: float = 12582912.0 + 127
    octave: float = 0.693359375  # ln 2 in two parts, so that k times the first is exact
    octave_rest: float = -2.12194440e-4
    square: float = 0.49999993432
    cubic: float = 0.16666520399
    fourth: float = 0.041668390784
    fifth: float = 0.0083687451089
    sixth: float = 0.0013814540177
    least: float = -87.0  # below, 2^k is no normal number, and the result 0


EXP = _Exp()
_PER_OCTAVE, _SHIFT, _OCTAVE, _OCTAVE_REST, _SQUARE, _CUBIC, _FOURTH, _FIFTH, _SIXTH, _LEAST = map(np.float32, EXP)


@inlined
def _exp32(x):
    """exp of a float32 that is not positive, to about one unit in the last place; it vectorises, math.exp does not."""
    shifted = x * _PER_OCTAVE + _SHIFT
    k = shifted - _SHIFT
    r = x - k * _OCTAVE
    r = r - k * _OCTAVE_REST
    square = r * r  # in short chains of operations
    low = _CUBIC * r + _SQUARE
    high = _FIFTH * r + _FOURTH
    y = (_SIXTH * square + high) * square + low
    y = y * square + r + np.float32(1.0)
    power = np.int32(bits_of(shifted) << np.int32(23))
    scaled = y * from_bits(power)  # a product, so that NaN stays NaN
    return np.float32(0.0) if x < _LEAST else scaled


def exp(x):
    """exp of a float that is not positive: the fast one for float32, the C library's for float64."""
    raise TypeError(f"exp is for compiled code only, got {x!r}")


@overload(exp, jit_options=INLINED)
def _exp_overload(x):
    if x == types.float32:
        return lambda x: _exp32(x)
    return lambda x: math.exp(x)


# Differences of int32 are int64 to Numba; cast back at once, they stay in vectors of 32 bits.


@inlined
def above_floor(error):
    """By how much the bits of an error exceed those of the lowest place: 0 below it, for -0.0 and negative ones too."""
    return np.int32(max(bits_of(np.float32(error)), LOWEST) - LOWEST)


@inlined
def mirrored_place(error, complement):
    """The place of an error in [0, 1]: its bits up to 1/2; beyond, those of 1 - error counted from the top."""
    high = np.int32(TOP - above_floor(complement))
    place = above_floor(error) if error <= 0.5 else high
    return max(place, np.int32(0))  # NaN


@inlined
def cell_of(place):
    """The cell of a place, unsigned: that spares a loop the question whether it counts from the end."""
    return np.uint32(place) >> np.uint32(CELL_BITS)
