"""The tables between the two passes on the CPU: how bins are dealt out, and what an error in each bin weighs."""

import math

import numpy as np

from lovasz.kernels.bins import (
    CELL_BITS,
    FINEST,
    FOREGROUND_STEPS,
    HALF_RANGE,
    RARE,
    SUM_BITS,
    TAIL_CELLS,
    TAIL_DECAY,
    UNION_STEPS,
)
from lovasz.kernels.cpu.arithmetic import LOWEST, SUM_MASK, TOP, bits_of, from_bits, inlined
from lovasz.loops import compiled

COARSE, FINE = UNION_STEPS
_LEAST_NORMAL = np.finfo(np.float32).tiny


@compiled
def deal(background, foreground, totals, step, finer, most, least, lut):
    """Deal out bins to the cells of each class from a sample; ``bins.py`` says to what end. Returns how many in all.

    background, foreground: (C, cells) counts of every ``step``-th pixel, times the step; totals: (C,) foreground
    pixels, of all pixels. lut: (C, cells) to fill, each class's bins after those of the class before.
    """
    classes, cells = lut.shape
    wanted = np.empty(cells, np.float64)
    start = 0
    for c in range(classes):
        lowest, highest = cells, -1
        for cell in range(cells):
            if background[c, cell] > 0:
                lowest, highest = min(lowest, cell), cell
        n = max(totals[c], 1.0)
        union_steps = min(max(FINE * RARE / n, COARSE), FINE)
        above = n
        largest = 0.0
        for cell in range(cells - 1, -1, -1):
            b = np.float64(background[c, cell])
            f = np.float64(foreground[c, cell])
            if step == 1:
                # Nothing is unseen, and a pixel alone in its cell needs no cut.
                unseen = -1.0
                missed = f if b > 0 else f - 1.0
            else:
                unseen = 0.0
                if lowest <= cell <= highest:
                    unseen = step
                elif highest < cell <= highest + TAIL_CELLS:
                    unseen = step * TAIL_DECAY ** (cell - highest)
                missed = f
            steps = max(b + unseen, 0.0) / above * union_steps + missed / n * FOREGROUND_STEPS
            wanted[cell] = math.log2(max(steps * finer, 1.0))
            largest = max(largest, wanted[cell])
            above += b
        power = 1.0
        total = most + 1
        while total > most:
            total = 0
            for cell in range(cells):
                bits = np.int32(min(max(math.ceil(wanted[cell] * power), least), FINEST))
                lut[c, cell] = np.int32(start + total) << 5 | (CELL_BITS - bits)
                total += 1 << bits
            power = power * 0.93 if power * largest > least else 0.0
        if start + total >= 1 << 26:  # an entry of the tables holds 26 bits of its bin
            return -1
        start += total
    return start


@compiled
def unpack(lut, hist, surplus, counts, sums):
    """Packed counts (R, 2, bins) taken apart and summed over R, without the ``surplus`` (C,): what processes exchange.

    sums: of where in their cells the errors lie.
    """
    copies, _, size = hist.shape
    for kind in range(2):
        for k in range(size):
            for r in range(copies):
                packed = hist[r, kind, k]
                counts[kind, k] += packed >> SUM_BITS
                sums[kind, k] += packed & SUM_MASK
    for c in range(lut.shape[0]):
        counts[0, lut[c, 0] >> 5] -= surplus[c]


@inlined
def bin_of(entries, place):
    """The bin of a place; entries: (cells,) of its class."""
    entry = entries[place >> CELL_BITS]
    return (entry >> 5) + ((place & ((1 << CELL_BITS) - 1)) >> (entry & 31))


@inlined
def slope_terms(x):
    """``log1p(x)`` and ``log1p(x) - x / (1 + x)``, both by their series for small x: quicker, and the latter without
    cancellation."""
    if x < 1e-3:
        log = x * (1.0 - x * (0.5 - x * (1.0 / 3.0 - x * (0.25 - x * 0.2))))
        return log, x * x * (0.5 - x * (2.0 / 3.0 - 0.75 * x))
    log = math.log1p(x)
    return log, log - x / (1.0 + x)


@inlined
def tied_weights(a, remaining, f, b):
    """Weights of equal errors, f of foreground and b of background, that share theirs: the means of ``bins.weights``.

    a: union before them; remaining: foreground not passed yet. Without any foreground the first ones share all.
    """
    if b == 0:
        return 1.0 / a, 0.0
    if f == 0:
        return 0.0, remaining / (a * (a + b)) if a > 0 else 1.0 / b
    log, rest = slope_terms(b / a)
    return log / b, remaining / (a * (a + b)) - f * rest / (b * b)


