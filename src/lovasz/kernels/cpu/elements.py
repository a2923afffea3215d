"""Scores that do not depend on one another (sigmoid, hinge, probabilities) on the CPU: count, write the gradient."""

from collections.abc import Callable

import numpy as np

from lovasz.kernels.bins import CELL_BITS, UNBOUNDED_CELLS
from lovasz.kernels.cpu.arithmetic import (
    LOWEST,
    TOP,
    above_floor,
    bits_of,
    cell_of,
    exp,
    from_bits,
    inlined,
    load,
    mirrored_place,
    store,
)
from lovasz.kernels.cpu.head_weights import cursors
from lovasz.kernels.cpu.heads import NOTHING, keep_row
from lovasz.kernels.cpu.vectors import count_one, weigh, zeros
from lovasz.loops import compiled

MODE_SIGMOID, MODE_PROBABILITY, MODE_HINGE, MODE_ELU = range(4)
WIDTH = 2048  # elements that a thread treats at a time, to stay in its cache
_LAST = np.int32((UNBOUNDED_CELLS << CELL_BITS) - 1)
_ALL = np.int32(-(2**31))  # the threshold of a class that keeps all: no score's key
_MIRROR = np.int32(TOP + 1)
_LARGEST = float(np.finfo(np.float32).max)
_VOID = np.int32(-1)

# The loops over one stretch stand apart, one for each kind of errors and without branches, so that they vectorise. They
# leave the error's place and the derivative of the error by the score; what they leave at void elements is not read.


@inlined
def _unbounded_place(error):
    return min(above_floor(error), _LAST)


@compiled
def _sigmoid(z, kind, count, place, slope):
    one = slope.dtype.type(1)
    for i in range(count):
        e = exp(-abs(z[i]))
        inverse = one / (one + e)
        small = e * inverse
        near = above_floor(small)
        # All ones where the score lies on the wrong side: then 1 - small is the error.
        wrong = np.int32(np.int32(bits_of(np.float32(z[i])) >> np.int32(31)) ^ np.int32(kind[i] - np.int32(1)))
        spot = np.int32(np.int32(near ^ wrong) + np.int32(wrong & _MIRROR))
        place[i] = min(max(spot, np.int32(0)), TOP)
        slope[i] = small * inverse * np.float32(np.int32(np.int32(1) - np.int32(np.int32(2) * kind[i])))


@compiled
def _probability(z, kind, count, place, slope):
    one = slope.dtype.type(1)
    for i in range(count):
        foreground = kind[i] == 1
        rest = one - z[i]
        place[i] = mirrored_place(rest if foreground else z[i], z[i] if foreground else rest)
        slope[i] = -one if foreground else one


@compiled
def _hinge(z, kind, count, place, slope):
    one, zero = slope.dtype.type(1), slope.dtype.type(0)
    for i in range(count):
        foreground = kind[i] == 1
        raw = one - (z[i] if foreground else -z[i])
        place[i] = _unbounded_place(max(raw, zero))
        sign = -one if foreground else one
        slope[i] = sign if raw > zero else zero


@compiled
def _elu(z, kind, count, place, slope):
    one, zero = slope.dtype.type(1), slope.dtype.type(0)
    for i in range(count):
        foreground = kind[i] == 1
        raw = one - (z[i] if foreground else -z[i])
        low = exp(min(raw, zero))
        place[i] = _unbounded_place(low if raw < zero else raw + one)
        slope[i] = -low if foreground else low


@compiled
def order_keys(mode, z, kind, count, place, key):
    """Integers in the order of the errors: of the scores where these tell errors apart that share a float32."""
    if mode == MODE_PROBABILITY:
        for i in range(count):
            key[i] = place[i]
    else:
        for i in range(count):
            bits = bits_of(np.float32(-z[i] if kind[i] == 1 else z[i]) + np.float32(0))  # -0 becomes 0
            key[i] = bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


