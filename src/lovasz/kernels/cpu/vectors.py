"""Table look-ups for eight errors at a time, and fetching ahead; LLVM vectorises no loop that looks up while it writes.

Apart because they are written in LLVM's own terms; where a processor has no gather, LLVM takes the lanes apart again.
"""

import sys
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from lovasz.kernels.bins import CELL_BITS
from lovasz.kernels.cpu.arithmetic import inlined

LANES = 8  # what the buffers' lengths must be multiples of
_INT, _LONG, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()


def _lanes(kind: ir.Type) -> ir.VectorType:
    return ir.VectorType(kind, LANES)


def _all(value: int) -> ir.Constant:
    return ir.Constant(_lanes(_INT), [ir.Constant(_INT, value)] * LANES)


def _data(context: Any, builder: Any, signature: Any, arguments: Any, which: int) -> Any:
    """The address of the first element of an array among the arguments."""
    return context.make_array(signature.args[which])(context, builder, value=arguments[which]).data


def _load(builder: Any, address: Any, kind: ir.Type) -> Any:
    loaded = builder.load(builder.bitcast(address, _lanes(kind).as_pointer()))
    loaded.align = 4
    return loaded


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.bitcast(address, value.type.as_pointer()), align=4)


class _Addresses(ir.Instruction):
    """The addresses that the lanes of ``index`` count from ``base``; llvmlite's own instruction knows no lanes."""

    def __init__(self, builder: Any, base: Any, index: Any, kind: ir.Type) -> None:
        super().__init__(builder.block, ir.VectorType(base.type, LANES), "getelementptr", [base, index])
        self.kind = kind
        builder._insert(self)

    def descr(self, buf: list[str]) -> None:
        base, index = self.operands
        of = f"{self.kind}, {base.type} {base.get_reference()}, {index.type} {index.get_reference()}"
        buf.append(f"getelementptr inbounds {of}\n")


def _suffix(address: Any, kind: str) -> str:
    """How the names of LLVM's own functions call an address: what it points to is said by old versions only."""
    return "p0" if str(address.type) == "ptr" else f"p0{kind}"


def _gather(builder: Any, base: Any, index: Any, kind: ir.IntType) -> Any:
    """The integers at ``base`` that the lanes of ``index`` count from there."""
    base = builder.bitcast(base, kind.as_pointer())
    addresses = _Addresses(builder, base, index, kind)
    each = f"i{kind.width}"
    yes, nothing = ir.VectorType(ir.IntType(1), LANES), ir.Constant(_lanes(kind), ir.Undefined)
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(_lanes(kind), [addresses.type, _INT, yes, _lanes(kind)]),
        f"llvm.masked.gather.v{LANES}{each}.v{LANES}{_suffix(base, each)}",
    )
    mask = ir.Constant(yes, [ir.Constant(ir.IntType(1), 1)] * LANES)
    return builder.call(function, [addresses, ir.Constant(_INT, 4), mask, nothing])


def _find_lanes(typing_context, place, cell, i, entries, found, rest):  # noqa: ARG001
    """See ``find``, for eight places from the i-th on."""

    def codegen(context, builder, signature, arguments):
        places, table, bins, low = (_data(context, builder, signature, arguments, k) for k in (0, 3, 4, 5))
        at = arguments[2]
        place = _load(builder, builder.gep(places, [at]), _INT)
        if signature.args[1] == types.none:
            index = builder.lshr(place, _all(CELL_BITS))
        else:
            index = _load(builder, builder.gep(_data(context, builder, signature, arguments, 1), [at]), _INT)
        entry = _gather(builder, table, index, _INT)
        shift = builder.and_(entry, _all(31))
        inside = builder.lshr(builder.and_(place, _all((1 << CELL_BITS) - 1)), shift)
        mask = builder.sub(builder.shl(_all(1), shift), _all(1))
        _store(builder, builder.add(builder.lshr(entry, _all(5)), inside), builder.gep(bins, [at]))
        _store(builder, builder.and_(place, mask), builder.gep(low, [at]))
        return context.get_dummy_value()

    return types.void(place, cell, types.int64, entries, found, rest), codegen


def _weigh_lanes(typing_context, found, rest, i, lines, weights):  # noqa: ARG001
    """See ``weigh``, for eight bins from the i-th on."""

    def codegen(context, builder, signature, arguments):
        bins, low, table, out = (_data(context, builder, signature, arguments, k) for k in (0, 1, 3, 4))
        at = arguments[2]
        index = _load(builder, builder.gep(bins, [at]), _INT)
        both = _gather(builder, table, index, _LONG)
        half = ir.Constant(_lanes(_LONG), [ir.Constant(_LONG, 32)] * LANES)
        first, second = both, builder.lshr(both, half)
        if sys.byteorder == "big":
            first, second = second, first
        start, rise = (builder.bitcast(builder.trunc(x, _lanes(_INT)), _lanes(_FLOAT)) for x in (first, second))
        bits = builder.sitofp(_load(builder, builder.gep(low, [at]), _INT), _lanes(_FLOAT))
        weight = builder.fadd(start, builder.fmul(rise, bits, flags=("contract",)), flags=("contract",))
        if signature.args[4].dtype == types.float64:
            weight = builder.fpext(weight, _lanes(ir.DoubleType()))
        _store(builder, weight, builder.gep(out, [at]))
        return context.get_dummy_value()

    return types.void(found, rest, types.int64, lines, weights), codegen


def _prefetch_line(typing_context, array, i):  # noqa: ARG001
    """Have element i of a flat array brought into the cache, or row i of one of two dimensions."""

    def codegen(context, builder, signature, arguments):
        data, kind = _data(context, builder, signature, arguments, 0), signature.args[0]
        row = builder.extract_value(context.make_array(kind)(context, builder, value=arguments[0]).strides, 0)
        offset = builder.mul(row, arguments[1])
        address = builder.inttoptr(builder.add(builder.ptrtoint(data, _LONG), offset), ir.IntType(8).as_pointer())
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [address.type, _INT, _INT, _INT]),
            f"llvm.prefetch.{_suffix(address, 'i8')}",
        )
        builder.call(function, [address, *(ir.Constant(_INT, how) for how in (0, 3, 1))])  # to read, soon again, data
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


prefetch: Any = intrinsic(_prefetch_line)
_find: Any = intrinsic(_find_lanes)
_weigh: Any = intrinsic(_weigh_lanes)


@inlined
def find(place, cell, entries, count, found, rest, ahead):
    """The bins of ``count`` places, and the bits of each that its bin drops: where in the bin it lies.

    The entry of a cell is ``first bin << 5 | bits dropped``. place, found, rest: int32, each with room for a multiple
    of LANES; cell: the same, where in ``entries`` that of each place stands, or None for the place's own cell. All must
    lie within ``entries``, also those beyond ``count``. ahead: None, or flat memory whose first ``count`` elements are
    to be in the cache when they are needed; between look-ups a request costs nothing.
    """
    for i in range(0, count, LANES):
        _find(place, cell, i, entries, found, rest)
        if ahead is not None:
            prefetch(ahead, i)


@inlined
def weigh(found, rest, lines, count, weights, ahead):
    """The weight ``start + rise * rest`` of each bin found, from lines (bins, 2) of float32; ahead: see ``find``."""
    for i in range(0, count, LANES):
        _weigh(found, rest, i, lines, weights)
        if ahead is not None:
            prefetch(ahead, i)