@inlined
def errors_of(place, mirrored):
    """The error at a place, and by how much it grows with each unit of the place."""
    if mirrored and place >= HALF_RANGE:
        bits = np.int32(TOP - place) + LOWEST
        return 1.0 - np.float64(from_bits(bits)), from_bits(bits & np.int32(0x7F800000)) * np.float64(2.0**-23)
    bits = np.int32(place) + LOWEST
    unit = from_bits(bits & np.int32(0x7F800000)) * np.float64(2.0**-23)
    return (np.float64(from_bits(bits)) if place > 0 else 0.0), unit  # most errors below 2^-30 are 0


@inlined
def _mean_weights(a, remaining, f, b):
    """Of a bin's foreground and background, and how far they fall over it; see ``bins.weights``. Not without truth."""
    if b == 0:
        return 1.0 / a, remaining / (a * (a + 1.0)), 0.0, _fall(a, remaining, f, b)
    log, rest = slope_terms(b / a)
    background = remaining / (a * (a + b)) - f * rest / (b * b)
    return log / b, background, b / (a * (a + b)), _fall(a, remaining, f, b)


@inlined
def _fall(a, remaining, f, b):
    return remaining / (a * (a + 1.0)) - (remaining - f) / ((a + b) * (a + b + 1.0))


@inlined
def _line(q, fall, count, total, width):
    """Of one kind of errors in a bin, which weigh ``q`` on average and ``fall`` less from end to end: the weight at the
    lower end, the rise for each unit of the bits that the bin drops, and what larger errors add to the loss by weighing
    more also inside the bin, in units. The weight falls below 0 nowhere.

    total: of the dropped bits of all ``count``; width: of the bin, in units.
    """
    if count == 0:
        return q, 0.0, 0.0
    middle = total / count
    rise = fall / width
    if rise * middle > q:
        rise = q / middle
    # The covariance of weight and error, for errors spread evenly, or nearer to one another where their mean is at an
    # end of the bin.
    variance = min(width * width / 12.0, middle * (width - middle))
    return q - rise * middle, rise, rise * (count - 1.0) * variance


@compiled
def weigh(mirrored, lut, hist, lows, surplus, totals, shares, ends, begin, end, weights, losses):
    """Lines of the bins of groups ``begin`` to ``end``, and the loss of each group, from counts; see ``bins.weights``.

    lut: (C, cells); hist: (R, 2, bins) packed, to be summed over R, or, with ``lows`` (2, bins), the sums from
    ``unpack``, (1, 2, bins) counts; surplus: (G,) to take off the lowest background bin; totals: (G,) foreground
    pixels; shares: (G,) share in the average; ends: (G,) the bin from which on ``heads`` adds up the loss. weights:
    (2, bins, 2), written for every bin of an active group, times its share: the weight at the lower end of the bin, and
    the rise for each unit of the bits that it drops; losses: (G,) not times the share.
    """
    copies = hist.shape[0]
    classes, cells = lut.shape
    size = hist.shape[2] // (len(shares) // classes)
    for g in range(begin, end):
        losses[g] = 0.0
        if shares[g] == 0:
            continue
        entries = lut[g % classes]
        offset = g // classes * size
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
                k = offset + base + sub
                fc = np.int64(0)
                bc = np.int64(0)
                fs = np.int64(0)
                bs = np.int64(0)
                if lows is None:
                    for r in range(copies):
                        packed_b = hist[r, 0, k]
                        packed_f = hist[r, 1, k]
                        if packed_b | packed_f:
                            bc += packed_b >> SUM_BITS
                            bs += packed_b & SUM_MASK
                            fc += packed_f >> SUM_BITS
                            fs += packed_f & SUM_MASK
                    if cell == 0 and sub == 0:
                        bc -= surplus[g]  # pixels counted there only to keep the loop free of branches
                else:
                    bc, fc = hist[0, 0, k], hist[0, 1, k]
                    bs, fs = lows[0, k], lows[1, k]
                if bc | fc:
                    b = np.float64(bc)
                    f = np.float64(fc)
                    q_f, q_b, fall_f, fall_b = 0.0, 1.0 / b if a == 0 else 0.0, 0.0, 0.0
                    if n > 0:
                        q_f, q_b, fall_f, fall_b = _mean_weights(a, remaining, f, b)
                    begins = np.int64(sub) << shift  # the bin in its cell, from where on its errors are added up
                    bs -= bc * begins
                    fs -= fc * begins
                    place = np.int64(cell) << CELL_BITS | begins
                    error, unit = errors_of(place, mirrored)
                    width = np.float64(np.int64(1) << shift)
                    for kind in range(2):
                        q, fall, count, total = (
                            (q_f, fall_f, f, np.float64(fs)) if kind else (q_b, fall_b, b, np.float64(bs))
                        )
                        start, rise, more = _line(q, fall, count, total, width)
                        weights[kind, k, 0] = start * share
                        weights[kind, k, 1] = rise * share
                        if k < ends[g]:
                            loss += q * (count * error + total * unit) + more * unit
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
                    weights[0, k, 0] = empty_background
                    weights[0, k, 1] = 0
                    weights[1, k, 0] = empty_foreground
                    weights[1, k, 1] = 0
        losses[g] = loss


