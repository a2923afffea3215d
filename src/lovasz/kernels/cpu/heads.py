"""The largest errors of each class, one by one: there the Jaccard loss is steepest, and bins alone too coarse.

The first pass keeps the errors beyond a threshold that rises as they come; they are then weighed in their exact order,
and the second pass takes these weights in place of those of the bins.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from lovasz.kernels.bins import CELL_BITS
from lovasz.kernels.cpu.tables import slope_terms
from lovasz.loops import compiled

MOST, LEAST, TOGETHER = 4096, 1024, 1 << 16  # errors of one class, and of all classes together
DENSEST = 16  # at most one pixel of so many is kept
LEAST_KEY = np.int64(-(2**31)) - 1
NOTHING = np.int32(2**31 - 1)  # the threshold of a class that keeps nothing


class Kept(NamedTuple):
    """What the threads keep of the errors that they count.

    thresholds: (R, C) int32, keys up to which nothing is kept; counts: (R, C) int64; keys: (R, C, room) int32;
    owners: (R, C, room) int64, twice the pixel or element, plus 1 for foreground, rising for each kind. A thread works
    on its part, without the first axis. Keys are integers in the order of the errors, such as their places.
    """

    thresholds: np.ndarray
    counts: np.ndarray
    keys: np.ndarray
    owners: np.ndarray

    def part(self, i: int) -> Kept:
        return Kept(self.thresholds[i], self.counts[i], self.keys[i], self.owners[i])


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
    """Memory for twice the wanted number of errors. thresholds: (C,) to begin with, None to keep nothing."""
    if thresholds is None:
        wanted, thresholds = 0, np.full(classes, NOTHING, np.int32)
    shape = parts, classes, 2 * wanted
    begin = np.repeat(thresholds[None], parts, 0)
    return Kept(begin, np.zeros(shape[:2], np.int64), np.empty(shape, np.int32), np.empty(shape, np.int64))


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


@compiled
def _middle(keys):
    """``np.sort(keys)[len(keys) // 2]`` by halving the range of values: numpy's partition takes long to compile."""
    low, high = -(2**31), 2**31 - 1
    while low < high:
        middle = (low + high) >> 1
        up_to = 0
        for key in keys:
            up_to += key <= middle
        if up_to > len(keys) // 2:
            high = middle
        else:
            low = middle + 1
    return np.int32(low)


@compiled
def _raise_threshold(kept, c):
    """Drop the lower half; returns how many are left. At least half of the errors met reach the new threshold."""
    keys, owners = kept.keys[c], kept.owners[c]
    middle = _middle(keys)
    n = 0
    for i in range(len(keys)):
        if keys[i] > middle:
            keys[n] = keys[i]
            owners[n] = owners[i]
            n += 1
    kept.thresholds[c] = middle
    return n


@compiled
def keep(kept, c, key, owner):
    """Keep an error if its key lies beyond the threshold of its class."""
    n = kept.counts[c]
    if n == kept.keys.shape[1]:
        n = _raise_threshold(kept, c)
    if key > kept.thresholds[c]:
        kept.keys[c, n] = key
        kept.owners[c, n] = owner
        n += 1
    kept.counts[c] = n


@compiled
def keep_row(kept, c, key, kind, count, first):
    """The same for ``count`` neighbours of class c from pixel or element ``first`` on.

    kind: None for background, or (count,) 1 for foreground and -1 for void.
    """
    threshold = kept.thresholds[c]
    for i in range(count):
        if key[i] > threshold:
            if kind is None:
                keep(kept, c, key[i], 2 * (first + i))
            elif kind[i] >= 0:
                keep(kept, c, key[i], 2 * (first + i) + kind[i])
            threshold = kept.thresholds[c]


@compiled
def _gather(kept, active, starts, keys, owners):
    """The errors that no thread has dropped, class by class; keys: with the index in the class, packed."""
    parts, classes = kept.counts.shape
    n = 0
    for c in range(classes):
        starts[c] = n
        if active[c]:
            threshold = kept.thresholds[:, c].max()
            for r in range(parts):
                for i in range(kept.counts[r, c]):
                    key = np.int64(kept.keys[r, c, i])
                    if key > threshold:
                        keys[n] = key << 32 | (n - starts[c])
                        owners[n] = kept.owners[r, c, i]
                        n += 1
    starts[classes] = n


@compiled
def _weigh(keys, owners, n, share, limit, weights):
    """Weights of one class's errors by ``keys`` in rising order, as far as they lie beyond ``limit``; equal ones share
    theirs.

    The formulas stand at ``bins.weights``: a bin here is a run of equal keys.
    """
    a = np.float64(n)
    remaining = np.float64(n)
    end = len(keys)
    while end > 0 and keys[end - 1] >> 32 > limit:
        begin = end
        f = 0.0
        while begin > 0 and keys[begin - 1] >> 32 == keys[end - 1] >> 32:
            begin -= 1
            f += owners[keys[begin] & 0xFFFFFFFF] & 1
        b = end - begin - f
        if b == 0:
            q_f = 1.0 / a
            q_b = 0.0
        else:
            log, rest = slope_terms(b / a)
            q_f = log / b
            q_b = remaining / (a * (a + b)) - f * rest / (b * b)
        for i in range(begin, end):
            at = keys[i] & 0xFFFFFFFF
            weights[at] = share * (q_f if owners[at] & 1 else q_b)
        a += b
        remaining -= f
        end = begin


@compiled
def _weigh_all(keys, owners, starts, totals, shares, wanted, weights):
    for c in range(len(shares)):
        s, e = starts[c], starts[c + 1]
        if totals[c] == 0:  # an absent class has one weight, that of its highest bin
            continue
        # Every thread still has what lies beyond the last one wanted, so the result does not depend on their number.
        limit = keys[e - wanted] >> 32 if e - s >= wanted else LEAST_KEY
        _weigh(keys[s:e], owners[s:e], totals[c], shares[c], limit, weights[s:e])


def weigh(kept: Kept, totals: np.ndarray, shares: np.ndarray, dtype: np.dtype) -> Head:
    """Exact weights, times the shares, of what all threads have kept; owners still tell the kind.

    totals, shares: (C,) foreground pixels and shares in the average.
    """
    most = int(kept.counts.sum())
    starts, keys, owners = np.zeros(len(shares) + 1, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    _gather(kept, shares != 0, starts, keys, owners)
    for s, e in itertools.pairwise(starts):
        keys[s:e].sort()
    found = Head(starts, owners[: starts[-1]], np.full(starts[-1], np.nan, dtype))
    _weigh_all(keys, found.owners, starts, totals, shares, kept.keys.shape[2] // 2, found.weights)
    return _some(found, ~np.isnan(found.weights))


def for_gradient(head: Head, factor: float, kind: int | None = None) -> Head:
    """The same times what comes in, with pixels or elements as owners; of background (0), foreground (1) or both."""
    chosen = head if kind is None else _some(head, head.owners & 1 == kind)
    return Head(chosen.starts, chosen.owners >> 1, chosen.weights * chosen.weights.dtype.type(factor))


def _some(head: Head, chosen: np.ndarray) -> Head:
    return Head(np.append(0, chosen.cumsum())[head.starts], head.owners[chosen], head.weights[chosen])


@compiled
def cursors(head, begin):
    """For each class, where in the lists the first error of pixel or element ``begin``, or a later one, stands."""
    result = np.empty(len(head.starts) - 1, np.int64)
    for c in range(len(result)):
        s, e = head.starts[c], head.starts[c + 1]
        result[c] = s + np.searchsorted(head.owners[s:e], begin)
    return result
