"""The compiled loops of the CPU kernel (Numba): count errors per bin, weigh the bins, write the gradient.

Apart from ``cpu.py``, which owns threads and autograd, so that this file holds arithmetic only. ``bins.py`` explains the bins.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from lovasz.kernels.bins import (
    CELL_BITS,
    FINEST,
    FLOOR,
    HALF_RANGE,
    SUM_BITS,
    TAIL_CELLS,
    TAIL_DECAY,
    UNBOUNDED_CELLS,
)

MODE_SIGMOID, MODE_PROBABILITY, MODE_HINGE, MODE_ELU = range(4)
WIDTH = 1024  # elements that one thread treats at a time, to stay in its cache

_CELL_MASK = np.int32((1 << CELL_BITS) - 1)
_TOP = np.int32(2 * HALF_RANGE - 1)
_FLOOR = np.int32(FLOOR)
_LAST = np.int32((UNBOUNDED_CELLS << CELL_BITS) - 1)
_ONE = np.int64(1) << SUM_BITS
_SUM_MASK = _ONE - np.int64(1)

# Contraction to fused multiply-add only: NaN must stay NaN, and sums keep their order.
_inline = nb.njit(forceinline=True, fastmath={"contract"}, error_model="numpy")
_compiled = nb.njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy", boundscheck=False)


@intrinsic
def _bits(typing_context, value):  # noqa: ANN001, ANN202, ARG001
    """The bits of a float32 as int32."""

    def codegen(context, builder, signature, arguments):  # noqa: ANN001, ANN202, ARG001
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@intrinsic
def _from_bits(typing_context, value):  # noqa: ANN001, ANN202, ARG001
    """The float32 with the given int32 bits."""

    def codegen(context, builder, signature, arguments):  # noqa: ANN001, ANN202, ARG001
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), codegen


@_inline
def _exp32(x):  # noqa: ANN001, ANN202
    """exp of a float32 that is not positive, to about one unit in the last place; it vectorises, math.exp does not."""
    shifted = x * np.float32(1.4426950408889634) + np.float32(12582912.0)  # 1.5 * 2^23: rounds to an integer
    k = _bits(shifted) - np.int32(0x4B400000)
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
    scaled = y * _from_bits((k + np.int32(127)) << np.int32(23))  # a product, so that NaN stays NaN
    return np.float32(0.0) if x < np.float32(-87.0) else scaled


def _exp(x):  # noqa: ANN001, ANN202
    raise TypeError("only called from compiled code")


@overload(_exp, jit_options={"forceinline": True, "fastmath": {"contract"}})
def _exp_overload(x):  # noqa: ANN001, ANN202
    if x == types.float32:
        return lambda x: _exp32(x)
    return lambda x: math.exp(x)


@_inline
def _mirrored(error, complement):  # noqa: ANN001, ANN202
    """The place of an error in [0, 1] in the order of bins: its bits up to 1/2, beyond those of 1 - error from the top."""
    low = _bits(np.float32(error)) - _FLOOR
    high = _TOP - (_bits(np.float32(complement)) - _FLOOR)
    place = low if error <= 0.5 else high
    return min(max(place, np.int32(0)), _TOP)


@_inline
def _key(place, entry):  # noqa: ANN001, ANN202
    """The bin of a place, by its cell's entry ``first bin << 5 | bits dropped``."""
    return (entry >> np.int32(5)) + ((place & _CELL_MASK) >> (entry & np.int32(31)))


@_inline
def _packed(place, entry):  # noqa: ANN001, ANN202
    """One count, and the bits that the bin drops: their sum gives the exact sum of the errors in the bin."""
    return _ONE + np.int64(place & ((np.int32(1) << (entry & np.int32(31))) - np.int32(1)))


