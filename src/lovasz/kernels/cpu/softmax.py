"""Lovász-Softmax on the CPU: count the labels, count the errors per bin, write the gradient, each fused from logits.

A thread takes tiles of some hundred pixels with all their classes, which stay in its cache.
"""

import numpy as np

from lovasz.kernels.cpu.arithmetic import bin_of, cell_of, compiled, exp, inlined, mirrored_place, packed


@compiled
def count_labels(scores, begin, end, totals, surplus, status):
    """Before the passes: ``totals`` (G,) pixels of each class, so that absent ones cost nothing.

    ``surplus`` (G,) receives the pixels of the class and the void ones together, see ``count_softmax``.
    """
    _, classes, pixels = scores.shape
    counts = np.zeros(classes, np.int64)
    position = begin
    while position < end:
        image = position // pixels
        first = position - image * pixels
        count = min(end - position, pixels - first)
        at = image * scores.target_strides[0] + first * scores.target_strides[2]
        voids = 0
        counts[:] = 0
        for i in range(count):
            t = np.int64(scores.target[at + i * scores.target_strides[2]])
            if scores.has_void and t == scores.void:
                voids += 1
            elif t < 0 or t >= classes:
                status[0] = 1
                status[1] = t
            else:
                counts[t] += 1
        group = image * classes if scores.per_image else 0
        for c in range(classes):
            totals[group + c] += counts[c]
            surplus[group + c] += counts[c] + voids
        position += count


@inlined
def _exponentials(scores, image, first, count, tile, right, others):
    """exp(logits - max) of ``count`` pixels into ``tile`` (C, T), with 0 in place of the target class.

    ``right`` receives the target's share of the sum and ``others`` the sum of the rest; a void pixel is 0 throughout.
    """
    x = scores.x
    _, class_stride, stride = scores.strides
    at = image * scores.strides[0] + first * stride
    target_at = image * scores.target_strides[0] + first * scores.target_strides[2]
    scale = others
    classes = tile.shape[0]
    for i in range(count):
        scale[i] = x[at + i * stride]
    if stride == 1:
        for c in range(1, classes):
            row = x[at + c * class_stride : at + c * class_stride + count]
            for i in range(count):
                v = row[i]
                scale[i] = v if v > scale[i] else scale[i]
        for c in range(classes):
            row = x[at + c * class_stride : at + c * class_stride + count]
            for i in range(count):
                tile[c, i] = exp(row[i] - scale[i])
    else:
        for i in range(count):
            base = at + i * stride
            for c in range(classes):
                v = x[base + c * class_stride]
                tile[c, i] = v
                scale[i] = v if v > scale[i] else scale[i]
        for c in range(classes):
            for i in range(count):
                tile[c, i] = exp(tile[c, i] - scale[i])
    for i in range(count):
        t = np.int64(scores.target[target_at + i * scores.target_strides[2]])
        if scores.has_void and t == scores.void:
            for c in range(classes):
                tile[c, i] = 0
            right[i] = 0
        else:
            right[i] = tile[t, i]
            tile[t, i] = 0
    for i in range(count):
        scale[i] = 0
    for c in range(classes):
        for i in range(count):
            scale[i] += tile[c, i]


@compiled
def count_softmax(scores, begin, end, width, lut, active, hist, status):
    """First pass: the bins of the errors of pixels ``begin`` to ``end``, from logits.

    lut: (C, cells) entries; active: (G,) False for groups to leave out; hist: (G, 2, bins) packed, background and
    foreground. So that the loop over classes need not branch, void pixels and those of the class itself are counted in
    the lowest background bin too. status: [.., .., NaN met].
    """
    _, classes, pixels = scores.shape
    tile = np.empty((classes, width), scores.x.dtype)
    right = np.empty(width, scores.x.dtype)
    scale = np.empty(width, scores.x.dtype)
    place = np.empty(width, np.int32)
    position = begin
    while position < end:
        image = position // pixels
        first = position - image * pixels
        count = min(width, end - position, pixels - first)
        target_at = image * scores.target_strides[0] + first * scores.target_strides[2]
        _exponentials(scores, image, first, count, tile, right, scale)
        group = image * classes if scores.per_image else 0
        poisoned = False
        for i in range(count):
            total = scale[i] + right[i]
            poisoned |= total != total
            if total == 0:  # void
                continue
            inverse = 1 / total
            right[i] *= inverse  # the target's probability
            wrong = scale[i] * inverse
            scale[i] = inverse
            t = np.int64(scores.target[target_at + i * scores.target_strides[2]])
            spot = mirrored_place(wrong, right[i])
            entry = lut[t, cell_of(spot)]
            hist[group + t, 1, bin_of(spot, entry)] += packed(spot, entry)
        if poisoned:
            status[2] = 1
        for c in range(classes):
            if not active[group + c]:
                continue
            for i in range(count):
                p = tile[c, i] * scale[i]
                place[i] = mirrored_place(p, 1 - p)
            entries = lut[c]
            bins = hist[group + c, 0]
            for i in range(count):
                entry = entries[cell_of(place[i])]
                bins[bin_of(place[i], entry)] += packed(place[i], entry)
        position += count


