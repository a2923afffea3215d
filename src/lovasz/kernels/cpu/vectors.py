"""Inner loops of the kernel over neighbouring pixels: exp, and the bins of errors, counted in and weighed.

Apart because how they are written decides the kernel's speed. A look-up is a loop of its own, of plain numbers, and the
arithmetic around it another that LLVM vectorises: a vector taken apart into addresses and put together again took a
third longer.
"""

import struct
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from lovasz.kernels.bins import CELL_BITS
from lovasz.kernels.cpu.arithmetic import EXP, INLINED, ONE, cell_of, exp, inlined

LANES = 8  # pixels treated together: what the memory of a row must be a multiple of
AHEAD = 8  # elements between two requests to fetch
_LOW = np.int32((1 << CELL_BITS) - 1)
_FLOAT, _INT, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)


def _data(context: Any, builder: Any, signature: Any, arguments: Any, which: int) -> Any:
    """The address of the first element of an array among the arguments."""
    return context.make_array(signature.args[which])(context, builder, value=arguments[which]).data


def _exp_lanes(typing_context, row, peak, i):  # noqa: ARG001
    """``arithmetic.exp(row - peak)`` into row, for LANES float32 from the i-th on, bit for bit.

    For LLVM's own loop over it, four vectors wide, there are not registers enough: the constants of all steps come
    from memory then, and it takes two fifths longer.
    """
    floats, ints = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)

    def number(value: float) -> ir.Constant:
        rounded = struct.unpack("f", struct.pack("f", value))[0]  # LLVM takes no others
        return ir.Constant(floats, [ir.Constant(_FLOAT, rounded)] * LANES)

    def codegen(context, builder, signature, arguments):
        def times(a, b):
            return builder.fmul(a, b, flags=("contract",))

        def plus(a, b):
            return builder.fadd(a, b, flags=("contract",))

        def minus(a, b):
            return builder.fsub(a, b, flags=("contract",))

        here, largest = (
            builder.bitcast(
                builder.gep(_data(context, builder, signature, arguments, k), [arguments[2]]), floats.as_pointer()
            )
            for k in (0, 1)
        )
        x = minus(builder.load(here, align=4), builder.load(largest, align=4))
        shifted = plus(times(x, number(EXP.per_octave)), number(EXP.shift))
        k = minus(shifted, number(EXP.shift))
        r = minus(minus(x, times(k, number(EXP.octave))), times(k, number(EXP.octave_rest)))
        square = times(r, r)
        low = plus(times(number(EXP.cubic), r), number(EXP.square))
        high = plus(times(number(EXP.fifth), r), number(EXP.fourth))
        y = plus(times(plus(times(number(EXP.sixth), square), high), square), low)
        y = plus(plus(times(y, square), r), number(1.0))
        power = builder.shl(builder.bitcast(shifted, ints), ir.Constant(ints, [ir.Constant(_INT, 23)] * LANES))
        scaled = times(y, builder.bitcast(power, floats))
        small = builder.fcmp_ordered("<", x, number(EXP.least))
        builder.store(builder.select(small, number(0.0), scaled), here, align=4)
        return context.get_dummy_value()

    return types.void(row, peak, types.int64), codegen


def _lanes_exceed(typing_context, values, i, bound):  # noqa: ARG001
    """Whether one of LANES int32 from the i-th on exceeds the bound."""
    ints = ir.VectorType(_INT, LANES)

    def codegen(context, builder, signature, arguments):
        address = builder.gep(_data(context, builder, signature, arguments, 0), [arguments[1]])
        lanes = builder.load(builder.bitcast(address, ints.as_pointer()), align=4)
        first = builder.insert_element(ir.Constant(ints, ir.Undefined), arguments[2], ir.Constant(_INT, 0))
        bounds = builder.shuffle_vector(first, first, ir.Constant(ints, [ir.Constant(_INT, 0)] * LANES))
        found = builder.bitcast(builder.icmp_signed(">", lanes, bounds), ir.IntType(LANES))
        return builder.icmp_unsigned("!=", found, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(values, types.int64, types.int32), codegen


def _prefetch_line(typing_context, array, i):  # noqa: ARG001
    """Have element i of a flat array brought into the cache."""

    def codegen(context, builder, signature, arguments):
        data, kind = _data(context, builder, signature, arguments, 0), signature.args[0]
        row = builder.extract_value(context.make_array(kind)(context, builder, value=arguments[0]).strides, 0)
        offset = builder.mul(row, arguments[1])
        address = builder.inttoptr(builder.add(builder.ptrtoint(data, _LONG), offset), ir.IntType(8).as_pointer())
        suffix = "p0" if str(address.type) == "ptr" else "p0i8"  # what it points to is said by old versions only
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [address.type, _INT, _INT, _INT]),
            f"llvm.prefetch.{suffix}",
        )
        builder.call(function, [address, *(ir.Constant(_INT, how) for how in (0, 3, 1))])  # to read, soon again, data
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