@_inline
def _softmax_tile(
    x, at, class_stride, stride, target, target_at, target_stride, void, has_void, tile, right, scale, count, status
):  # noqa: ANN001, ANN202
    """exp(logits - max) of ``count`` pixels into ``tile`` (C, T), with 0 in place of the target class.

    ``right`` receives the target's share of the sum and ``scale`` the sum of the others; a void pixel is 0 throughout.
    """
    classes = tile.shape[0]
    for i in range(count):
        scale[i] = x[at + i * stride]
    if stride == 1:
        for c in range(1, classes):
            base = at + c * class_stride
            for i in range(count):
                v = x[base + i]
                scale[i] = v if v > scale[i] else scale[i]
        for c in range(classes):
            base = at + c * class_stride
            for i in range(count):
                tile[c, i] = _exp(x[base + i] - scale[i])
    else:
        for i in range(count):
            base = at + i * stride
            for c in range(classes):
                v = x[base + c * class_stride]
                tile[c, i] = v
                scale[i] = v if v > scale[i] else scale[i]
        for c in range(classes):
            for i in range(count):
                tile[c, i] = _exp(tile[c, i] - scale[i])
    for i in range(count):
        t = np.int64(target[target_at + i * target_stride])
        if has_void and t == void:
            for c in range(classes):
                tile[c, i] = 0
            right[i] = 0
        elif t < 0 or t >= classes:
            status[0] = 1
            status[1] = t
            right[i] = 0
        else:
            right[i] = tile[t, i]
            tile[t, i] = 0
    for i in range(count):
        scale[i] = 0
    for c in range(classes):
        for i in range(count):
            scale[i] += tile[c, i]


@_compiled
def count_labels(classes, target, strides, pixels, void, has_void, per_image, begin, end, totals, surplus, status):
    """Before the passes: ``totals`` (G,) pixels of each class, so that absent ones cost nothing, and void ones with them."""
    counts = np.zeros(classes, np.int64)
    position = begin
    while position < end:
        image = position // pixels
        first = position - image * pixels
        count = min(end - position, pixels - first)
        at = image * strides[0] + first * strides[1]
        voids = 0
        counts[:] = 0
        for i in range(count):
            t = np.int64(target[at + i * strides[1]])
            if has_void and t == void:
                voids += 1
            elif t < 0 or t >= classes:
                status[0] = 1
                status[1] = t
            else:
                counts[t] += 1
        group = image * classes if per_image else 0
        if voids:
            for c in range(classes):
                surplus[group + c] += voids
        for c in range(classes):
            totals[group + c] += counts[c]
            surplus[group + c] += counts[c]
        position += count


@_compiled
def count_softmax(
    x, strides, shape, target, target_strides, void, has_void, per_image, begin, end, width, lut, active, hist, status
):  # noqa: ANN001, ANN201
    """First pass: the bins of the errors of pixels ``begin`` to ``end``, from logits.

    x: flat storage of logits, addressed by ``strides`` of (image, class, pixel); shape: (images, classes, pixels).
    target: flat labels, addressed by ``target_strides`` of (image, pixel).
    lut: (C, cells) entries; active: (G,) False for groups to leave out; hist: (G, 2, bins) packed, background and
    foreground. So that the loop over classes need not branch, void pixels and those of the class itself are counted in the
    lowest background bin too. status: [label beyond the classes met, that label, NaN met].
    """
    _, classes, pixels = shape
    tile = np.empty((classes, width), x.dtype)
    right = np.empty(width, x.dtype)
    scale = np.empty(width, x.dtype)
    place = np.empty(width, np.int32)
    position = begin
    while position < end:
        image = position // pixels
        first = position - image * pixels
        count = min(width, end - position, pixels - first)
        at = image * strides[0] + first * strides[2]
        target_at = image * target_strides[0] + first * target_strides[1]
        _softmax_tile(
            x,
            at,
            strides[1],
            strides[2],
            target,
            target_at,
            target_strides[1],
            void,
            has_void,
            tile,
            right,
            scale,
            count,
            status,
        )
        group = image * classes if per_image else 0
        poisoned = False
        for i in range(count):
            total = scale[i] + right[i]
            poisoned |= total != total
            inverse = x.dtype.type(0) if total == 0 else 1 / total
            right[i] *= inverse  # the target's probability
            wrong = scale[i] * inverse
            scale[i] = inverse
            t = np.int64(target[target_at + i * target_strides[1]])
            if inverse != 0 and t >= 0 and t < classes:
                spot = _mirrored(wrong, right[i])
                entry = lut[t, spot >> CELL_BITS]
                hist[group + t, 1, _key(spot, entry)] += _packed(spot, entry)
        if poisoned:
            status[2] = 1
        for c in range(classes):
            if not active[group + c]:
                continue
            for i in range(count):
                p = tile[c, i] * scale[i]
                place[i] = _mirrored(p, 1 - p)
            entries = lut[c]
            bins = hist[group + c, 0]
            for i in range(count):
                entry = entries[place[i] >> CELL_BITS]
                bins[_key(place[i], entry)] += _packed(place[i], entry)
        position += count


