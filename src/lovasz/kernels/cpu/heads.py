"""The largest errors of each class, where the Jaccard loss is steepest and bins alone are too coarse: which are kept.

The first pass keeps the errors beyond a threshold that rises as they come. What they weigh is in ``head_weights.py``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lovasz.kernels.bins import CELL_BITS
from lovasz.kernels.cpu.arithmetic import inlined
from lovasz.kernels.cpu.vectors import LANES, any_exceeds
from lovasz.loops import compiled

MOST, LEAST = 4096, 1024  # errors of one class
# Of all classes. With 150 of them, 1,024 of each left the gradient further off than the usual formula's in float32;
# 4,096 of each took 60 MB in forward alone on two threads, where 64 are the limit.
TOGETHER = 150 * 3840
DENSEST = 16  # at most one pixel of so many is kept
ROW = 1024  # neighbours that are looked at together
_ROWS = 384  # 4.5 MB that all parts write beyond what they keep: memory that is new in each call
NOTHING = np.int32(2**31 - 1)  # the threshold of a class that keeps nothing


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
def up_to(keys, most):
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
        if up_to(keys, middle) > len(keys) // 2:
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

    key: int32, with room for a multiple of LANES; kind: None for background, or (count,) 1 for foreground and -1 for
    void. Few of them are to be kept, so LANES are looked at together. Where there is one, every error is written, and
    the next one over it if it is not to be kept: which ones are is hard to foresee for the processor.
    """
    keys, owners = kept.keys[c], kept.owners[c]
    for begin in range(0, count, ROW):
        end = min(begin + ROW, count)
        while kept.counts[c] + (end - begin) > len(keys):  # then there are more than twice the wanted ones
            _raise_threshold(kept, np.int64(c))
        n = kept.counts[c]
        threshold = kept.thresholds[c]
        for few in range(begin, end, LANES):
            if not any_exceeds(key, few, threshold):
                continue
            for i in range(few, min(few + LANES, end)):
                keys[n] = key[i]
                if kind is None:
                    owners[n] = 2 * (first + i)
                    n += key[i] > threshold
                else:
                    owners[n] = 2 * (first + i) + kind[i]
                    n += (key[i] > threshold) & (kind[i] >= 0)
        kept.counts[c] = n