@compiled
def gradient_softmax(scores, begin, end, width, lut, weights, active, factor, out, out_strides):
    """Second pass: the gradient at the logits of pixels ``begin`` to ``end``, times ``factor``, into ``out``.

    weights: (G, 2, bins) per class, already with the class's share of the average; active: (G,) whether that is not 0.
    With q_c the weight of class c at this pixel and t its target, the gradient at logit c is
    ``p_c (q_c - sum_k!=t p_k q_k + p_t q_t)``, and at the target's ``-p_t ((1 - p_t) q_t + sum_k!=t p_k q_k)``.
    """
    _, classes, pixels = scores.shape
    tile = np.empty((classes, width), scores.x.dtype)
    slopes = np.empty((classes, width), np.float32)
    right = np.empty(width, scores.x.dtype)
    scale = np.empty(width, scores.x.dtype)
    mean = np.empty(width, scores.x.dtype)
    own = np.empty(width, scores.x.dtype)
    share = np.empty(width, scores.x.dtype)
    place = np.empty(width, np.int32)
    position = begin
    while position < end:
        image = position // pixels
        first = position - image * pixels
        count = min(width, end - position, pixels - first)
        target_at = image * scores.target_strides[0] + first * scores.target_strides[2]
        _exponentials(scores, image, first, count, tile, right, scale)
        group = image * classes if scores.per_image else 0
        for i in range(count):
            mean[i] = 0
            own[i] = 0
            share[i] = 0
            total = scale[i] + right[i]
            if total == 0:  # void
                continue
            inverse = 1 / total
            right[i] *= inverse
            wrong = scale[i] * inverse
            scale[i] = inverse
            t = np.int64(scores.target[target_at + i * scores.target_strides[2]])
            if active[group + t]:
                spot = mirrored_place(wrong, right[i])
                q = weights[group + t, 1, bin_of(spot, lut[t, cell_of(spot)])]
                own[i] = -right[i] * wrong * q
                share[i] = right[i] * q
        for c in range(classes):
            if active[group + c]:
                for i in range(count):
                    p = tile[c, i] * scale[i]
                    tile[c, i] = p
                    place[i] = mirrored_place(p, 1 - p)
                entries = lut[c]
                bins = weights[group + c, 0]
                for i in range(count):
                    slopes[c, i] = bins[bin_of(place[i], entries[cell_of(place[i])])]
                for i in range(count):
                    mean[i] += tile[c, i] * slopes[c, i]
            else:
                for i in range(count):
                    tile[c, i] *= scale[i]
                    slopes[c, i] = 0
        for i in range(count):
            own[i] = factor * (own[i] - right[i] * mean[i])
            mean[i] -= share[i]
        at = image * out_strides[0] + first * out_strides[2]
        if out_strides[2] == 1:
            for c in range(classes):
                row = out[at + c * out_strides[1] : at + c * out_strides[1] + count]
                for i in range(count):
                    row[i] = factor * tile[c, i] * (slopes[c, i] - mean[i])
        else:
            for i in range(count):
                base = at + i * out_strides[2]
                for c in range(classes):
                    out[base + c * out_strides[1]] = factor * tile[c, i] * (slopes[c, i] - mean[i])
        for i in range(count):
            t = np.int64(scores.target[target_at + i * scores.target_strides[2]])
            if not (scores.has_void and t == scores.void):
                out[at + i * out_strides[2] + t * out_strides[1]] = own[i]
        position += count
