"""What happens between the two passes over the pixels, in two Triton kernels: deal out bins, weigh what was counted.

The same as bins.deal and bins.weights, which are some hundred torch operations, each shorter than its launch.
"""

# What Triton compiles is not quite Python: its loops, tuples and launches mean more.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportPossiblyUnboundVariable=false

import math

import triton
import triton.language as tl

from lovasz.kernels import bins
from lovasz.kernels.gpu.arithmetic import CELL_BITS, COUNT_BITS, COUNTED, FLOOR, MIRROR, TAIL

CELL, HALF_RANGE = tl.constexpr(1 << bins.CELL_BITS), tl.constexpr(bins.HALF_RANGE)  # in places; tensors come first:
# the interpreter wants it so
FINEST, TAIL_CELLS = tl.constexpr(bins.FINEST), tl.constexpr(bins.TAIL_CELLS)
LOG_DECAY = tl.constexpr(math.log2(bins.TAIL_DECAY))
COARSE, FINE = (tl.constexpr(float(steps)) for steps in bins.UNION_STEPS)
RARE, FOREGROUND_STEPS = tl.constexpr(bins.RARE * bins.UNION_STEPS[1]), tl.constexpr(float(bins.FOREGROUND_STEPS))
# Of a class's loss: errors below that share weigh alike, and are not counted one by one.
TAIL_SHARE = tl.constexpr(2.0**-13)
UNPACK = tl.constexpr(COUNT_BITS)
UNITS = tl.constexpr(1 << bins.FRACTION_BITS)  # of a bin's width
COUNT_MASK, FRACTION_MASK = tl.constexpr((1 << (64 - COUNT_BITS)) - 1), tl.constexpr((1 << COUNT_BITS) - 1)
WORD = 32  # classes in a number that says which are chosen
WORD_BITS = tl.constexpr(WORD)


@triton.jit
def _float_of(bits):
    bits = tl.minimum(tl.maximum(bits, FLOOR - 1), 0x7F7FFFFF).to(tl.int32)
    return bits.to(tl.float32, bitcast=True).to(tl.float64)


@triton.jit
def _error_at(place, MIRRORED: tl.constexpr):
    """The error (float64) at a place (int64) or between two; the last one is the end of them all."""
    error = _float_of(place + FLOOR)
    if MIRRORED:
        error = tl.where(place < HALF_RANGE, error, 1.0 - _float_of(-(place - MIRROR)))
    return error


@triton.jit
def _weights(b, f, union, remaining, n):
    """What bins.weights says of float64 counts; ``union`` and ``remaining`` are n + j and n - k there."""
    a = tl.maximum(union, 1.0)
    x = b / a
    little = x < 1e-3
    log = tl.where(little, x * (1.0 - x * (0.5 - x * (1.0 / 3.0 - x * (0.25 - 0.2 * x)))), tl.log(x + 1.0))
    rest = tl.where(little, x * x * (0.5 - x * (2.0 / 3.0 - 0.75 * x)), log - x / (x + 1.0))
    some = tl.maximum(b, 1.0)
    background = remaining / (a * (a + some)) - tl.where(b > 0, f * rest / (some * some), 0.0)
    background = tl.where(n == 0, tl.where((union == 0) & (b > 0), 1.0 / some, 0.0), background)
    foreground = tl.where(n == 0, 0.0, tl.where(b > 0, log / some, 1.0 / a))
    return background, foreground


@triton.jit
def _falls(b, f, union, remaining, n):
    """How much more the upper end of a bin weighs than the lower, as in bins.weights."""
    a = tl.maximum(union, 1.0)
    end = a + b
    background = remaining / (a * (a + 1.0)) - (remaining - f) / (end * (end + 1.0))
    return tl.where(n == 0, 0.0, background), tl.where(n == 0, 0.0, b / (a * end))


