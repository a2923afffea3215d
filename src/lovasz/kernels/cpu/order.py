"""The loops of the sorted losses on the CPU: a key for every error, each group's keys put in order and turned into
weights in their place, and the gradient from these.

Keys are integers in the order of the errors: places for softmax, what ``elements`` orders by for the rest. Background
errors below the least of foreground weigh nothing, as they enlarge only a union that no intersection is left in: they
are not sorted.
"""

import numpy as np

from lovasz.kernels.bins import HALF_RANGE
from lovasz.kernels.cpu.arithmetic import LOWEST, TOP, exp, from_bits, inlined, mirrored_place, store
from lovasz.kernels.cpu.elements import MODE_ELU, MODE_HINGE, MODE_SIGMOID, WIDTH, order_keys, read, treat, unfit_score
from lovasz.kernels.cpu.entropy import cross_entropy, pull, smooth
from lovasz.kernels.cpu.probabilities import exponentials, normalise, rows, write
from lovasz.kernels.cpu.radix import DIGIT, LOW, ROUNDS, key_of, pack, sort
from lovasz.kernels.cpu.tables import tied_weights
from lovasz.kernels.cpu.vectors import zeros
from lovasz.loops import compiled

ALL_KEYS, NO_KEY = np.int32(-(2**31)), np.int32(2**31 - 1)  # as the least one: none is below, or above
_NO_LABEL = np.int64(-(2**63))


@compiled
def keys_softmax(scores, begin, end, width, active, keys, key_strides, least, entropy, sums, status):
    """The keys of pixels ``begin`` to ``end`` in all classes, from logits; what void pixels get is not read.

    active: (G,) False for groups to leave out; keys: flat int32, key_strides: for (image, class), pixels beside one
    another; least: (G,) receives the least key of foreground, if that is less. entropy: None, or the cross-entropy to
    add to ``sums[0]``. status: [.., .., NaN met].
    """
    _, classes, pixels = scores.shape
    tile = rows(classes, width, scores.work)
    right = np.empty(width, scores.work.dtype)
    scale = np.empty(width, scores.work.dtype)
    peak = np.empty(width, scores.work.dtype)
    wrong = np.empty(width, scores.work.dtype)
    place = zeros(width)
    cell = zeros(width)
    label = np.empty(width, np.int32)
    position = begin
    while position < end:
        image = position // pixels
        first = position - image * pixels
        count = min(width, end - position, pixels - first)
        exponentials(scores, image, first, count, tile, right, scale, peak, label)
        if entropy is not None:
            sums[0] += cross_entropy(scores, image, first, count, right, scale, peak, label, entropy)
        if normalise(label, count, np.int32(0), right, scale, wrong, place, cell):
            status[2] = 1
        group = image * classes if scores.per_image else 0
        at = image * key_strides[0] + first
        for c in range(classes):
            if active[group + c]:
                row = keys[at + c * key_strides[1] : at + c * key_strides[1] + count]
                for i in range(count):
                    p = tile[c, i] * scale[i]
                    row[i] = mirrored_place(p, 1 - p)
        for i in range(count):
            t = np.int64(label[i])
            if t >= 0:
                keys[np.uint64(at + i + t * key_strides[1])] = place[i]
                least[group + t] = min(least[group + t], place[i])
        position += count


@compiled
def keys_elements(mode, scores, begin, end, active, keys, key_strides, least, totals, unfit, status):
    """The same for elements ``begin`` to ``end``, in the order (image, class, pixel).

    Foreground is counted into ``totals`` (G,); unfit: (G,) whether a NaN or infinite error was met. status: [label
    beyond those allowed met, that label].
    """
    _, classes, pixels = scores.shape
    z = np.empty(WIDTH, scores.work.dtype)
    slope = np.empty(WIDTH, scores.work.dtype)
    place = zeros(WIDTH)
    kind = np.empty(WIDTH, np.int32)
    position = begin
    while position < end:
        row = position // pixels
        first = position - row * pixels
        image = row // classes
        c = row - image * classes
        count = min(WIDTH, end - position, pixels - first)
        group = row if scores.per_image else c
        position += count
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
        at = image * key_strides[0] + c * key_strides[1] + first
        written = keys[at : at + count]
        order_keys(mode, z, kind, count, place, written)
        lowest = least[group]
        for i in range(count):
            lowest = min(lowest, written[i] if kind[i] == 1 else NO_KEY)
        least[group] = lowest