prefetch: Any = intrinsic(_prefetch_line)
any_exceeds: Any = intrinsic(_lanes_exceed)
_exp: Any = intrinsic(_exp_lanes)


def exp_below(row, peak, count):  # noqa: ARG001
    """exp(row - peak) into row, of ``count`` pixels none of which exceeds its peak, each with room for a multiple of
    LANES."""
    raise TypeError(f"exp_below is for compiled code only, got {row!r}")


@overload(exp_below, jit_options=INLINED)
def _exp_below_overload(row, peak, count):  # noqa: ARG001
    if row.dtype == types.float32:

        def lanes(row, peak, count):
            for i in range(0, count, LANES):
                _exp(row, peak, i)

        return lanes

    def one_by_one(row, peak, count):
        for i in range(count):
            row[i] = exp(row[i] - peak[i])

    return one_by_one


@inlined
def zeros(count):
    """(count,) int32 for what may be looked up beyond the last one that was written. ``np.zeros`` takes twice as
    long to compile."""
    room = np.empty(count, np.int32)
    for i in range(count):
        room[i] = 0
    return room


@inlined
def count_one(place, cell, entries, bins, first):
    """Find the bin of a place, whose entry stands at ``cell``, and count it in; first: where in ``bins`` those of all
    entries begin."""
    entry = np.uint32(entries[cell])
    low = np.uint32(place & _LOW)
    drop = np.uint32(entry & np.uint32(31))
    bins[first + np.uint32(np.uint32(entry >> np.uint32(5)) + np.uint32(low >> drop))] += ONE + np.int64(low)


@inlined
def count_in(place, entries, count, bins, ahead):
    """Find the bins of ``count`` places of one class and count them in.

    The entry of a cell is ``first bin << 5 | bits dropped``; ``bins`` are packed, see ``arithmetic.ONE``: the sum is of
    where in their cell the errors lie. ahead: None, or flat memory whose first ``count`` elements are to be in the
    cache when they are needed; between look-ups a request costs nothing.
    """
    whole = count // AHEAD * AHEAD
    for begin in range(0, whole, AHEAD):
        if ahead is not None:
            prefetch(ahead, begin)
        for k in range(AHEAD):
            spot = place[np.uint64(begin + k)]
            count_one(spot, cell_of(spot), entries, bins, np.uint64(0))
    for i in range(whole, count):
        count_one(place[i], cell_of(place[i]), entries, bins, np.uint64(0))


@inlined
def weigh(place, cell, first, entries, lines, line, count, weights, ahead, later):
    """The weight ``start + rise * rest`` of ``count`` places, rest being the bits of the place that its bin drops.

    place: int32; cell: the same, where in ``entries`` that of each place stands, or None for the place's own cell;
    first: the same, where in ``lines`` the first bin stands for it, or None for 0. All three must be valid up to the
    next multiple of AHEAD. lines: from ``tables.lines``; line: (T,) int64 to work in; ahead, later: see ``count_in``.
    """
    for begin in range(0, count, AHEAD):
        if ahead is not None:
            prefetch(ahead, begin)
        if later is not None:
            prefetch(later, begin)
        for k in range(AHEAD):
            i = np.uint64(begin + k)
            entry = np.uint32(entries[cell_of(place[i]) if cell is None else np.uint32(cell[i])])
            inside = np.uint32(np.uint32(place[i] & _LOW) >> np.uint32(entry & np.uint32(31)))
            found = np.uint32(np.uint32(entry >> np.uint32(5)) + inside)
            line[i] = lines[found if first is None else np.uint32(found + np.uint32(first[i]))]
    numbers, bits = line.view(np.float32), line.view(np.int32)  # one view of both took a tenth of the pass longer
    for i in range(count):
        drop = np.int32(bits[2 * i + 1] & np.int32(31))
        rest = np.int32(place[i] & np.int32(np.int32(np.int32(1) << drop) - np.int32(1)))
        weights[i] = numbers[2 * i] + numbers[2 * i + 1] * np.float32(rest)