@triton.jit
def _counted_weight(class_, foreground, known, weight, chosen,
    ONLY_PRESENT: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_CHOSEN: tl.constexpr,
):  # fmt: skip
    """Weight of each class in the mean, float64; 0 where it does not count."""
    if HAS_CHOSEN:
        word = tl.load(chosen + class_ // WORD_BITS, mask=known, other=0)
        known = known & ((word >> (class_ % WORD_BITS)) & 1 == 1)
    if ONLY_PRESENT:
        known = known & (foreground > 0)
    result = known.to(tl.float64)
    if HAS_WEIGHT:
        result = tl.where(known, tl.load(weight + class_, mask=known, other=0.0).to(tl.float64), 0.0)
    return result


@triton.jit(do_not_specialize=COUNTED)
def deal_bins(
    sample, totals, weight, chosen, spacing, entries, tail_error, rows, row_stride, parts, step, size, finer,
    LABELLED: tl.constexpr, ONLY_PRESENT: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_CHOSEN: tl.constexpr,
    SHARED: tl.constexpr, WHOLE: tl.constexpr, MIRRORED: tl.constexpr, TAILED: tl.constexpr, CLASSES: tl.constexpr,
    CELLS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """Cut off the tail of one class, and deal its bins as bins.deal does: ``entries`` (C, CELLS), ``TAIL`` in the tail.

    The weights of a class add up to at most 1, so all errors below a number e change the loss by at most e. Where the
    gradient fades with the error (``TAILED``: softmax, sigmoid) the tail reaches up to a small part of ``sum m (1 - m)
    g`` of the sample, which is no more than the loss; else it is the lowest cell: the errors that are as good as 0.

    sample: packed (parts, C, 2, CELLS) counts of every ``step``-th pixel (``WHOLE``: of all), or, ``SHARED`` by several
    processes, plain ones that are already times ``spacing``. totals: ``LABELLED`` (rows, ...) pixels of each class.
    tail_error: (C,) receives the mean error in the tail. finer: by what to multiply the steps.
    """
    class_ = tl.program_id(0)
    cell = tl.arange(0, SLOTS)
    there = cell < CELLS
    at = sample + class_ * 2 * CELLS + cell
    if SHARED:
        background, seen = tl.load(at, mask=there, other=0), tl.load(at + CELLS, mask=there, other=0)
        every = tl.load(spacing).to(tl.float64)
    else:
        background, seen = tl.zeros([SLOTS], tl.int64), tl.zeros([SLOTS], tl.int64)
        for _ in range(parts):
            background += (tl.load(at, mask=there, other=0) >> UNPACK) & COUNT_MASK
            seen += (tl.load(at + CELLS, mask=there, other=0) >> UNPACK) & COUNT_MASK
            at += CLASSES * 2 * CELLS
        background, seen = background * step, seen * step
        every = tl.cast(step, tl.float64)
    number = tl.sum(seen, 0)
    active = number >= 0
    if LABELLED:
        found = tl.zeros([64], tl.int64)
        for first in range(0, rows, 64):
            row = first + tl.arange(0, 64)
            found += tl.load(totals + row.to(tl.int64) * row_stride + class_, mask=row < rows, other=0)
        number = tl.sum(found, 0)
        active = _counted_weight(class_, number, active, weight, chosen, ONLY_PRESENT, HAS_WEIGHT, HAS_CHOSEN) > 0
    b, f = background.to(tl.float64), seen.to(tl.float64)
    above = (tl.cumsum(background, 0, reverse=True) - background).to(tl.float64)
    place = cell.to(tl.int64) << CELL_BITS
    upper = _error_at(place + CELL, MIRRORED)
    middle = (_error_at(place, MIRRORED) + upper) / 2.0

    tail = tl.sum(tl.where(cell == 0, 1, 0), 0)
    if TAILED:
        total = tl.sum(seen, 0)
        # A class that the sample missed may be all right: its foreground as the lowest errors there are.
        scaled = f * number.to(tl.float64) / tl.maximum(total, 1).to(tl.float64)
        scaled += tl.where((cell == 0) & (total == 0), number, 0).to(tl.float64)
        n = tl.sum(scaled, 0)
        remaining = n - tl.cumsum(scaled, 0, reverse=True) + scaled
        mean_b, mean_f = _weights(b, scaled, n + above, remaining, n)
        faded = middle * (1.0 - middle) if MIRRORED else middle / tl.maximum(middle, 1.0)
        loss = tl.sum(tl.where(there, faded * (mean_b * b + mean_f * scaled), 0.0), 0)
        tail = tl.maximum(tl.sum((there & (upper < loss * TAIL_SHARE)).to(tl.int32), 0), 1)
    below = cell < tail
    both = tl.where(below, b + f, 0.0)
    inside = tl.sum(both, 0)
    lowest = _error_at(tail.to(tl.int64) << CELL_BITS, MIRRORED) / 2.0
    mean = tl.sum(tl.where(there, both * middle, 0.0), 0) / tl.maximum(inside, 1.0)
    tl.store(tail_error + class_, tl.where(inside > 0, mean, lowest))

    # From here on as in bins.deal.
    background, seen = tl.where(below, 0, background), tl.where(below, 0, seen)
    b, f = background.to(tl.float64), seen.to(tl.float64)
    n = tl.maximum(number, 1).to(tl.float64)
    above = n + (tl.cumsum(background, 0, reverse=True) - background).to(tl.float64)
    some = background > 0
    if WHOLE:
        unseen = tl.zeros([SLOTS], tl.float64) - 1.0
        missed = tl.where(some, f, f - 1.0) / n
    else:
        highest = tl.max(tl.where(some, cell, 0), 0)
        lowest_cell = tl.min(tl.where(some, cell, CELLS), 0)
        distance = tl.maximum(cell - highest, 0)
        reach = tl.where((cell >= lowest_cell) & (distance <= TAIL_CELLS), 1.0, 0.0)
        decay = tl.exp2(distance.to(tl.float64) * LOG_DECAY)
        unseen = every * (reach.to(tl.float64) * decay)
        missed = f / n
    union = tl.maximum(b + unseen, 0.0) / above
    union_steps = tl.minimum(tl.maximum(1.0 / n * RARE, COARSE), FINE)
    wish = (union * union_steps + missed * FOREGROUND_STEPS) * finer
    wish = tl.log2(tl.maximum(wish, 1.0))
    counted = there & (cell >= tl.where(active, tail, CELLS))
    low = n * 0.0  # powers between which the largest that fits is sought
    high = low + 1.0
    power = high
    for _ in range(8):
        bits = tl.minimum(tl.ceil(wish * power), FINEST).to(tl.int32)
        fits = tl.sum(tl.where(counted, 1 << bits, 0), 0) < size
        low, high = tl.where(fits, power, low), tl.where(fits, high, power)
        power = tl.where(low == 1.0, low, (low + high) / 2.0)
    bits = tl.minimum(tl.ceil(wish * low), FINEST).to(tl.int32)
    width = tl.where(counted, 1 << bits, 0)
    entry = (tl.cumsum(width, 0) - width + 1) << 5 | -(bits - CELL_BITS)  # bin 0 is the tail's
    tl.store(entries + class_ * CELLS + cell, tl.where(counted, entry, TAIL), mask=there)


@triton.jit
def _read(hist, row, bin_, part_size, parts, size, SHARED: tl.constexpr):
    """Counts and sums of fractions of some bins: packed parts, or one after the other where processes share them."""
    known = bin_ < size
    at = hist + row.to(tl.int64) * size + bin_
    if SHARED:
        count, fraction = tl.load(at, mask=known, other=0), tl.load(at + part_size, mask=known, other=0)
    else:
        count, fraction = tl.zeros_like(bin_).to(tl.int64), tl.zeros_like(bin_).to(tl.int64)
        for _ in range(parts):
            both = tl.load(at, mask=known, other=0)
            count += (both >> UNPACK) & COUNT_MASK
            fraction += both & FRACTION_MASK
            at += part_size
    return count, fraction


@triton.jit
def _line_and_loss(count, fraction, mean, fall, low, high):
    """The weights inside bins as lines, as in bins.lines, and what the bins add to the loss."""
    number, sums = count.to(tl.float64), fraction.to(tl.float64)
    middle = (sums + 0.5 * number) / (tl.maximum(number, 1.0) * UNITS)
    rise = tl.minimum(fall, mean / tl.maximum(middle, 1.0 / UNITS))
    rise = tl.where(count > 0, rise, 0.0)
    position = (sums + 0.5 * number) / UNITS  # sum over the bin's errors, in units of its width
    # Inside a bin larger errors weigh more: errors spread evenly have a variance of 1/12, those near an end less.
    spread = rise * tl.maximum(number - 1.0, 0.0) * tl.minimum(1.0 / 12.0, middle * (1.0 - middle))
    loss = mean * (number * low + position * (high - low)) + spread * (high - low)
    return mean - rise * middle, rise / UNITS, tl.where(count > 0, loss, 0.0)


@triton.jit
def _packed(offset, rise, scale):
    offset = (offset * scale).to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64)
    rise = (rise * scale).to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64)
    return (rise << 32) | (offset & 0xFFFFFFFF)