@_compiled
def gradient_softmax(
    x,
    strides,
    shape,
    target,
    target_strides,
    void,
    has_void,
    per_image,
    begin,
    end,
    width,
    lut,
    weights,
    active,
    factor,
    out,
    out_strides,
):  # noqa: ANN001, ANN201
    """Second pass: the gradient with respect to the logits of pixels ``begin`` to ``end``, times ``factor``, into ``out``.

    weights: (G, 2, bins) per class, already with the class's share of the average; active: (G,) whether that is not 0.
    With q_c the weight of class c at this pixel and t its target, dloss/dlogit_c = p_c (q_c - sum_k!=t p_k q_k + p_t q_t)
    and for the target -p_t ((1 - p_t) q_t + sum_k!=t p_k q_k).
    """
    _, classes, pixels = shape
    tile = np.empty((classes, width), x.dtype)
    slopes = np.empty((classes, width), np.float32)
    right = np.empty(width, x.dtype)
    scale = np.empty(width, x.dtype)
    total = np.empty(width, x.dtype)
    own = np.empty(width, x.dtype)
    share = np.empty(width, x.dtype)
    place = np.empty(width, np.int32)
    status = np.empty(3, np.int64)
    position = begin
    while position < end:
        image = position // pixels
        first = position - image * pixels
        count = min(width, end - position, pixels - first)
        at = image * strides[0] + first * strides[2]
        target_at = image * target_strides[0] + first * target_strides[1]
        _softmax_tile(
            x,
            at,
            strides[1],
            strides[2],
            target,
            target_at,
            target_strides[1],
            void,
            has_void,
            tile,
            right,
            scale,
            count,
            status,
        )
        group = image * classes if per_image else 0
        for i in range(count):
            sum_all = scale[i] + right[i]
            inverse = x.dtype.type(0) if sum_all == 0 else 1 / sum_all
            right[i] *= inverse
            wrong = scale[i] * inverse
            scale[i] = inverse
            own[i] = 0
            share[i] = 0
            total[i] = 0
            t = np.int64(target[target_at + i * target_strides[1]])
            if inverse != 0 and t >= 0 and t < classes and active[group + t]:
                spot = _mirrored(wrong, right[i])
                q = weights[group + t, 1, _key(spot, lut[t, spot >> CELL_BITS])]
                own[i] = -right[i] * wrong * q
                share[i] = right[i] * q
        for c in range(classes):
            if active[group + c]:
                for i in range(count):
                    p = tile[c, i] * scale[i]
                    tile[c, i] = p
                    place[i] = _mirrored(p, 1 - p)
                entries = lut[c]
                bins = weights[group + c, 0]
                for i in range(count):
                    slopes[c, i] = bins[_key(place[i], entries[place[i] >> CELL_BITS])]
                for i in range(count):
                    total[i] += tile[c, i] * slopes[c, i]
            else:
                for i in range(count):
                    tile[c, i] *= scale[i]
                    slopes[c, i] = 0
        for i in range(count):
            own[i] = factor * (own[i] - right[i] * total[i])
            total[i] -= share[i]
        out_at = image * out_strides[0] + first * out_strides[2]
        if out_strides[2] == 1:
            for c in range(classes):
                base = out_at + c * out_strides[1]
                for i in range(count):
                    out[base + i] = factor * tile[c, i] * (slopes[c, i] - total[i])
        else:
            for i in range(count):
                base = out_at + i * out_strides[2]
                for c in range(classes):
                    out[base + c * out_strides[1]] = factor * tile[c, i] * (slopes[c, i] - total[i])
        for i in range(count):
            t = np.int64(target[target_at + i * target_strides[1]])
            if t >= 0 and t < classes and not (has_void and t == void):
                out[out_at + i * out_strides[2] + t * out_strides[1]] = own[i]
        position += count


