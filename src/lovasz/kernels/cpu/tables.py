"""The tables between the two passes on the CPU: how bins are dealt out, and what an error in each bin weighs."""

import math

import numpy as np

from lovasz.kernels.bins import CELL_BITS, FINEST, HALF_RANGE, SUM_BITS, TAIL_CELLS, TAIL_DECAY
from lovasz.kernels.cpu.arithmetic import LOWEST, SUM_MASK, TOP, compiled, from_bits, inlined


@compiled
def deal(hist, surplus, totals, stride, resolution, most, least, lut, bins):
    """Deal out bins to the cells of each class from a sample; ``bins.py`` says to what end.

    hist: (C, 2, cells) packed counts of every ``stride``-th pixel; surplus: (C,) to take off the lowest background
    cell; totals: (C,) foreground pixels, of all pixels. lut: (C, cells) to fill; bins: (C,) numbers of bins.
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


@inlined
def _slope_terms(x):
    """``log1p(x)`` and ``log1p(x) - x / (1 + x)``, the latter without cancellation for small x."""
    log = math.log1p(x)
    return log, (x * x * (0.5 - x * (2.0 / 3.0 - 0.75 * x)) if x < 1e-3 else log - x / (1.0 + x))


@inlined
def _sum_of_errors(place, count, dropped, mirrored):
    """Sum of the errors of one bin that starts at ``place``, from their count and the sum of the bits it drops."""
    if mirrored and place >= HALF_RANGE:
        bits = np.int32(TOP - place) + LOWEST
        unit = from_bits(bits & np.int32(0x7F800000)) * np.float64(2.0**-23)
        return count - (count * np.float64(from_bits(bits)) - dropped * unit)
    bits = np.int32(place) + LOWEST
    unit = from_bits(bits & np.int32(0x7F800000)) * np.float64(2.0**-23)
    start = np.float64(from_bits(bits)) if place > 0 else 0.0  # most errors below 2^-30 are 0
    return count * start + dropped * unit


@compiled
def weigh(mirrored, lut, hist, surplus, totals, shares, begin, end, weights, losses):
    """Weights of the bins of groups ``begin`` to ``end``, and the loss of each group, from packed counts.

    The foreground and background pixels of one bin each get the average of the Jaccard loss's slope over the straight
    path through the bin (Aumann-Shapley value); see DESIGN. With n foreground pixels, and k, j passed before the bin::

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
                        bs += packed_b & SUM_MASK
                        fc += packed_f >> SUM_BITS
                        fs += packed_f & SUM_MASK
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
                    # No pixel was counted here, but rounding may send one of a neighbouring bin here in the second
                    # pass.
                    if stale:
                        empty_foreground = np.float32(share / a if n > 0 else 0.0)
                        empty_background = np.float32(share * remaining / (a * (a + 1.0)) if n > 0 else 0.0)
                        stale = False
                    weights[g, 0, k] = empty_background
                    weights[g, 1, k] = empty_foreground
        losses[g] = loss