@compiled
def lines(lut, weights, factor, begin, end, packed):
    """The lines of ``weigh`` times ``factor``, those of classes ``begin`` to ``end``, as the second pass looks them up.

    packed: (2, bins) int64, each of the memory of two float32, start and rise. The lowest five bits of the rise, whose
    worth is less than a hundred-thousandth of it, say how many bits of a place the bin drops: that spares the pass to
    keep the cell's entry. A rise of 0 drops none.
    """
    classes, cells = lut.shape
    last = lut[classes - 1, cells - 1]
    used = np.int64(last >> 5) + (1 << (CELL_BITS - (last & 31)))  # by each image
    numbers = packed.view(np.float32)
    for kind in range(2):
        for first in range(0, packed.shape[1], used):
            for c in range(begin, end):
                for cell in range(cells):
                    entry = lut[c, cell]
                    drop = entry & 31
                    lowest = first + np.int64(entry >> 5)
                    for k in range(lowest, lowest + (1 << (CELL_BITS - drop))):
                        rise = weights[kind, k, 1] * factor
                        if abs(rise) < _LEAST_NORMAL:
                            tagged = np.float32(0)
                        else:
                            tagged = from_bits(((bits_of(rise) + np.int32(16)) & np.int32(-32)) | drop)
                        numbers[kind, 2 * k] = weights[kind, k, 0] * factor
                        numbers[kind, 2 * k + 1] = tagged


@compiled
def weigh_rest(mirrored, entries, hist, surplus, n, share, places, owners, limit, weights):
    """Weigh anew what is left of the bin in which the errors that were weighed one by one end: the others lie behind.
    Returns its part of the loss, not times the share.

    entries: (cells,) of the class; hist: as in ``weigh``, packed; surplus, n, share: of the class; places, owners: of
    its errors weighed one by one, owners odd for foreground; limit: the place that they lie beyond.
    """
    k = bin_of(entries, limit)
    shift = entries[limit >> CELL_BITS] & 31
    low = limit >> shift << shift
    begins = low & ((1 << CELL_BITS) - 1)
    counts = np.zeros(2, np.int64)
    sums = np.zeros(2, np.int64)
    for kind in range(2):
        for r in range(hist.shape[0]):
            counts[kind] += hist[r, kind, k] >> SUM_BITS
            sums[kind] += hist[r, kind, k] & SUM_MASK
        sums[kind] -= counts[kind] * begins
    if low == 0:
        counts[0] -= surplus
    a = np.float64(n)
    remaining = np.float64(n)
    for i in range(len(owners)):
        kind = owners[i] & 1
        a += 1 - kind
        remaining -= kind
        if places[i] >> shift << shift == low:
            counts[kind] -= 1
            sums[kind] -= places[i] - low
    f, b = np.float64(max(counts[1], 0)), np.float64(max(counts[0], 0))
    loss = 0.0
    if f + b > 0:
        q_f, q_b, fall_f, fall_b = _mean_weights(a, remaining, f, b)
        error, unit = errors_of(low, mirrored)
        width = np.float64(limit - low + 1)
        for kind in range(2):
            q, fall, count = (q_f, fall_f, f) if kind else (q_b, fall_b, b)
            total = min(max(np.float64(sums[kind]), 0.0), count * width)
            start, rise, more = _line(q, fall, count, total, width)
            weights[kind, k, 0] = start * share
            weights[kind, k, 1] = rise * share
            loss += q * (count * error + total * unit) + more * unit
    return loss
