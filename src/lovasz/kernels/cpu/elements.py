"""Scores that do not depend on one another (sigmoid, hinge, probabilities) on the CPU: count, write the gradient."""

import numpy as np

from lovasz.kernels.bins import CELL_BITS, UNBOUNDED_CELLS
from lovasz.kernels.cpu.arithmetic import (
    LOWEST,
    bin_of,
    bits_of,
    cell_of,
    compiled,
    exp,
    inlined,
    mirrored_place,
    packed,
)

MODE_SIGMOID, MODE_PROBABILITY, MODE_HINGE, MODE_ELU = range(4)
WIDTH = 1024  # elements that a thread treats at a time, to stay in its cache
_LAST = np.int32((UNBOUNDED_CELLS << CELL_BITS) - 1)


@inlined
def _error(mode, z, foreground):
    """Error and its complement (hinge: only the error) of one score."""
    zero, one = type(z)(0), type(z)(1)
    if mode == MODE_SIGMOID:
        e = exp(-abs(z))
        small, large = e / (one + e), one / (one + e)
        right = (z > zero) == foreground
        return (small, large) if right else (large, small)
    if mode == MODE_PROBABILITY:
        return (one - z, z) if foreground else (z, one - z)
    raw = one - (z if foreground else -z)
    if mode == MODE_HINGE:
        return (zero if raw < zero else raw), zero
    return (exp(min(raw, zero)) if raw < zero else raw + one), zero


@inlined
def _place(mode, error, complement):
    """The place of an error, mirrored for those in [0, 1]."""
    if mode in (MODE_SIGMOID, MODE_PROBABILITY):
        return mirrored_place(error, complement)
    return min(max(bits_of(np.float32(error)) - LOWEST, np.int32(0)), _LAST)


@inlined
def _is_foreground(t, c, labelled):
    return t == c if labelled else t == 1


@compiled
def count_elements(mode, scores, begin, end, lut, active, hist, totals, status):
    """First pass: the bins of the errors of elements ``begin`` to ``end``, in the order (image, class, pixel).

    Foreground is counted into ``totals`` (G,); the rest as in ``count_softmax``, but void pixels are left out.
    status: [label beyond those allowed met, that label, NaN or infinite error met].
    """
    _, classes, pixels = scores.shape
    strides, target_strides = scores.strides, scores.target_strides
    limit = classes if scores.labelled else 2
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
        group = row if scores.per_image else c
        position += count
        if not active[group]:
            continue
        found = 0
        for i in range(count):
            t = np.int64(scores.target[target_at + i * target_strides[2]])
            foreground = _is_foreground(t, c, scores.labelled)
            if scores.has_void and t == scores.void:
                kind[i] = -1
            else:
                kind[i] = np.int32(foreground)
                found += np.int64(foreground)
                if t < 0 or t >= limit:
                    status[0] = 1
                    status[1] = t
        poisoned = False
        for i in range(count):
            error, complement = _error(mode, scores.x[at + i * strides[2]], kind[i] == 1)
            poisoned |= (error - error != 0) & (kind[i] >= 0)
            place[i] = _place(mode, error, complement)
        if poisoned:
            status[2] = 1
        totals[group] += found
        entries = lut[c]
        bins = hist[group]
        for i in range(count):
            if kind[i] >= 0:
                entry = entries[cell_of(place[i])]
                bins[kind[i], bin_of(place[i], entry)] += packed(place[i], entry)


@compiled
def gradient_elements(mode, scores, begin, end, lut, weights, active, factor, out, out_strides):
    """Second pass: weight, sign and slope of each error, times ``factor``, into ``out``; see ``gradient_softmax``."""
    _, classes, pixels = scores.shape
    strides, target_strides = scores.strides, scores.target_strides
    place = np.empty(WIDTH, np.int32)
    slope = np.empty(WIDTH, scores.x.dtype)
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
        group = row if scores.per_image else c
        if active[group]:
            for i in range(count):
                t = np.int64(scores.target[target_at + i * target_strides[2]])
                foreground = _is_foreground(t, c, scores.labelled)
                error, complement = _error(mode, scores.x[at + i * strides[2]], foreground)
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
                if scores.has_void and t == scores.void:
                    steep = type(error)(0)
                slope[i] = factor * (-steep if foreground else steep)
            entries = lut[c]
            bins = weights[group]
            for i in range(count):
                foreground = _is_foreground(
                    np.int64(scores.target[target_at + i * target_strides[2]]), c, scores.labelled
                )
                q = bins[np.int64(foreground), bin_of(place[i], entries[cell_of(place[i])])]
                out[out_at + i * out_strides[2]] = slope[i] * q
        else:
            for i in range(count):
                out[out_at + i * out_strides[2]] = 0
        position += count