@_inline
def _error(mode, z, foreground):  # noqa: ANN001, ANN202
    """Error and its complement (hinge: only the error) of one score."""
    zero, one = type(z)(0), type(z)(1)
    if mode == MODE_SIGMOID:
        e = _exp(-abs(z))
        small, large = e / (one + e), one / (one + e)
        right = (z > zero) == foreground
        return (small, large) if right else (large, small)
    if mode == MODE_PROBABILITY:
        return (one - z, z) if foreground else (z, one - z)
    raw = one - (z if foreground else -z)
    if mode == MODE_HINGE:
        return (zero if raw < zero else raw), zero
    return (_exp(min(raw, zero)) if raw < zero else raw + one), zero


@_inline
def _place(mode, error, complement):  # noqa: ANN001, ANN202
    """The place of an error, mirrored for those in [0, 1]."""
    if mode == MODE_SIGMOID or mode == MODE_PROBABILITY:
        return _mirrored(error, complement)
    return min(max(_bits(np.float32(error)) - _FLOOR, np.int32(0)), _LAST)


@_inline
def _is_foreground(t, c, labelled):  # noqa: ANN001, ANN202
    return t == c if labelled else t == 1


@_compiled
def count_elements(
    mode,
    x,
    strides,
    shape,
    target,
    target_strides,
    labelled,
    void,
    has_void,
    per_image,
    begin,
    end,
    lut,
    active,
    hist,
    totals,
    status,
):  # noqa: ANN001, ANN201
    """First pass for scores that do not depend on one another; elements ``begin`` to ``end`` of (image, class, pixel).

    labelled: the target holds class indices (one per pixel, class stride 0), else 0 and 1 per element. Rest: count_softmax.
    """
    _, classes, pixels = shape
    limit = classes if labelled else 2
    place = np.empty(WIDTH, np.int32)
    kind = np.empty(WIDTH, np.int32)
    position = begin
    while position < end:
        row = position // pixels
        first = position - row * pixels
        image = row // classes
        c = row - image * classes
        count = min(WIDTH, end - position, pixels - first)
        at = image * strides[0] + c * strides[1] + first * strides[2]
        target_at = image * target_strides[0] + c * target_strides[1] + first * target_strides[2]
        group = row if per_image else c
        position += count
        if not active[group]:
            continue
        found = 0
        for i in range(count):
            t = np.int64(target[target_at + i * target_strides[2]])
            foreground = _is_foreground(t, c, labelled)
            if has_void and t == void:
                kind[i] = -1
            else:
                kind[i] = np.int32(foreground)
                found += np.int64(foreground)
                if t < 0 or t >= limit:
                    status[0] = 1
                    status[1] = t
        poisoned = False
        for i in range(count):
            error, complement = _error(mode, x[at + i * strides[2]], kind[i] == 1)
            poisoned |= (error - error != 0) & (kind[i] >= 0)
            place[i] = _place(mode, error, complement)
        if poisoned:
            status[2] = 1
        totals[group] += found
        entries = lut[c]
        bins = hist[group]
        for i in range(count):
            if kind[i] >= 0:
                entry = entries[place[i] >> CELL_BITS]
                bins[kind[i], _key(place[i], entry)] += _packed(place[i], entry)


