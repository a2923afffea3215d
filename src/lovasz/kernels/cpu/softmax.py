"""Lovász-Softmax on the CPU: count the labels, count the errors per bin, write the gradient, each fused from logits.

A thread takes tiles of some hundred pixels with all their classes, which stay in its cache.
"""

import numpy as np

from lovasz.kernels.cpu.arithmetic import inlined, mirrored_place, store
from lovasz.kernels.cpu.entropy import cross_entropy, pull, smooth
from lovasz.kernels.cpu.head_weights import cursors
from lovasz.kernels.cpu.heads import keep, keep_row
from lovasz.kernels.cpu.probabilities import exponentials, normalise, rows, write
from lovasz.kernels.cpu.vectors import count_in, count_one, weigh, zeros
from lovasz.loops import compiled


@compiled
def count_labels(scores, begin, end, totals, surplus, status):
    """Before the passes: ``totals`` (G,) pixels of each class, so that absent ones cost nothing. Reads no logits.

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
def _after(scores, image, c, first):
    """The logits of class c from pixel ``first`` on, which may lie beyond the image: what the next tile will read."""
    image_stride, class_stride, stride = scores.strides
    return scores.x[min(image * image_stride + c * class_stride + first * stride, len(scores.x)) :]


@compiled
def count_softmax(scores, begin, end, width, lut, active, hist, kept, entropy, sums, status):
    """First pass: the bins of the errors of pixels ``begin`` to ``end``, from logits.

    lut: (C, cells) entries, each class after the one before; active: (G,) False for groups to leave out; hist:
    (2, bins) packed, background and foreground, with the bins of each image in turn if those count apart. So that the
    loop over classes need not branch, void pixels and those of the class itself are counted in the lowest background
    bin too. kept: the largest errors of each class, see ``heads.Kept``.
    entropy: None, or the cross-entropy to add to ``sums[0]``. status: [.., .., NaN met].
    """
    images, classes, pixels = scores.shape
    tile = rows(classes, width, scores.work)
    right = np.empty(width, scores.work.dtype)
    scale = np.empty(width, scores.work.dtype)
    peak = np.empty(width, scores.work.dtype)
    place = zeros(width)
    cell = zeros(width)
    label = np.empty(width, np.int32)
    entries = lut.reshape(lut.size)
    cells = np.int32(lut.shape[1])
    own_place = zeros(width)
    size = hist.shape[1] // (images if scores.per_image else 1)
    thresholds = kept.thresholds
    keeping = kept.keys.shape[1] > 0
    position = begin
    while position < end:
        image = position // pixels
        first = position - image * pixels
        count = min(width, end - position, pixels - first)
        exponentials(scores, image, first, count, tile, right, scale, peak, label)
        if entropy is not None:
            sums[0] += cross_entropy(scores, image, first, count, right, scale, peak, label, entropy)
        group = image * classes if scores.per_image else 0
        start = image * size if scores.per_image else 0
        wrong_bins = hist[0, start : start + size]
        right_bins = hist[1, start : start + size]
        wrong = peak  # its memory: the largest logit is not needed any more
        if normalise(label, count, cells, right, scale, wrong, own_place, cell):
            status[2] = 1
        for i in range(count):
            if label[i] >= 0:
                count_one(own_place[i], np.uint32(cell[i]), entries, right_bins, np.uint64(0))
        if keeping:
            for i in range(count):
                t = label[i]
                if t >= 0 and own_place[i] > thresholds[t] and active[group + t]:
                    keep(kept, t, own_place[i], 2 * (position + i) + 1)
        for c in range(classes):
            if not active[group + c]:
                continue
            largest = np.int32(0)
            for i in range(count):
                p = tile[c, i] * scale[i]
                place[i] = mirrored_place(p, 1 - p)
                largest = max(largest, place[i])
            if largest > thresholds[c]:
                keep_row(kept, c, place, None, count, position)
            count_in(place, lut[c], count, wrong_bins, _after(scores, image, c, first + count))
        position += count


@compiled
def gradient_softmax(
    scores, begin, end, width, lut, lines, active, wrong_head, right_head, factor, entropy, out, out_strides
):
    """Second pass: the gradient at the logits of pixels ``begin`` to ``end`` into ``out``, laid out by ``out_strides``.

    lines: (2, bins) of the bins' weights, see ``tables.lines``, already with the class's share of the average and what
    comes in; active: (G,) whether that share is not 0; wrong_head, right_head: exact weights of the largest errors of
    background and of foreground, see ``head_weights.Head``; factor: what comes in, for the cross-entropy. With q_c the
    weight of class c at this pixel and t its target, the gradient at logit c is ``p_c (q_c - sum_k!=t p_k q_k + p_t
    q_t)``, and at the target's ``-p_t ((1 - p_t) q_t + sum_k!=t p_k q_k)``.
    """
    images, classes, pixels = scores.shape
    tile = rows(classes, width, scores.work)
    slopes = rows(classes, width, scores.work)
    right = np.empty(width, scores.work.dtype)
    scale = np.empty(width, scores.work.dtype)
    mean = np.empty(width, scores.work.dtype)
    own = np.empty(width, scores.work.dtype)
    share = np.empty(width, scores.work.dtype)
    peak = np.empty(width, scores.work.dtype)
    place = zeros(width)
    cell = zeros(width)
    label = np.empty(width, np.int32)
    entries = lut.reshape(lut.size)
    cells = np.int32(lut.shape[1])
    line = np.empty(width, np.int64)
    size = lines.shape[1] // (images if scores.per_image else 1)
    wrong_next = cursors(wrong_head.starts, wrong_head.owners, begin)
    right_next = cursors(right_head.starts, right_head.owners, begin)
    position = begin
    while position < end:
        image = position // pixels
        first = position - image * pixels
        count = min(width, end - position, pixels - first)
        exponentials(scores, image, first, count, tile, right, scale, peak, label)
        group = image * classes if scores.per_image else 0
        start = image * size if scores.per_image else 0
        wrong_lines = lines[0, start : start + size]
        right_lines = lines[1, start : start + size]
        wrong = peak  # its memory: the largest logit is not needed any more
        normalise(label, count, cells, right, scale, wrong, place, cell)
        for i in range(count):
            own[i] = -right[i] * wrong[i]
            mean[i] = 0
        weigh(place, cell, None, entries, right_lines, line, count, share, None, None)
        for c in range(classes):
            if active[group + c]:
                for i in range(count):
                    p = tile[c, i] * scale[i]
                    tile[c, i] = p
                    place[i] = mirrored_place(p, 1 - p)
                row = out[image * out_strides[0] + first * out_strides[2] + c * out_strides[1] :]
                after = _after(scores, image, c, first + count)
                weigh(place, None, None, lut[c], wrong_lines, line, count, slopes[c], row, after)
                k = wrong_next[c]
                while k < wrong_head.starts[c + 1] and wrong_head.owners[k] < position + count:
                    slopes[c, wrong_head.owners[k] - position] = wrong_head.weights[k]
                    k += 1
                wrong_next[c] = k
                for i in range(count):
                    mean[i] += tile[c, i] * slopes[c, i]
            else:
                for i in range(count):
                    tile[c, i] *= scale[i]
                    slopes[c, i] = 0
        for c in range(classes):
            k = right_next[c]
            while k < right_head.starts[c + 1] and right_head.owners[k] < position + count:
                share[right_head.owners[k] - position] = right_head.weights[k]
                k += 1
            right_next[c] = k
        for i in range(count):
            own[i] = own[i] * share[i] - right[i] * mean[i]
            mean[i] -= right[i] * share[i]
        if entropy is not None:
            pull(entropy, factor, count, right, label, own, mean)
        at = image * out_strides[0] + first * out_strides[2]
        write(out, at, out_strides, count, tile, slopes, mean)
        if entropy is not None and entropy.smoothing > 0:
            smooth(entropy, factor, out, at, out_strides, count, tile, slopes, mean, label)
        for i in range(count):
            if label[i] >= 0:
                store(out, np.uint64(at + i * out_strides[2] + np.int64(label[i]) * out_strides[1]), own[i])
        position += count