@inlined
def _gather(labels, image, images, c, keys, least, gathered):
    """Pack the keys of valid errors of class c in so many images, from the ``least`` on, with what is to be known of
    each: twice its position in ``keys``, plus 1 for foreground. Returns how many there are."""
    pixels = labels.shape[2]
    own = np.int64(c) if labels.labelled else np.int64(1)
    void = np.int64(labels.void) if labels.has_void else _NO_LABEL
    n = np.uint64(0)
    for k in range(images):
        start = (image + k) * labels.target_strides[0] + c * labels.target_strides[1]
        target = labels.target[start : start + pixels]
        row = keys[k * pixels : (k + 1) * pixels]
        for i in range(pixels):
            t = np.int64(target[i])
            # Every key is written, and the next one over it if it is not to be kept: which are is hard to foresee.
            gathered[n] = pack(row[i], np.uint64(2 * (k * pixels + i) + (t == own)))
            n += np.uint64((row[i] >= least) & (t != void))
    return np.int64(n)


@inlined
def _largest(labels, image, images, c, keys):
    """The largest key of valid errors: without foreground, of a class that is absent, it alone has a weight."""
    pixels = labels.shape[2]
    largest = ALL_KEYS
    for k in range(images):
        start = (image + k) * labels.target_strides[0] + c * labels.target_strides[1]
        for i in range(pixels):
            if not labels.has_void or np.int64(labels.target[start + i]) != labels.void:
                largest = max(largest, keys[k * pixels + i])
    return largest


@inlined
def _errors(mode, ordered, n, errors):
    """The errors that n keys stand for. Without branches, so that the loops vectorise."""
    if mode == MODE_SIGMOID:
        for i in range(n):
            score = _score(ordered[i])
            e = exp(-abs(score))
            small = np.float64(e) / (1.0 + np.float64(e))
            errors[i] = small if score < 0 else 1.0 - small
    elif mode in (MODE_HINGE, MODE_ELU):
        for i in range(n):
            margin = 1.0 + np.float64(_score(ordered[i]))
            errors[i] = max(margin, 0.0)
        if mode == MODE_ELU:
            for i in range(n):
                errors[i] += exp(np.float32(min(1.0 + np.float64(_score(ordered[i])), 0.0)))
    else:
        for i in range(n):
            place = key_of(ordered[i])
            beyond = place >= HALF_RANGE
            rest = np.float64(from_bits(np.int32((TOP - place if beyond else place) + LOWEST)))
            error = 1.0 - rest if beyond else rest
            errors[i] = error if place > 0 else 0.0  # most errors below 2^-30 are 0


@inlined
def _score(value):
    """What ``elements.order_keys`` made a key of."""
    key = key_of(value)
    return from_bits(np.int32(key ^ ((key >> np.int32(31)) & np.int32(0x7FFFFFFF))))


@inlined
def _weigh(ordered, errors, n, total, share, weights):
    """The weight of each error, times the share, to where it belongs; returns the loss, not times the share."""
    union = np.int64(total)
    remaining = np.int64(total)
    loss = 0.0
    end = n
    while end > 0:
        last = end - 1
        value = ordered[last]
        if union > 0 and (last == 0 or (ordered[last - 1] ^ value) > LOW):  # no other error equals it
            foreground = np.int64(value & np.uint64(1))
            a = np.float64(union)
            q = (1.0 if foreground else np.float64(remaining)) / (a if foreground else a * (a + 1.0))
            loss += q * errors[last]
            weights[(value & LOW) >> np.uint64(1)] = share * q
            union += 1 - foreground
            remaining -= foreground
            end = last
            continue
        begin = last
        f = np.int64(value & np.uint64(1))
        while begin > 0 and (ordered[begin - 1] ^ value) <= LOW:
            begin -= 1
            f += np.int64(ordered[begin] & np.uint64(1))
        b = end - begin - f
        q_f, q_b = tied_weights(np.float64(union), np.float64(remaining), np.float64(f), np.float64(b))
        loss += (q_f * f + q_b * b) * errors[last]
        for i in range(begin, end):
            value = ordered[i]
            weights[(value & LOW) >> np.uint64(1)] = share * (q_f if value & np.uint64(1) else q_b)
        union += b
        remaining -= f
        end = begin
    return loss