@_compiled
def gradient_elements(
    mode,
    x,
    strides,
    shape,
    target,
    target_strides,
    labelled,
    void,
    has_void,
    per_image,
    begin,
    end,
    lut,
    weights,
    active,
    factor,
    out,
    out_strides,
):  # noqa: ANN001, ANN201
    """Second pass for scores that do not depend on one another: weight, sign and the slope of the error."""
    _, classes, pixels = shape
    place = np.empty(WIDTH, np.int32)
    slope = np.empty(WIDTH, x.dtype)
    position = begin
    while position < end:
        row = position // pixels
        first = position - row * pixels
        image = row // classes
        c = row - image * classes
        count = min(WIDTH, end - position, pixels - first)
        at = image * strides[0] + c * strides[1] + first * strides[2]
        out_at = image * out_strides[0] + c * out_strides[1] + first * out_strides[2]
        target_at = image * target_strides[0] + c * target_strides[1] + first * target_strides[2]
        group = row if per_image else c
        if active[group]:
            for i in range(count):
                t = np.int64(target[target_at + i * target_strides[2]])
                foreground = _is_foreground(t, c, labelled)
                error, complement = _error(mode, x[at + i * strides[2]], foreground)
                place[i] = _place(mode, error, complement)
                if mode == MODE_SIGMOID:
                    steep = error * complement
                elif mode == MODE_PROBABILITY:
                    steep = type(error)(1)
                elif mode == MODE_HINGE:
                    steep = type(error)(error > 0)
                else:
                    steep = min(error, type(error)(1))
                if error != error:
                    steep = error
                if has_void and t == void:
                    steep = type(error)(0)
                slope[i] = factor * (-steep if foreground else steep)
            entries = lut[c]
            bins = weights[group]
            for i in range(count):
                foreground = _is_foreground(np.int64(target[target_at + i * target_strides[2]]), c, labelled)
                q = bins[np.int64(foreground), _key(place[i], entries[place[i] >> CELL_BITS])]
                out[out_at + i * out_strides[2]] = slope[i] * q
        else:
            for i in range(count):
                out[out_at + i * out_strides[2]] = 0
        position += count


@_inline
def _slope_terms(x):  # noqa: ANN001, ANN202
    """``log1p(x)`` and ``log1p(x) - x / (1 + x)``, the latter without cancellation for small x."""
    log = math.log1p(x)
    return log, (x * x * (0.5 - x * (2.0 / 3.0 - 0.75 * x)) if x < 1e-3 else log - x / (1.0 + x))


@_compiled
def weigh(mirrored, lut, hist, surplus, totals, shares, begin, end, weights, losses):  # noqa: ANN001, ANN201
    """Weights of the bins of groups ``begin`` to ``end``, and the loss of each group, from packed counts.

    The foreground and background pixels of one bin each get the average of the Jaccard loss's slope over the straight path
    through the bin (Aumann-Shapley value); see DESIGN. With n foreground pixels, and k, j passed before the bin::

        q_foreground = log1p(b / a) / b,  q_background = A / (a (a + b)) - f (log1p(b / a) - b / (a + b)) / b^2
        a = n + j,  A = n - k;  without any foreground the highest bin shares the weight 1

    lut: (C, cells); hist: (R, G, 2, bins) packed, summed over R; surplus: (G,) to take off the lowest background bin;
    totals: (G,) foreground pixels; shares: (G,) share in the average.
    weights: (G, 2, bins), written for every bin of an active group, times its share; losses: (G,) not times the share.
    """
    copies = hist.shape[0]
    classes, cells = lut.shape
    for g in range(begin, end):
        losses[g] = 0.0
        if shares[g] == 0:
            continue
        entries = lut[g % classes]
        share = shares[g]
        n = np.float64(totals[g])
        a = n
        remaining = n
        loss = 0.0
        stale = True
        empty_foreground = np.float32(0)
        empty_background = np.float32(0)
        for cell in range(cells - 1, -1, -1):
            entry = entries[cell]
            base = entry >> 5
            shift = entry & 31
            for sub in range((1 << (CELL_BITS - shift)) - 1, -1, -1):
                k = base + sub
                packed_b = np.int64(0)
                packed_f = np.int64(0)
                fc = np.int64(0)
                bc = np.int64(0)
                fs = np.int64(0)
                bs = np.int64(0)
                for r in range(copies):
                    packed_b = hist[r, g, 0, k]
                    packed_f = hist[r, g, 1, k]
                    if packed_b | packed_f:
                        bc += packed_b >> SUM_BITS
                        bs += packed_b & _SUM_MASK
                        fc += packed_f >> SUM_BITS
                        fs += packed_f & _SUM_MASK
                if cell == 0 and sub == 0:
                    bc -= surplus[g]  # pixels counted there only to keep the loop free of branches
                if bc | fc:
                    b = np.float64(bc)
                    f = np.float64(fc)
                    if n == 0:
                        q_f = 0.0
                        q_b = 1.0 / b if a == 0 else 0.0
                    elif bc == 0:
                        q_f = 1.0 / a
                        q_b = remaining / (a * (a + 1.0))
                    else:
                        log, rest = _slope_terms(b / a)
                        q_f = log / b
                        q_b = remaining / (a * (a + b)) - f * rest / (b * b)
                    place = np.int64(cell) << CELL_BITS | np.int64(sub) << shift
                    loss += q_f * _sum_of_errors(place, fc, fs, mirrored) + q_b * _sum_of_errors(
                        place, bc, bs, mirrored
                    )
                    weights[g, 0, k] = q_b * share
                    weights[g, 1, k] = q_f * share
                    a += b
                    remaining -= f
                    stale = True
                else:
                    # No pixel was counted here, but rounding may send one of a neighbouring bin here in the second pass.
                    if stale:
                        empty_foreground = np.float32(share / a if n > 0 else 0.0)
                        empty_background = np.float32(share * remaining / (a * (a + 1.0)) if n > 0 else 0.0)
                        stale = False
                    weights[g, 0, k] = empty_background
                    weights[g, 1, k] = empty_foreground
        losses[g] = loss


