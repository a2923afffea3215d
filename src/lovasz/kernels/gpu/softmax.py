"""Lovász-Softmax on the GPU: count the labels, count the errors per bin, write the gradient, each fused from logits.

A program takes some hundred pixels of one image with all their classes, one pixel to a thread: then no value ever moves
between threads. Few classes' exponentials are held in registers (``HELD``: one block of all classes); many classes are
walked block by block, and their logits read again from the cache.
"""

# What Triton compiles is not quite Python: its loops, tuples and launches mean more.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportPossiblyUnboundVariable=false

import triton
import triton.language as tl

from lovasz.kernels.gpu.arithmetic import COUNTED, exp_of, mirrored_place, slope, tally


@triton.jit(do_not_specialize=COUNTED)
def count_labels(
    target, totals, image_stride, pixel_stride, pixels, tiles, void, HAS_VOID: tl.constexpr, PER_IMAGE: tl.constexpr,
    CLASSES: tl.constexpr, SLOTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """``totals`` (images or 1, CLASSES + 1): pixels of each class, then labels that are neither a class nor void."""
    image, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    pixel = tile.to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
    inside = pixel < pixels
    label = tl.load(target + image.to(tl.int64) * image_stride + pixel * pixel_stride, mask=inside, other=0).to(
        tl.int64
    )
    slot = tl.where((label >= 0) & (label < CLASSES), label, CLASSES).to(tl.int32)
    skipped = ~inside
    if HAS_VOID:
        skipped = skipped | (label == void)
    found = tl.histogram(tl.where(skipped, CLASSES + 1, slot), SLOTS)
    row = image if PER_IMAGE else 0
    each = tl.arange(0, SLOTS)
    wanted = (each <= CLASSES) & (found > 0)
    tl.atomic_add(totals + row * (CLASSES + 1) + each, found.to(tl.int64), mask=wanted, sem="relaxed")


@triton.jit
def _labels(
    target, image, pixel, target_image, target_pixel, pixels, void, HAS_VOID: tl.constexpr, CLASSES: tl.constexpr
):
    """The labels of some pixels, and which of them count; a label beyond the classes is reported elsewhere."""
    inside = pixel < pixels
    label = tl.load(target + image.to(tl.int64) * target_image + pixel * target_pixel, mask=inside, other=0).to(
        tl.int64
    )
    valid = inside & (label >= 0) & (label < CLASSES)
    if HAS_VOID:
        valid = valid & (label != void)
    return tl.where(valid, label, 0).to(tl.int32), valid


@triton.jit
def _within(mask, class_, CLASSES: tl.constexpr, BLOCK: tl.constexpr):
    """The mask where there is such a class: the last block may reach beyond."""
    if CLASSES % BLOCK == 0:
        return mask
    else:
        return mask & (tl.zeros([1], tl.int32) + class_ < CLASSES)


@triton.jit
def _logits(base, class_stride, first, counted, KEEP: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr):
    """The logits of the classes ``first`` to ``first + BLOCK``, minus infinity beyond the last.

    KEEP: whether they are read again; those that are not make room in the cache for the tables.
    """
    block = ()
    for i in tl.static_range(BLOCK):
        known = _within(counted, first + i, CLASSES, BLOCK)
        x = tl.load(
            base + (first + i) * class_stride, mask=known, other=-float("inf"),
            eviction_policy="" if KEEP else "evict_first",
        )  # fmt: skip
        block = block + (x.to(tl.float32),)
    return block


@triton.jit
def _add(block, first, label, highest, others, HELD: tl.constexpr, BLOCK: tl.constexpr):
    """Largest logit so far, and the sum of exp(logit - largest) over all classes so far but the label's."""
    new = highest
    for i in tl.static_range(BLOCK):
        new = tl.maximum(new, block[i])
    shift = tl.where(new == -float("inf"), 0.0, new)
    others = others * exp_of(highest, shift, HELD)
    for i in tl.static_range(BLOCK):
        others += tl.where(label == first + i, 0.0, exp_of(block[i], shift, HELD))
    return new, others


@triton.jit
def _probabilities(block, shift, inverse, HELD: tl.constexpr, BLOCK: tl.constexpr):
    """The softmax of a block of logits."""
    result = ()
    for i in tl.static_range(BLOCK):
        result = result + (exp_of(block[i], shift, HELD) * inverse,)
    return result


@triton.jit
def _tally_block(
    p, first, label, valid, group, lut, hist, size,
    CLASSES: tl.constexpr, CELLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Count the background errors of a block of classes."""
    for i in tl.static_range(BLOCK):
        class_ = first + i
        counted = _within(valid & (label != class_), class_, CLASSES, BLOCK)
        if CLASSES % BLOCK != 0:
            class_ = tl.minimum(class_, CLASSES - 1)
        tally(mirrored_place(p[i], 1.0 - p[i]), counted, group + class_, 0, class_, lut, hist, size, CELLS)


@triton.jit
def _slopes(
    p, first, label, valid, group, lut, table, size,
    CLASSES: tl.constexpr, CELLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The weights of the background errors of a block of classes."""
    result = ()
    for i in tl.static_range(BLOCK):
        class_ = first + i
        counted = _within(valid & (label != class_), class_, CLASSES, BLOCK)
        if CLASSES % BLOCK != 0:
            class_ = tl.minimum(class_, CLASSES - 1)
        place = mirrored_place(p[i], 1.0 - p[i])
        result = result + (slope(place, counted, group + class_, 0, class_, lut, table, size, CELLS),)
    return result


@triton.jit
def _write(
    p, q, first, label, valid, inside, mean, at_label, scale, out_base, out_class,
    CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient at a block of logits; 0 at void pixels, which are written too."""
    for i in tl.static_range(BLOCK):
        gradient = tl.where(label == first + i, at_label, p[i] * (q[i] - mean) * scale)
        gradient = tl.where(valid, gradient, 0.0).to(out_base.dtype.element_ty)
        there = _within(inside, first + i, CLASSES, BLOCK)
        tl.store(out_base + (first + i) * out_class, gradient, mask=there, eviction_policy="evict_first")


@triton.jit(do_not_specialize=COUNTED)
def count_softmax(
    x, target, lut, hist, status,
    image_stride, class_stride, pixel_stride, target_image, target_pixel, pixels, tiles, void, parts, part_size, size,
    HAS_VOID: tl.constexpr, PER_IMAGE: tl.constexpr, LARGE: tl.constexpr, HELD: tl.constexpr, CLASSES: tl.constexpr,
    CELLS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """First pass: the bins of all errors. ``status`` is set to 1 by a pixel whose softmax is NaN."""
    image, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    if LARGE:
        tile = tile.to(tl.int64)
        class_stride = tl.cast(class_stride, tl.int64)
    pixel = tile * WIDTH + tl.arange(0, WIDTH)
    label, valid = _labels(target, image, pixel, target_image, target_pixel, pixels, void, HAS_VOID, CLASSES)
    base = x + image.to(tl.int64) * image_stride + pixel * pixel_stride
    hist = hist + tl.program_id(0).to(tl.int64) * parts // tl.num_programs(0) * part_size
    group = image * CLASSES if PER_IMAGE else 0
    own = tl.load(base + label * class_stride, mask=valid, other=0.0).to(tl.float32)
    highest, others = own, tl.zeros_like(own)
    if HELD:
        block = _logits(base, class_stride, 0, valid, False, CLASSES, BLOCK)
        highest, others = _add(block, 0, label, highest, others, HELD, BLOCK)
    else:
        for first in range(0, CLASSES, BLOCK):
            block = _logits(base, class_stride, first, valid, True, CLASSES, BLOCK)
            highest, others = _add(block, first, label, highest, others, HELD, BLOCK)
    shift = tl.where(highest == -float("inf"), 0.0, highest)
    right = exp_of(own, shift, HELD)
    inverse = 1.0 / (others + right)
    wrong = others * inverse  # NaN also where all logits are minus infinity: 0 / 0
    place = mirrored_place(wrong, right * inverse)
    tally(place, valid, group + label, 1, label, lut, hist, size, CELLS)
    tl.atomic_max(status + tl.zeros_like(label), 1, mask=valid & ~(wrong >= 0), sem="relaxed")
    if HELD:
        p = _probabilities(block, shift, inverse, HELD, BLOCK)
        _tally_block(p, 0, label, valid, group, lut, hist, size, CLASSES, CELLS, BLOCK)
    else:
        for first in range(0, CLASSES, BLOCK):
            again = _logits(base, class_stride, first, valid, False, CLASSES, BLOCK)
            p = _probabilities(again, shift, inverse, HELD, BLOCK)
            _tally_block(p, first, label, valid, group, lut, hist, size, CLASSES, CELLS, BLOCK)


@triton.jit(do_not_specialize=COUNTED)
def gradient_softmax(
    x, target, lut, table, factor, out,
    image_stride, class_stride, pixel_stride, out_image, out_class, out_pixel, target_image, target_pixel,
    pixels, tiles, void, size,
    HAS_VOID: tl.constexpr, PER_IMAGE: tl.constexpr, LARGE: tl.constexpr, HELD: tl.constexpr, CLASSES: tl.constexpr,
    CELLS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Second pass: the gradient at the logits times ``factor``, a number on the device.

    With q_c the weight of class c at this pixel and t its label, the gradient at logit c is ``p_c (q_c - sum_k!=t p_k
    q_k + p_t q_t)``, and at the label's ``-p_t ((1 - p_t) q_t + sum_k!=t p_k q_k)``.
    """
    image, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    if LARGE:
        tile = tile.to(tl.int64)
        class_stride = tl.cast(class_stride, tl.int64)
        out_class = tl.cast(out_class, tl.int64)
    pixel = tile * WIDTH + tl.arange(0, WIDTH)
    inside = pixel < pixels
    label, valid = _labels(target, image, pixel, target_image, target_pixel, pixels, void, HAS_VOID, CLASSES)
    base = x + image.to(tl.int64) * image_stride + pixel * pixel_stride
    out_base = out + image.to(tl.int64) * out_image + pixel * out_pixel
    group = image * CLASSES if PER_IMAGE else 0
    scale = tl.load(factor).to(tl.float32)
    own = tl.load(base + label * class_stride, mask=valid, other=0.0).to(tl.float32)
    highest, others = own, tl.zeros_like(own)
    if HELD:
        block = _logits(base, class_stride, 0, valid, False, CLASSES, BLOCK)
        highest, others = _add(block, 0, label, highest, others, HELD, BLOCK)
    else:
        for first in range(0, CLASSES, BLOCK):
            block = _logits(base, class_stride, first, valid, True, CLASSES, BLOCK)
            highest, others = _add(block, first, label, highest, others, HELD, BLOCK)
    shift = tl.where(highest == -float("inf"), 0.0, highest)
    right = exp_of(own, shift, HELD)
    inverse = 1.0 / (others + right)
    wrong = others * inverse
    right = right * inverse
    place = mirrored_place(wrong, right)
    q_own = slope(place, valid, group + label, 1, label, lut, table, size, CELLS)
    mean = tl.zeros_like(own)
    if HELD:
        p = _probabilities(block, shift, inverse, HELD, BLOCK)
        q = _slopes(p, 0, label, valid, group, lut, table, size, CLASSES, CELLS, BLOCK)
        for i in tl.static_range(BLOCK):
            mean += p[i] * q[i]
    else:
        for first in range(0, CLASSES, BLOCK):
            again = _logits(base, class_stride, first, valid, True, CLASSES, BLOCK)
            p = _probabilities(again, shift, inverse, HELD, BLOCK)
            q = _slopes(p, first, label, valid, group, lut, table, size, CLASSES, CELLS, BLOCK)
            for i in tl.static_range(BLOCK):
                mean += p[i] * q[i]
    at_label = -right * (wrong * q_own + mean) * scale
    mean = mean - right * q_own
    if HELD:
        _write(p, q, 0, label, valid, inside, mean, at_label, scale, out_base, out_class, CLASSES, BLOCK)
    else:
        for first in range(0, CLASSES, BLOCK):
            again = _logits(base, class_stride, first, valid, False, CLASSES, BLOCK)
            p = _probabilities(again, shift, inverse, HELD, BLOCK)
            q = _slopes(p, first, label, valid, group, lut, table, size, CLASSES, CELLS, BLOCK)
            _write(p, q, first, label, valid, inside, mean, at_label, scale, out_base, out_class, CLASSES, BLOCK)