@triton.jit(do_not_specialize=COUNTED)
def weigh_bins(
    hist, present, status, entries, tail_error, weight, chosen, losses, table, rows, row_stride, parts, part_size, size,
    processes,
    LABELLED: tl.constexpr, ONLY_PRESENT: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_CHOSEN: tl.constexpr,
    SHARED: tl.constexpr, MIRRORED: tl.constexpr, STATUS_OF_CLASS: tl.constexpr, CLASSES: tl.constexpr,
    CLASS_SLOTS: tl.constexpr, CELLS: tl.constexpr, STEPS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The weights in some bins of one group, times its share of the mean; and what they add to the loss.

    present: ``LABELLED`` (rows, ...) pixels of each class; else (G, 2): foreground << 32 | background and anything, or,
    ``SHARED``, valid and foreground. losses: (G, chunks), NaN where a counted error is not finite. table: (G, 2, size)
    as arithmetic.slope wants it.
    """
    group, chunk, chunks = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    row, class_ = group // CLASSES, group % CLASSES
    each = tl.arange(0, CLASS_SLOTS)
    known = each < CLASSES
    if LABELLED:
        foreground = tl.load(present + row.to(tl.int64) * row_stride + each, mask=known, other=0)
        valid = tl.sum(foreground, 0)
    else:
        at = (row * CLASSES + each) * 2
        valid = tl.load(present + group * 2)
        if SHARED:
            foreground = tl.load(present + at + 1, mask=known, other=0)
        else:
            foreground = (tl.load(present + at, mask=known, other=0) >> 32) & 0xFFFFFFFF
            valid = (valid & 0xFFFFFFFF) + ((valid >> 32) & 0xFFFFFFFF)
    share = _counted_weight(each, foreground, known, weight, chosen, ONLY_PRESENT, HAS_WEIGHT, HAS_CHOSEN)
    total = tl.sum(share, 0)
    share = tl.sum(tl.where(each == class_, share, 0.0), 0) / tl.where(total > 0, total, 1.0) / rows
    present_f = tl.sum(tl.where(each == class_, foreground, 0), 0)
    n = present_f.to(tl.float64)

    # How many errors lie higher than these bins.
    bin_ = chunk * CHUNK + tl.arange(0, CHUNK)
    higher_b, higher_f = tl.zeros([CHUNK], tl.int64), tl.zeros([CHUNK], tl.int64)
    for other in range(chunk + 1, chunks):
        higher = other * CHUNK + tl.arange(0, CHUNK)
        count, _ = _read(hist, group * 2, higher, part_size, parts, size, SHARED)
        higher_b += count
        count, _ = _read(hist, group * 2 + 1, higher, part_size, parts, size, SHARED)
        higher_f += count
    above_b, above_f = tl.sum(higher_b, 0), tl.sum(higher_f, 0)
    count_b, sums_b = _read(hist, group * 2, bin_, part_size, parts, size, SHARED)
    count_f, sums_f = _read(hist, group * 2 + 1, bin_, part_size, parts, size, SHARED)
    b, f = count_b.to(tl.float64), count_f.to(tl.float64)
    union = n + (above_b + tl.cumsum(count_b, 0, reverse=True) - count_b).to(tl.float64)
    remaining = n - (above_f + tl.cumsum(count_f, 0, reverse=True) - count_f).to(tl.float64)
    mean_b, mean_f = _weights(b, f, union, remaining, n)
    fall_b, fall_f = _falls(b, f, union, remaining, n)

    # Where each bin begins and ends: its cell is the last one whose first bin is not beyond it.
    cell = tl.zeros([CHUNK], tl.int32)
    for i in tl.static_range(STEPS):
        probe = cell + (1 << (STEPS - 1 - i))
        first = tl.load(entries + class_ * CELLS + probe, mask=probe < CELLS, other=0x7FFFFFFF) >> 5
        cell = tl.where((probe < CELLS) & (first <= bin_), probe, cell)
    entry = tl.load(entries + class_ * CELLS + cell)
    begin = (cell.to(tl.int64) << CELL_BITS) + ((bin_ - (entry >> 5)).to(tl.int64) << (entry & 31).to(tl.int64))
    width = tl.zeros([CHUNK], tl.int64) + 1
    end = begin + (width << (entry & 31).to(tl.int64))
    low, high = _error_at(begin, MIRRORED), _error_at(tl.minimum(end, CELLS * CELL), MIRRORED)
    offset_b, rise_b, loss_b = _line_and_loss(count_b, sums_b, mean_b, fall_b, low, high)
    offset_f, rise_f, loss_f = _line_and_loss(count_f, sums_f, mean_f, fall_f, low, high)
    loss = tl.sum(loss_b + loss_f, 0)

    # The tail, all that was not counted, lies below all bins: it is the lowest bins' affair.
    above_b += tl.sum(count_b, 0)
    above_f += tl.sum(count_f, 0)
    rest_b, rest_f = (valid - present_f - above_b).to(tl.float64), (present_f - above_f).to(tl.float64)
    flat_b, flat_f = _weights(rest_b, rest_f, n + above_b.to(tl.float64), n - above_f.to(tl.float64), n)
    lowest = chunk == 0
    loss += tl.where(lowest, (flat_b * rest_b + flat_f * rest_f) * tl.load(tail_error + class_), 0.0)
    its = bin_ == 0
    offset_b, offset_f = tl.where(its, flat_b, offset_b), tl.where(its, flat_f, offset_f)
    rise_b, rise_f = tl.where(its, 0.0, rise_b), tl.where(its, 0.0, rise_f)

    counts = share > 0
    loss = tl.where(counts, loss * share, 0.0)
    strange = tl.load(status + (class_ if STATUS_OF_CLASS else 0)) > 0
    # Classes of a softmax share a NaN; of others, one left out must not spoil the sum.
    spoilt = (counts & strange) if STATUS_OF_CLASS else strange
    tl.store(losses + group * chunks + chunk, tl.where(spoilt, float("nan"), loss))
    scale = share * processes
    out = table + (group * 2).to(tl.int64) * size + bin_
    tl.store(out, _packed(offset_b, rise_b, scale), mask=bin_ < size)
    tl.store(out + size, _packed(offset_f, rise_f, scale), mask=bin_ < size)