@compiled
def weigh_groups(mode, labels, begin, end, totals, shares, least, keys, weights, losses, scratch):
    """From keys to weights, of groups ``begin`` to ``end``; the losses of these, not times the share.

    labels: ``Scores`` without logits; totals: (G,) foreground pixels; shares: (G,) in the average; least: (G,) key of
    foreground; keys: (G, errors) int32; weights: the same memory as float32, 0 for void pixels and groups without a
    share. Equal errors share their weight, so that the order of the pixels has no say. scratch: (2, errors) uint64.
    """
    images, classes, pixels = labels.shape
    together = 1 if labels.per_image else images
    gathered, other = scratch[0], scratch[1]
    counts = np.empty((ROUNDS, 1 << DIGIT), np.int32)
    for g in range(begin, end):
        n = 0
        if shares[g] != 0:
            image = g // classes if labels.per_image else 0
            lowest = least[g] if totals[g] > 0 else _largest(labels, image, together, g % classes, keys[g])
            n = _gather(labels, image, together, g % classes, keys[g], lowest, gathered)
        if n < together * pixels:
            weights[g] = 0
        losses[g] = 0.0
        if n > 0:
            ordered, free = sort(gathered, other, n, counts)
            errors = free.view(np.float64)
            _errors(mode, ordered, n, errors)
            losses[g] = _weigh(ordered, errors, n, totals[g], shares[g], weights[g])


@compiled
def gradient_softmax(scores, begin, end, width, weights, weight_strides, factor, incoming, entropy, out, out_strides):
    """The gradient at the logits of pixels ``begin`` to ``end``, times ``factor``, into ``out``; the formula stands at
    ``softmax.gradient_softmax``. weights: flat, weight_strides: for (image, class); incoming: what to multiply the
    cross-entropy by, if there is one."""
    _, classes, pixels = scores.shape
    tile = rows(classes, width, scores.work)
    slopes = rows(classes, width, scores.work)
    right = np.empty(width, scores.work.dtype)
    scale = np.empty(width, scores.work.dtype)
    peak = np.empty(width, scores.work.dtype)
    wrong = np.empty(width, scores.work.dtype)
    mean = np.empty(width, scores.work.dtype)
    own = np.empty(width, scores.work.dtype)
    place = zeros(width)
    cell = zeros(width)
    label = np.empty(width, np.int32)
    position = begin
    while position < end:
        image = position // pixels
        first = position - image * pixels
        count = min(width, end - position, pixels - first)
        exponentials(scores, image, first, count, tile, right, scale, peak, label)
        normalise(label, count, np.int32(0), right, scale, wrong, place, cell)
        at = image * weight_strides[0] + first
        mean[:count] = 0
        for c in range(classes):
            row = weights[at + c * weight_strides[1] : at + c * weight_strides[1] + count]
            for i in range(count):
                p = tile[c, i] * scale[i]
                tile[c, i] = p
                slopes[c, i] = row[i] * factor
                mean[i] += p * slopes[c, i]
        for i in range(count):
            q = slopes[np.uint32(max(label[i], np.int32(0))), i]  # of void pixels all factors are 0
            own[i] = -right[i] * (wrong[i] * q + mean[i])
            mean[i] -= right[i] * q
        if entropy is not None:
            pull(entropy, incoming, count, right, label, own, mean)
        at = image * out_strides[0] + first * out_strides[2]
        write(out, at, out_strides, count, tile, slopes, mean)
        if entropy is not None and entropy.smoothing > 0:
            smooth(entropy, incoming, out, at, out_strides, count, tile, slopes, mean, label)
        for i in range(count):
            if label[i] >= 0:
                store(out, np.uint64(at + i * out_strides[2] + np.int64(label[i]) * out_strides[1]), own[i])
        position += count


@compiled
def gradient_elements(mode, scores, begin, end, active, weights, weight_strides, factor, out, out_strides):
    """The same for elements ``begin`` to ``end``: weight, sign and slope of each error."""
    _, classes, pixels = scores.shape
    z = np.empty(WIDTH, scores.work.dtype)
    slope = np.empty(WIDTH, scores.work.dtype)
    place = zeros(WIDTH)
    kind = np.empty(WIDTH, np.int32)
    position = begin
    while position < end:
        row = position // pixels
        first = position - row * pixels
        image = row // classes
        c = row - image * classes
        count = min(WIDTH, end - position, pixels - first)
        if active[row if scores.per_image else c]:
            read(scores, image, c, first, count, z, kind)
            treat(mode, z, kind, count, place, slope)
            at = image * weight_strides[0] + c * weight_strides[1] + first
            line = weights[at : at + count]
            for i in range(count):
                z[i] = slope[i] * (line[i] * factor) if kind[i] >= 0 else 0
        else:
            z[:count] = 0
        written = out[image * out_strides[0] + c * out_strides[1] + first * out_strides[2] :]
        for i in range(count):
            store(written, i * out_strides[2], z[i])
        position += count