@_inline
def _sum_of_errors(place, count, dropped, mirrored):  # noqa: ANN001, ANN202
    """Sum of the errors of one bin that starts at ``place``, from their count and the sum of the bits it drops."""
    if mirrored and place >= HALF_RANGE:
        bits = np.int32(_TOP - place) + _FLOOR
        unit = _from_bits((bits & np.int32(0x7F800000))) * np.float64(2.0**-23)
        return count - (count * np.float64(_from_bits(bits)) - dropped * unit)
    bits = np.int32(place) + _FLOOR
    unit = _from_bits((bits & np.int32(0x7F800000))) * np.float64(2.0**-23)
    start = np.float64(_from_bits(bits)) if place > 0 else 0.0  # most errors below 2^-30 are 0
    return count * start + dropped * unit


@_compiled
def deal(hist, surplus, totals, stride, resolution, most, least, lut, bins):  # noqa: ANN001, ANN201
    """Deal out bins to the cells of each class from a sample; ``bins.py`` says to what end.

    hist: (C, 2, cells) packed counts of every ``stride``-th pixel; surplus: (C,) to take off the lowest background cell.
    totals: (C,) foreground pixels, of all pixels. lut: (C, cells) to fill; bins: (C,) numbers of bins.
    """
    classes, cells = lut.shape
    background = np.empty(cells, np.float64)
    wanted = np.empty(cells, np.float64)
    for c in range(classes):
        lowest, highest = cells, -1
        for cell in range(cells):
            background[cell] = np.float64(hist[c, 0, cell] >> SUM_BITS)
            if cell == 0:
                background[cell] -= surplus[c]
            if background[cell] > 0:
                lowest, highest = min(lowest, cell), cell
        n = max(totals[c], 1.0)
        above = n
        largest = 0.0
        for cell in range(cells - 1, -1, -1):
            b = background[cell]
            f = np.float64(hist[c, 1, cell] >> SUM_BITS)
            if stride == 1:
                # Nothing is unseen, and a pixel alone in its cell needs no cut.
                want = (b - 1.0) / above + f / n if b > 0 else (f - 1.0) / n
            else:
                unseen = 0.0
                if lowest <= cell <= highest:
                    unseen = 1.0
                elif highest < cell <= highest + TAIL_CELLS:
                    unseen = TAIL_DECAY ** (cell - highest)
                want = (b + unseen) * stride / above + f * stride / n
            wanted[cell] = math.log2(max(want * resolution, 1.0))
            largest = max(largest, wanted[cell])
            above += b * stride
        power = 1.0
        total = most + 1
        while total > most:
            total = 0
            for cell in range(cells):
                bits = np.int32(min(max(math.ceil(wanted[cell] * power), least), FINEST))
                lut[c, cell] = np.int32(total) << 5 | (CELL_BITS - bits)
                total += 1 << bits
            power = power * 0.93 if power * largest > least else 0.0
        bins[c] = total
