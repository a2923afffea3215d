"""The loops of the sorted losses on the CPU: a key for every error, a radix sort of each group's keys that turns them
into weights in their place, and the gradient from these.

Keys are integers in the order of the errors: places for softmax, what ``elements`` orders by for the rest.
"""

import numpy as np

from lovasz.kernels.bins import HALF_RANGE
from lovasz.kernels.cpu.arithmetic import LOWEST, TOP, exp, from_bits, inlined, mirrored_place, store
from lovasz.kernels.cpu.elements import MODE_ELU, MODE_HINGE, MODE_SIGMOID, WIDTH, order_keys, read, treat, unfit_score
from lovasz.kernels.cpu.entropy import cross_entropy, pull, smooth
from lovasz.kernels.cpu.probabilities import exponentials, normalise, rows, write
from lovasz.kernels.cpu.tables import tied_weights
from lovasz.kernels.cpu.vectors import zeros
from lovasz.loops import compiled

DIGIT = 11  # bits of a key that one round of the sort looks at
ROUNDS = 3  # that make up its 32
_LOW = np.uint64(0xFFFFFFFF)


@compiled
def keys_softmax(scores, begin, end, width, active, keys, key_strides, entropy, sums, status):
    """The keys of pixels ``begin`` to ``end`` in all classes, from logits; what void pixels get is not read.

    active: (G,) False for groups to leave out; keys: flat int32, key_strides: for (image, class), pixels beside one
    another. entropy: None, or the cross-entropy to add to ``sums[0]``. status: [.., .., NaN met].
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
            if label[i] >= 0:
                keys[np.uint64(at + i + np.int64(label[i]) * key_strides[1])] = place[i]
        position += count


@compiled
def keys_elements(mode, scores, begin, end, active, keys, key_strides, totals, unfit, status):
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
        order_keys(mode, z, kind, count, place, keys[at : at + count])


@inlined
def pack(key, owner, counts, gathered, n):
    """Write a key with 32 bits of what is to be known of it to place n; counts: (ROUNDS, 2^DIGIT) of each digit."""
    unsigned = np.uint32(key) ^ np.uint32(0x80000000)  # in the same order
    for r in range(ROUNDS):
        counts[r, (unsigned >> np.uint32(r * DIGIT)) & np.uint32((1 << DIGIT) - 1)] += np.int32(1)
    gathered[n] = np.uint64(unsigned) << np.uint64(32) | owner


@inlined
def _gather(labels, image, images, c, keys, counts, gathered):
    """Pack the keys of valid errors of class c in so many images with what is to be known of each: twice its position
    in ``keys``, plus 1 for foreground. Returns how many there are."""
    pixels = labels.shape[2]
    own = np.int64(c) if labels.labelled else np.int64(1)
    counts[:] = 0
    n = 0
    for k in range(images):
        start = (image + k) * labels.target_strides[0] + c * labels.target_strides[1]
        target = labels.target[start : start + pixels]
        for i in range(pixels):
            t = np.int64(target[i])
            if labels.has_void and t == labels.void:
                continue
            at = k * pixels + i
            pack(keys[at], np.uint64(2 * at + (t == own)), counts, gathered, n)
            n += 1
    return n


@inlined
def sort(gathered, other, n, counts):
    """Radix sort: the first n by keys in rising order, equal ones as they came. Returns the array that holds them, then
    the other. counts: as ``pack`` fills them, from 0."""
    source, sink = gathered, other
    for r in range(ROUNDS):
        shift = np.uint64(32 + r * DIGIT)
        begin = counts[r]
        if begin[(source[0] >> shift) & np.uint64((1 << DIGIT) - 1)] == n:
            continue  # all have this digit in common
        total = np.int32(0)
        for digit in range(1 << DIGIT):
            count = begin[digit]
            begin[digit] = total
            total += count
        for i in range(n):
            value = source[i]
            digit = (value >> shift) & np.uint64((1 << DIGIT) - 1)
            at = begin[digit]
            begin[digit] = at + np.int32(1)
            sink[np.uint32(at)] = value
        source, sink = sink, source
    return source, sink


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
            place = _key(ordered[i])
            beyond = place >= HALF_RANGE
            rest = np.float64(from_bits(np.int32((TOP - place if beyond else place) + LOWEST)))
            error = 1.0 - rest if beyond else rest
            errors[i] = error if place > 0 else 0.0  # most errors below 2^-30 are 0


@inlined
def _key(value):
    return np.int32(np.uint32(value >> np.uint64(32)) ^ np.uint32(0x80000000))


@inlined
def _score(value):
    """What ``elements.order_keys`` made a key of."""
    key = _key(value)
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
        if union > 0 and (last == 0 or (ordered[last - 1] ^ value) > _LOW):  # no other error equals it
            foreground = np.int64(value & np.uint64(1))
            a = np.float64(union)
            q = (1.0 if foreground else np.float64(remaining)) / (a if foreground else a * (a + 1.0))
            loss += q * errors[last]
            weights[(value & _LOW) >> np.uint64(1)] = share * q
            union += 1 - foreground
            remaining -= foreground
            end = last
            continue
        begin = last
        f = np.int64(value & np.uint64(1))
        while begin > 0 and (ordered[begin - 1] ^ value) <= _LOW:
            begin -= 1
            f += np.int64(ordered[begin] & np.uint64(1))
        b = end - begin - f
        q_f, q_b = tied_weights(np.float64(union), np.float64(remaining), np.float64(f), np.float64(b))
        loss += (q_f * f + q_b * b) * errors[last]
        for i in range(begin, end):
            value = ordered[i]
            weights[(value & _LOW) >> np.uint64(1)] = share * (q_f if value & np.uint64(1) else q_b)
        union += b
        remaining -= f
        end = begin
    return loss


@compiled
def weigh_groups(mode, labels, begin, end, totals, shares, keys, weights, losses, scratch):
    """From keys to weights, of groups ``begin`` to ``end``; the losses of these, not times the share.

    labels: ``Scores`` without logits; totals: (G,) foreground pixels; shares: (G,) in the average; keys: (G, errors)
    int32; weights: the same memory as float32, 0 for void pixels and groups without a share. Equal errors share their
    weight, so that the order of the pixels has no say. scratch: (2, errors) uint64.
    """
    images, classes, pixels = labels.shape
    together = 1 if labels.per_image else images
    gathered, other = scratch[0], scratch[1]
    counts = np.empty((ROUNDS, 1 << DIGIT), np.int32)
    for g in range(begin, end):
        n = 0
        if shares[g] != 0:
            image = g // classes if labels.per_image else 0
            n = _gather(labels, image, together, g % classes, keys[g], counts, gathered)
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
