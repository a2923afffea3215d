"""From logits to probabilities and back, for a tile of pixels with all their classes, which stays in a thread's cache.

Apart from the loops because bins and sort share it.
"""

import numpy as np

from lovasz.kernels.cpu.arithmetic import cell_of, inlined, larger, load, mirrored_place, store
from lovasz.kernels.cpu.vectors import exp_below

_VOID = np.int32(-1)
_TOGETHER = 8  # pixels whose classes lie side by side: one after the other, each number would be moved on its own


@inlined
def rows(classes, width, like):
    """A tile to work in, (C, T), whose rows are not a power of two apart: a pixel's classes would push one another out
    of the cache. width: a multiple of 32, so that a row has an odd number of lines of the cache, with the one beyond.
    """
    return np.empty((classes, width + 16), like.dtype)


@inlined
def exponentials(scores, image, first, count, tile, right, others, peak, label):
    """exp(logits - max) of ``count`` pixels into ``tile`` (C, T), with 0 in place of the target class.

    ``right`` receives the target's share of the sum and ``others`` the sum of the rest; a void pixel is 0 throughout.
    ``peak`` receives the largest logit, ``label`` the target, -1 for void.
    """
    _, class_stride, stride = scores.strides
    at = image * scores.strides[0] + first * stride
    target_at = image * scores.target_strides[0] + first * scores.target_strides[2]
    classes = tile.shape[0]
    peak[:count] = -np.inf
    if stride == 1:
        for c in range(classes):
            row = scores.x[at + c * class_stride : at + c * class_stride + count]
            for i in range(count):
                v = load(row, i)
                tile[c, i] = v  # classes a power of two apart would push one another out of the cache until read again
                peak[i] = larger(peak[i], v)
    elif stride < class_stride:  # a sample of the pixels
        for c in range(classes):
            row = scores.x[at + c * class_stride :]
            for i in range(count):
                v = load(row, i * stride)
                tile[c, i] = v
                peak[i] = larger(peak[i], v)
    else:
        whole = count // _TOGETHER * _TOGETHER
        for begin in range(0, whole, _TOGETHER):
            pixels = scores.x[at + begin * stride :]
            for c in range(classes):
                for k in range(_TOGETHER):
                    i = np.uint64(begin + k)
                    v = load(pixels, k * stride + c * class_stride)
                    tile[c, i] = v
                    peak[i] = larger(peak[i], v)
        for i in range(whole, count):
            pixel = scores.x[at + i * stride :]
            for c in range(classes):
                v = load(pixel, c * class_stride)
                tile[c, i] = v
                peak[i] = larger(peak[i], v)
    for c in range(classes):
        exp_below(tile[c], peak, count)
    for i in range(count):
        t = np.int64(scores.target[target_at + i * scores.target_strides[2]])
        label[i] = _VOID if scores.has_void & (t == scores.void) else np.int32(t)
    for i in range(count):
        if label[i] >= 0:
            right[i] = tile[np.uint32(label[i]), i]
            tile[np.uint32(label[i]), i] = 0
        else:
            right[i] = 0
            for c in range(classes):
                tile[c, i] = 0
    # Eight at a time, in pairs: one after the other, the sum of 150 is rounded often enough to swap errors near one
    # another, and between the largest of a rare class that shows.
    others[:count] = 0
    paired = classes // 8 * 8
    for c in range(0, paired, 8):
        for i in range(count):
            first_four = (tile[c, i] + tile[c + 1, i]) + (tile[c + 2, i] + tile[c + 3, i])
            last_four = (tile[c + 4, i] + tile[c + 5, i]) + (tile[c + 6, i] + tile[c + 7, i])
            others[i] += first_four + last_four
    for c in range(paired, classes):
        for i in range(count):
            others[i] += tile[c, i]


@inlined
def normalise(label, count, cells, right, scale, wrong, place, cell):
    """From sums to probabilities: ``right`` becomes the target's, ``wrong`` receives that of all others; ``scale``, the
    sum of the others before, becomes what to multiply the tile by. place, cell: of the target's error, the latter in
    all classes' entries. Void pixels are 0 throughout. Returns whether a sum is NaN.
    """
    poisoned = False
    for i in range(count):
        total = scale[i] + right[i]
        poisoned |= total != total
        inverse = 1 / total
        probability = right[i] * inverse
        others = scale[i] * inverse
        void = label[i] < 0
        right[i] = 0 if void else probability
        wrong[i] = 0 if void else others
        scale[i] = 0 if void else inverse
        spot = mirrored_place(others, probability)
        place[i] = 0 if void else spot
        cell[i] = np.int32(0 if void else np.int32(label[i] * cells + np.int32(cell_of(spot))))
    return poisoned


@inlined
def write(out, at, out_strides, count, tile, slopes, mean):
    """``p (slope - mean)`` of ``count`` pixels and every class into flat memory from ``at`` on: the gradient at the
    logits, but for those of the targets. tile: probabilities; slopes: of the errors, both (C, T).
    """
    classes = tile.shape[0]
    if out_strides[2] == 1:
        for c in range(classes):
            row = out[at + c * out_strides[1] : at + c * out_strides[1] + count]
            for i in range(count):
                store(row, i, tile[c, i] * (slopes[c, i] - mean[i]))
    else:
        whole = count // _TOGETHER * _TOGETHER
        for begin in range(0, whole, _TOGETHER):
            pixels = out[at + begin * out_strides[2] :]
            for c in range(classes):
                for k in range(_TOGETHER):
                    i = np.uint64(begin + k)
                    store(pixels, k * out_strides[2] + c * out_strides[1], tile[c, i] * (slopes[c, i] - mean[i]))
        for i in range(whole, count):
            pixel = out[at + i * out_strides[2] :]
            for c in range(classes):
                store(pixel, c * out_strides[1], tile[c, i] * (slopes[c, i] - mean[i]))
