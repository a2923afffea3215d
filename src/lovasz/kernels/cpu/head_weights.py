"""The largest errors of each class, weighed one by one in their exact order once the first pass has kept them.

The second pass takes these weights in place of those of the bins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from lovasz.kernels.cpu.arithmetic import inlined
from lovasz.kernels.cpu.heads import Kept, up_to
from lovasz.kernels.cpu.tables import bin_of, errors_of, tied_weights, weigh_rest
from lovasz.loops import compiled, in_threads

_NO_BIN = 2**31 - 1


class Head(NamedTuple):
    """Exact weights for the second pass, of each class in the order of the pixels or elements that they belong to.

    starts: (C + 1,) int64, where the errors of each class begin; owners: int64; weights: of the type to compute in.
    """

    starts: np.ndarray
    owners: np.ndarray
    weights: np.ndarray


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
        count += n - up_to(kept.keys[r, c, :n], key)
    return count


@compiled
def _gather(kept, c, limit, keys, owners):
    """The errors of class c beyond the limit; keys: with the index, packed. There is room for one more, written as in
    ``keep_row``."""
    n = 0
    for r in range(kept.keys.shape[0]):
        for i in range(kept.counts[r, c]):
            key = np.int64(kept.keys[r, c, i])
            keys[n] = key << 32 | n
            owners[n] = kept.owners[r, c, i]
            n += key > limit


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
            found.bins[c] = bin_of(lut[c], places[c])
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
            keys, own = np.empty((2, counts[c] + 1), np.int64)
            _gather(kept, c, limits.keys[c], keys, own)
            keys, owners[mine] = keys[:-1], own[:-1]
            places = places_of(np.append(keys >> 32, limits.keys[c]))  # before the sort: in the order of the owners
            keys.sort()
            losses[c] += _weigh(mirrored, keys, places, owners[mine], totals[c], shares[c], weights[mine])
            rest = lut[c], hist, surplus[c], totals[c], shares[c], places[:-1], owners[mine], places[-1]
            losses[c] += weigh_rest(mirrored, *rest, weights_of_bins)

    if starts[-1]:
        in_threads(run, parts)
    return Head(starts, owners, weights)


def for_gradient(head: Head, factor: float, apart: bool) -> tuple[Head, ...]:
    """The same times what comes in, with pixels or elements as owners: of both kinds, or of background and foreground
    ``apart``."""
    times = head.weights.dtype.type(factor)
    if not apart or not len(head.owners):
        return (Head(head.starts, head.owners >> 1, head.weights * times),) * (2 if apart else 1)
    room = len(head.owners) + 1
    background, foreground = (
        Head(np.empty_like(head.starts), np.empty(room, np.int64), np.empty(room, head.weights.dtype)) for _ in range(2)
    )
    _part(head, times, background, foreground)
    return background, foreground


@compiled
def _part(head, factor, background, foreground):
    """Each error is written into both, which have room for one more; the next one overwrites it where it is not its."""
    wrong, right = 0, 0
    for c in range(len(head.starts) - 1):
        background.starts[c], foreground.starts[c] = wrong, right
        for i in range(head.starts[c], head.starts[c + 1]):
            owner, weight, kind = head.owners[i] >> 1, head.weights[i] * factor, head.owners[i] & 1
            background.owners[wrong], background.weights[wrong] = owner, weight
            foreground.owners[right], foreground.weights[right] = owner, weight
            wrong += 1 - kind
            right += kind
    background.starts[len(head.starts) - 1], foreground.starts[len(head.starts) - 1] = wrong, right


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
