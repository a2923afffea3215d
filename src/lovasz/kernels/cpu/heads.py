"""The largest errors of each class, one by one: there the Jaccard loss is steepest, and bins alone too coarse.

The first pass keeps the errors beyond a threshold that rises as they come; they are then weighed in their exact order,
and the second pass takes these weights in place of those of the bins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from lovasz.kernels.bins import CELL_BITS
from lovasz.kernels.cpu.arithmetic import inlined
from lovasz.kernels.cpu.tables import bin_of, errors_of, tied_weights, weigh_rest
from lovasz.loops import compiled, in_threads

MOST, LEAST = 4096, 1024  # errors of one class
# Of all classes. With 150 of them, 1,024 of each left the gradient further off than the usual formula's in float32;
# 4,096 of each took 60 MB in forward alone on two threads, where 64 are the limit.
TOGETHER = 150 * 3840
DENSEST = 16  # at most one pixel of so many is kept
ROW = 1024  # neighbours that are looked at together
_ROWS = 384  # 4.5 MB that all parts write beyond what they keep: memory that is new in each call
NOTHING = np.int32(2**31 - 1)  # the threshold of a class that keeps nothing
_NO_BIN = 2**31 - 1


class Kept(NamedTuple):
    """What the threads keep of the errors that they count.

    thresholds: (R, C) int32, keys up to which nothing is kept; counts: (R, C) int64; keys: (R, C, room) int32;
    owners: (R, C, room) int64, twice the pixel or element, plus 1 for foreground, rising for each kind. A thread works
    on its part, without the first axis. Keys are integers in the order of the errors, such as their places. wanted: how
    many errors of each class are to be there in the end, if there are as many.
    """

    thresholds: np.ndarray
    counts: np.ndarray
    keys: np.ndarray
    owners: np.ndarray
    wanted: int

    def part(self, i: int) -> Kept:
        return Kept(self.thresholds[i], self.counts[i], self.keys[i], self.owners[i], self.wanted)


class Head(NamedTuple):
    """Exact weights for the second pass, of each class in the order of the pixels or elements that they belong to.

    starts: (C + 1,) int64, where the errors of each class begin; owners: int64; weights: of the type to compute in.
    """

    starts: np.ndarray
    owners: np.ndarray
    weights: np.ndarray


def size(classes: int, pixels: int) -> int:
    """How many errors of each class are weighed one by one."""
    return min(MOST, max(LEAST, TOGETHER // classes), pixels // DENSEST)


def room(parts: int, classes: int, wanted: int, thresholds: np.ndarray | None) -> Kept:
    """Memory for twice the wanted number of errors and a row. thresholds: (C,) to begin with, None to keep nothing."""
    if thresholds is None:
        wanted, thresholds = 0, np.full(classes, NOTHING, np.int32)
    shape = parts, classes, 2 * wanted + ROW if wanted else 0
    begin = np.repeat(thresholds[None], parts, 0)
    return Kept(begin, np.zeros(shape[:2], np.int64), np.empty(shape, np.int32), np.empty(shape, np.int64), wanted)


def most_parts(classes: int) -> int:
    """Into how many parts a pass that keeps errors may be cut, beyond one for each thread."""
    return _ROWS // classes


def thresholds(sample: np.ndarray, foreground: np.ndarray, wanted: int) -> np.ndarray | None:
    """Where to begin, from counts (C, cells) in a sample times its step, and foreground pixels (C,): cells with about
    twice the wanted number of errors above them need not be looked at. None where no class is small enough to be
    steep."""
    if not wanted:
        return None
    steep = foreground <= wanted  # the first errors of a larger class weigh nearly the same
    if not steep.any():
        return None
    above = sample[:, ::-1].cumsum(1)[:, ::-1]
    cells = (above >= 2 * wanted).sum(1) - 1  # the highest cell with so many in it and above
    return np.where(steep, np.maximum(cells, 0) << CELL_BITS, NOTHING).astype(np.int32)


@inlined
def _up_to(keys, most):
    """How many keys are at most that."""
    bound = np.int32(most)
    count = np.int32(0)
    for i in range(len(keys)):
        count += np.int32(keys[i] <= bound)
    return count


@compiled
def _middle(keys):
    """``np.sort(keys)[len(keys) // 2]`` by halving the range of values: numpy's partition takes long to compile."""
    low, high = np.int64(keys[0]), np.int64(keys[0])
    for key in keys:
        low, high = min(low, np.int64(key)), max(high, np.int64(key))
    while low < high:
        middle = (low + high) >> 1
        if _up_to(keys, middle) > len(keys) // 2:
            high = middle
        else:
            low = middle + 1
    return np.int32(low)


@compiled
def _raise_threshold(kept, c):
    """Drop what does not exceed the median of class c, the new threshold: half, or more where many equal it."""
    n = kept.counts[c]
    keys, owners = kept.keys[c, :n], kept.owners[c, :n]
    middle = _middle(keys)
    left = 0
    for i in range(n):
        if keys[i] > middle:
            keys[left] = keys[i]
            owners[left] = owners[i]
            left += 1
    kept.thresholds[c] = middle
    kept.counts[c] = left


@inlined
def keep(kept, c, key, owner):
    """Keep an error if its key lies beyond the threshold of its class."""
    if kept.counts[c] == kept.keys.shape[1]:
        _raise_threshold(kept, np.int64(c))  # one type, compiled once
    if key > kept.thresholds[c]:
        n = kept.counts[c]
        kept.keys[c, n] = key
        kept.owners[c, n] = owner
        kept.counts[c] = n + 1


@compiled
def keep_row(kept, c, key, kind, count, first):
    """The same for ``count`` neighbours of class c from pixel or element ``first`` on.

    kind: None for background, or (count,) 1 for foreground and -1 for void. Every error is written, and the next one
    over it if it is not to be kept: which ones are is hard to foresee for the processor.
    """
    keys, owners = kept.keys[c], kept.owners[c]
    for begin in range(0, count, ROW):
        end = min(begin + ROW, count)
        while kept.counts[c] + (end - begin) > len(keys):  # then there are more than twice the wanted ones
            _raise_threshold(kept, np.int64(c))
        n = kept.counts[c]
        threshold = kept.thresholds[c]
        for i in range(begin, end):
            keys[n] = key[i]
            if kind is None:
                owners[n] = 2 * (first + i)
                n += key[i] > threshold
            else:
                owners[n] = 2 * (first + i) + kind[i]
                n += (key[i] > threshold) & (kind[i] >= 0)
        kept.counts[c] = n


@compiled
def _limits(kept, totals, shares, begin, end, limits, counts):
    """Of classes ``begin`` to ``end``: the key that all errors to be weighed one by one exceed, and how many do.

    Every thread still has what lies beyond the last one wanted, so the result does not depend on their number.
    """
    parts = len(kept.keys)
    for c in range(begin, end):
        counts[c] = 0
        if shares[c] == 0 or totals[c] == 0:  # an absent class has one weight, that of its highest bin
            continue
        low, high = np.int64(kept.thresholds[0, c]), np.int64(kept.thresholds[0, c])
        for r in range(parts):
            low = max(low, np.int64(kept.thresholds[r, c]))
            for i in range(kept.counts[r, c]):
                high = max(high, np.int64(kept.keys[r, c, i]))
        # The lowest bound that fewer than the wanted ones exceed; that is all of them where there are no more.
        count = _beyond(kept, c, low)
        if count >= kept.wanted:
            high = max(low, high)
            while low < high:
                middle = (low + high) >> 1
                if _beyond(kept, c, middle) < kept.wanted:
                    high = middle
                else:
                    low = middle + 1
            count = _beyond(kept, c, low)
        limits[c] = low
        counts[c] = count


@inlined
def _beyond(kept, c, key):
    """How many kept errors of class c exceed a key."""
    count = np.int64(0)
    for r in range(kept.keys.shape[0]):
        n = kept.counts[r, c]
        count += n - _up_to(kept.keys[r, c, :n], key)
    return count


@compiled
def _gather(kept, c, limit, keys, owners):
    """The errors of class c beyond the limit; keys: with the index, packed."""
    n = 0
    for r in range(kept.keys.shape[0]):
        for i in range(kept.counts[r, c]):
            key = np.int64(kept.keys[r, c, i])
            if key > limit:
                keys[n] = key << 32 | n
                owners[n] = kept.owners[r, c, i]
                n += 1


@compiled
def _weigh(mirrored, keys, places, owners, n, share, weights):
    """Weights of one class's errors by ``keys`` in rising order; equal ones share theirs. Returns their part of the
    loss, not times the share. places: in the order of the owners, as the weights."""
    a = np.float64(n)
    remaining = np.float64(n)
    loss = 0.0
    end = len(keys)
    while end > 0:
        begin = end
        f = 0.0
        while begin > 0 and keys[begin - 1] >> 32 == keys[end - 1] >> 32:
            begin -= 1
            f += owners[keys[begin] & 0xFFFFFFFF] & 1
        b = end - begin - f
        q_f, q_b = tied_weights(a, remaining, f, b)
        for i in range(begin, end):
            at = keys[i] & 0xFFFFFFFF
            q = q_f if owners[at] & 1 else q_b
            weights[at] = share * q
            loss += q * errors_of(places[at], mirrored)[0]
        a += b
        remaining -= f
        end = begin
    return loss


class Limits(NamedTuple):
    """Where the errors that are weighed one by one end, of each class.

    keys: (C,) which they exceed; counts: (C,) how many do; bins: (G,) in which they end, beyond all for none.
    """

    keys: np.ndarray
    counts: np.ndarray
    bins: np.ndarray


def limits(
    kept: Kept, lut: np.ndarray, totals: np.ndarray, shares: np.ndarray, places_of: Callable[[np.ndarray], np.ndarray]
) -> Limits:
    """Where each class's end, once all threads have counted. lut, totals, shares: as in ``tables.weigh``; places_of:
    from keys to places."""
    classes = len(lut)
    found = Limits(np.zeros(classes, np.int64), np.zeros(classes, np.int64), np.full(len(totals), _NO_BIN))
    if kept.keys.size:
        parts = min(torch.get_num_threads(), classes)
        bounds = [classes * i // parts for i in range(parts + 1)]
        in_threads(lambda i: _limits(kept, totals, shares, bounds[i], bounds[i + 1], found.keys, found.counts), parts)
        places = places_of(found.keys)
        for c in np.flatnonzero(found.counts):
            found.bins[c] = bin_of.py_func(lut[c], places[c])
    return found


def weigh(
    mirrored: bool,
    kept: Kept,
    limits: Limits,
    lut: np.ndarray,
    hist: np.ndarray,
    surplus: np.ndarray,
    totals: np.ndarray,
    shares: np.ndarray,
    weights_of_bins: np.ndarray,
    losses: np.ndarray,
    places_of: Callable[[np.ndarray], np.ndarray],
    dtype: np.dtype,
) -> Head:
    """Exact weights, times the shares, of what all threads have kept; owners still tell the kind.

    mirrored, lut, hist, surplus, totals, shares, weights_of_bins, losses: as in ``tables.weigh``; weights are written
    anew where a part of a bin is weighed here, and losses receive what is left out there from ``limits.bins`` on.
    places_of: as in ``limits``.
    """
    classes, counts = len(lut), limits.counts
    starts = np.append(0, counts.cumsum())
    owners, weights = np.empty(starts[-1], np.int64), np.empty(starts[-1], dtype)
    parts = min(torch.get_num_threads(), classes)
    bounds = [classes * i // parts for i in range(parts + 1)]

    def run(part: int) -> None:
        for c in range(bounds[part], bounds[part + 1]):
            if counts[c] == 0:
                continue
            mine = slice(starts[c], starts[c + 1])
            keys = np.empty(counts[c], np.int64)
            _gather(kept, c, limits.keys[c], keys, owners[mine])
            places = places_of(np.append(keys >> 32, limits.keys[c]))  # before the sort: in the order of the owners
            keys.sort()
            losses[c] += _weigh(mirrored, keys, places, owners[mine], totals[c], shares[c], weights[mine])
            rest = lut[c], hist, surplus[c], totals[c], shares[c], places[:-1], owners[mine], places[-1]
            losses[c] += weigh_rest(mirrored, *rest, weights_of_bins)

    if starts[-1]:
        in_threads(run, parts)
    return Head(starts, owners, weights)


def for_gradient(head: Head, factor: float, kind: int | None = None) -> Head:
    """The same times what comes in, with pixels or elements as owners; of background (0), foreground (1) or both."""
    chosen = head if kind is None else _some(head, head.owners & 1 == kind)
    return Head(chosen.starts, chosen.owners >> 1, chosen.weights * chosen.weights.dtype.type(factor))


def _some(head: Head, chosen: np.ndarray) -> Head:
    return Head(np.append(0, chosen.cumsum())[head.starts], head.owners[chosen], head.weights[chosen])


@compiled
def cursors(starts, owners, begin):
    """For each class, where in the lists of a ``Head`` the first error of pixel or element ``begin``, or a later one,
    stands."""
    result = np.empty(len(starts) - 1, np.int64)
    for c in range(len(result)):
        low, high = starts[c], starts[c + 1]
        while low < high:  # numpy's search takes long to compile
            middle = (low + high) >> 1
            if owners[middle] < begin:
                low = middle + 1
            else:
                high = middle
        result[c] = low
    return result