def keys_of(mode: int, places: np.ndarray) -> np.ndarray:
    """Thresholds given as places, as keys of ``order_keys``, up to rounding; 0 keeps all, the largest int nothing."""
    if mode == MODE_PROBABILITY:
        return places
    inner = places.clip(1, (TOP if mode == MODE_SIGMOID else _LAST) - 1)
    error = (inner + LOWEST).view(np.float32).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # what np.where does not take
        if mode == MODE_SIGMOID:
            rest = (TOP - inner + LOWEST).view(np.float32).astype(np.float64)
            score = np.where(error < 0.5, np.log(error / (1 - error)), np.log((1 - rest) / rest))
        elif mode == MODE_HINGE:
            score = error - 1
        else:
            score = np.where(error < 1, np.log(error) - 1, error - 2)
    bits = score.astype(np.float32).view(np.int32)
    keys = bits ^ (bits >> 31 & 0x7FFFFFFF)
    return np.where(places == 0, _ALL, np.where(places == NOTHING, NOTHING, keys)).astype(np.int32)


def places_of(mode: int, work: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """From errors' keys to their places: the keys are those of ``order_keys``, or in mode -1 of ``softmax.py``. The
    bound that keeps all, see ``keys_of``, is in the lowest place."""
    if mode in (-1, MODE_PROBABILITY):  # keys are places
        return lambda keys: keys
    return lambda keys: _places_of(mode, work, keys.astype(np.int32))


@compiled
def _places_of(mode, work, keys):
    count = len(keys)
    z, slope = np.empty(count, work.dtype), np.empty(count, work.dtype)
    place, kind = np.empty(count, np.int32), zeros(count)
    for i in range(count):
        z[i] = from_bits(keys[i] ^ ((keys[i] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
    treat(mode, z, kind, count, place, slope)
    for i in range(count):
        if keys[i] == _ALL:  # as bits of a float it would be NaN
            place[i] = 0
    return place


@inlined
def treat(mode, z, kind, count, place, slope):
    """Place and slope of ``count`` scores z, of the kind of errors that ``mode`` names."""
    if mode == MODE_SIGMOID:
        _sigmoid(z, kind, count, place, slope)
    elif mode == MODE_PROBABILITY:
        _probability(z, kind, count, place, slope)
    elif mode == MODE_HINGE:
        _hinge(z, kind, count, place, slope)
    else:
        _elu(z, kind, count, place, slope)


@compiled
def unfit_score(mode, z, kind, count):
    """Whether a valid error is NaN, or beyond what float32 holds: infinite, as far as the bins can tell."""
    largest = np.int32(0)
    for i in range(count):
        largest = max(largest, bits_of(np.float32(z[i])) & np.int32(0x7FFFFFFF))
    if largest < np.int32(0x7F800000):
        return False
    for i in range(count):
        if kind[i] != _VOID:
            sign = 1 if kind[i] == 1 else -1
            if z[i] != z[i] or (mode in (MODE_HINGE, MODE_ELU) and sign * z[i] < -_LARGEST):
                return True
    return False


@inlined
def read(scores, image, c, first, count, z, kind):
    """One stretch of scores into z and its targets into kind; returns foreground pixels and a label not allowed."""
    stride, target_stride = scores.strides[2], scores.target_strides[2]
    at = image * scores.strides[0] + c * scores.strides[1] + first * stride
    if stride == 1:
        row = scores.x[at : at + count]
        for i in range(count):
            z[i] = load(row, i)
    else:
        row = scores.x[at:]
        for i in range(count):
            z[i] = load(row, i * stride)
    at = image * scores.target_strides[0] + c * scores.target_strides[1] + first * target_stride
    limit = scores.shape[1] if scores.labelled else 2
    own = np.int64(c) if scores.labelled else np.int64(1)
    found, wrong, label = 0, 0, np.int64(0)
    if target_stride == 1:
        labels = scores.target[at : at + count]
        for i in range(count):
            t = np.int64(labels[i])
            void = scores.has_void & (t == scores.void)
            foreground = (t == own) & ~void
            kind[i] = _VOID if void else np.int32(foreground)
            found += np.int64(foreground)
            wrong |= np.int64(((t < 0) | (t >= limit)) & ~void)
    else:
        labels = scores.target[at:]
        for i in range(count):
            t = np.int64(labels[i * target_stride])
            void = scores.has_void & (t == scores.void)
            foreground = (t == own) & ~void
            kind[i] = _VOID if void else np.int32(foreground)
            found += np.int64(foreground)
            wrong |= np.int64(((t < 0) | (t >= limit)) & ~void)
    if wrong:
        labels = scores.target[at:]
        for i in range(count):
            t = np.int64(labels[i * target_stride])
            if (t < 0 or t >= limit) and kind[i] != _VOID:
                label = t
    return found, wrong, label


@compiled
def count_elements(mode, scores, begin, end, lut, active, hist, kept, totals, unfit, status):
    """First pass: the bins of the errors of elements ``begin`` to ``end``, in the order (image, class, pixel).

    Foreground is counted into ``totals`` (G,); the rest as in ``count_softmax``, but void pixels are left out.
    kept: the largest errors of each class, see ``heads.Kept``; unfit: (G,) whether a NaN or infinite error was met.
    status: [label beyond those allowed met, that label]; masks of groups to leave out are looked at too.
    """
    _, classes, pixels = scores.shape
    z = np.empty(WIDTH, scores.work.dtype)
    slope = np.empty(WIDTH, scores.work.dtype)
    place = zeros(WIDTH)
    kind = np.empty(WIDTH, np.int32)
    key = np.empty(WIDTH, np.int32)
    size = hist.shape[1] // (scores.shape[0] if scores.per_image else 1)
    flat = hist.reshape(hist.size)
    of_background = np.uint64(hist.shape[1])
    position = begin
    while position < end:
        row = position // pixels
        first = position - row * pixels
        image = row // classes
        c = row - image * classes
        start = position
        count = min(WIDTH, end - position, pixels - first)
        group = row if scores.per_image else c
        position += count
        if not active[group] and scores.labelled:  # labels have been counted before
            continue
        members, wrong, label = read(scores, image, c, first, count, z, kind)
        if wrong:
            status[0] = 1
            status[1] = label
        if not active[group]:
            continue
        treat(mode, z, kind, count, place, slope)
        if unfit_score(mode, z, kind, count):
            unfit[group] = True
        totals[group] += members
        if kept.thresholds[c] != NOTHING:
            order_keys(mode, z, kind, count, place, key)
            largest = key[0]
            for i in range(count):
                largest = max(largest, key[i])
            if largest > kept.thresholds[c]:
                keep_row(kept, c, key, kind, count, start)
        offset = np.uint64(image * size if scores.per_image else 0)
        entries = lut[c]
        for i in range(count):
            if kind[i] >= 0:
                count_one(place[i], cell_of(place[i]), entries, flat, np.uint64(kind[i]) * of_background + offset)


@compiled
def gradient_elements(mode, scores, begin, end, lut, lines, active, head, out, out_strides):
    """Second pass: weight, sign and slope of each error into ``out``; see ``gradient_softmax``. head: of both kinds."""
    _, classes, pixels = scores.shape
    z = np.empty(WIDTH, scores.work.dtype)
    slope = np.empty(WIDTH, scores.work.dtype)
    place = zeros(WIDTH)
    first_bin = zeros(WIDTH)
    value = np.empty(WIDTH, scores.work.dtype)
    line = np.empty(WIDTH, np.int64)
    of_both = lines.reshape(lines.size)
    foreground = np.int32(lines.shape[1])
    kind = np.empty(WIDTH, np.int32)
    size = lines.shape[1] // (scores.shape[0] if scores.per_image else 1)
    stride = out_strides[2]
    following = cursors(head.starts, head.owners, begin)
    position = begin
    while position < end:
        row = position // pixels
        first = position - row * pixels
        image = row // classes
        c = row - image * classes
        count = min(WIDTH, end - position, pixels - first)
        at = image * out_strides[0] + c * out_strides[1] + first * stride
        written = out[at:]
        if active[row if scores.per_image else c]:
            read(scores, image, c, first, count, z, kind)
            treat(mode, z, kind, count, place, slope)
            offset = np.int32(image * size if scores.per_image else 0)
            for i in range(count):
                first_bin[i] = np.int32(offset + (foreground if kind[i] == 1 else np.int32(0)))
            weigh(place, None, first_bin, lut[c], of_both, line, count, value, None, None)
            for i in range(count):
                z[i] = slope[i] * value[i] if kind[i] >= 0 else 0
            k = following[c]
            while k < head.starts[c + 1] and head.owners[k] < position + count:
                i = head.owners[k] - position
                z[i] = slope[i] * head.weights[k]
                k += 1
            following[c] = k
        else:
            for i in range(count):
                z[i] = 0
        if stride == 1:
            for i in range(count):
                store(written, i, z[i])
        else:
            for i in range(count):
                store(written, i * stride, z[i])
        position += count
