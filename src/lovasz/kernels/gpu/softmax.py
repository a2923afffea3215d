"""Lovász-Softmax on the GPU: count the labels, count the errors per bin, write the gradient, each fused from logits.

A program takes some hundred pixels of one image with all their classes. Up to ``HELD_CLASSES`` classes it keeps their
exponentials in registers; beyond, it walks blocks of classes and reads the logits again, from the cache.
"""

import triton
import triton.language as tl

from lovasz.kernels.gpu.arithmetic import mirrored_place, slope, tally


@triton.jit
def count_labels(
    target, totals, image_stride, pixel_stride, pixels, void, HAS_VOID: tl.constexpr, PER_IMAGE: tl.constexpr,
    CLASSES: tl.constexpr, SLOTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """``totals`` (images or 1, CLASSES + 1): pixels of each class, then labels that are neither a class nor void."""
    image = tl.program_id(1)
    pixel = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    inside = pixel < pixels
    label = tl.load(target + image.to(tl.int64) * image_stride + pixel * pixel_stride, mask=inside, other=0).to(tl.int64)
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
def _labels(target, image, pixel, target_image, target_pixel, pixels, void, HAS_VOID: tl.constexpr, CLASSES: tl.constexpr):
    """The labels of some pixels, and which of them count; a label beyond the classes is reported elsewhere."""
    inside = pixel < pixels
    label = tl.load(target + image.to(tl.int64) * target_image + pixel * target_pixel, mask=inside, other=0).to(tl.int64)
    valid = inside & (label >= 0) & (label < CLASSES)
    if HAS_VOID:
        valid = valid & (label != void)
    return tl.where(valid, label, 0).to(tl.int32), valid


@triton.jit
def _walk(base, class_stride, label, valid, own, CLASSES: tl.constexpr, BLOCK: tl.constexpr):
    """Largest logit, and the sum of exp(logit - largest) over all classes but the label's."""
    highest = own
    others = tl.zeros_like(own)
    for first in range(0, CLASSES, BLOCK):
        class_ = first + tl.arange(0, BLOCK)[:, None]
        x = tl.load(base[None, :] + class_ * class_stride, mask=valid[None, :] & (class_ < CLASSES), other=-float("inf"))
        x = x.to(tl.float32)
        new = tl.maximum(highest, tl.max(x, 0))
        shift = tl.where(new == -float("inf"), 0.0, new)
        terms = tl.where(class_ == label[None, :], 0.0, tl.exp(x - shift[None, :]))
        others = others * tl.exp(highest - shift) + tl.sum(terms, 0)
        highest = new
    return highest, others


@triton.jit
def _hold(base, class_stride, valid, own, CLASSES: tl.constexpr):
    """Largest logit, and all logits."""
    highest = own
    held = ()
    for class_ in tl.static_range(CLASSES):
        x = tl.load(base + class_ * class_stride, mask=valid, other=0.0).to(tl.float32)
        highest = tl.maximum(highest, x)
        held = held + (x,)
    return highest, held


@triton.jit
def count_softmax(
    x, target, lut, tail, hist, status,
    image_stride, class_stride, pixel_stride, target_image, target_pixel, pixels, void, parts, part_size,
    HAS_VOID: tl.constexpr, PER_IMAGE: tl.constexpr, LARGE: tl.constexpr, HELD: tl.constexpr, CLASSES: tl.constexpr,
    CELLS: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """First pass: the bins of all errors. ``status`` is set to 1 by a logit that is not finite."""
    image = tl.program_id(1)
    tile = tl.program_id(0)
    pixel = tile * WIDTH + tl.arange(0, WIDTH)
    if LARGE:
        pixel = pixel.to(tl.int64)
        class_stride = tl.cast(class_stride, tl.int64)
    label, valid = _labels(target, image, pixel, target_image, target_pixel, pixels, void, HAS_VOID, CLASSES)
    base = x + image.to(tl.int64) * image_stride + pixel * pixel_stride
    part = (image.to(tl.int64) * tl.num_programs(0) + tile) * parts // (tl.num_programs(0) * tl.num_programs(1))
    hist = hist + part * part_size
    group = image * CLASSES if PER_IMAGE else 0
    own = tl.load(base + label * class_stride, mask=valid, other=0.0).to(tl.float32)
    if HELD:
        highest, held = _hold(base, class_stride, valid, own, CLASSES)
        exponentials = ()
        others = tl.zeros_like(own)
        for class_ in tl.static_range(CLASSES):
            e = tl.exp(held[class_] - highest)
            others += tl.where(label == class_, 0.0, e)
            exponentials = exponentials + (e,)
    else:
        highest, others = _walk(base, class_stride, label, valid, own, CLASSES, BLOCK)
    right = tl.exp(own - highest)
    total = others + right
    inverse = 1.0 / total
    place = mirrored_place(others * inverse, right * inverse)
    tally(place, valid, group + label, 1, label, lut, tail, hist, CELLS, BINS)
    # 0 * NaN: also where all logits are minus infinity, so that the total is 0.
    poisoned = tl.max((valid & ~(others * inverse >= 0)).to(tl.int32), 0)
    tl.atomic_max(status, poisoned, mask=poisoned > 0, sem="relaxed")
    if HELD:
        for class_ in tl.static_range(CLASSES):
            p = exponentials[class_] * inverse
            place = mirrored_place(p, 1.0 - p)
            tally(place, valid & (label != class_), group + class_, 0, class_, lut, tail, hist, CELLS, BINS)
    else:
        for first in range(0, CLASSES, BLOCK):
            class_ = first + tl.arange(0, BLOCK)[:, None]
            known = class_ < CLASSES
            counted = valid[None, :] & known & (class_ != label[None, :])
            logit = tl.load(base[None, :] + class_ * class_stride, mask=counted, other=0.0).to(tl.float32)
            p = tl.exp(logit - highest[None, :]) * inverse[None, :]
            place = mirrored_place(p, 1.0 - p)
            class_ = tl.where(known, class_, 0)
            tally(place, counted, group + class_, 0, class_, lut, tail, hist, CELLS, BINS)


@triton.jit
def gradient_softmax(
    x, target, lut, tail, table, flat, factor, out,
    image_stride, class_stride, pixel_stride, out_image, out_class, out_pixel, target_image, target_pixel, pixels, void,
    HAS_VOID: tl.constexpr, PER_IMAGE: tl.constexpr, LARGE: tl.constexpr, HELD: tl.constexpr, CLASSES: tl.constexpr,
    CELLS: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Second pass: the gradient at the logits times ``factor``, a number on the device.

    With q_c the weight of class c at this pixel and t its label, the gradient at logit c is ``p_c (q_c - sum_k!=t p_k
    q_k + p_t q_t)``, and at the label's ``-p_t ((1 - p_t) q_t + sum_k!=t p_k q_k)``.
    """
    image = tl.program_id(1)
    pixel = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    if LARGE:
        pixel = pixel.to(tl.int64)
        class_stride = tl.cast(class_stride, tl.int64)
        out_class = tl.cast(out_class, tl.int64)
    inside = pixel < pixels
    label, valid = _labels(target, image, pixel, target_image, target_pixel, pixels, void, HAS_VOID, CLASSES)
    base = x + image.to(tl.int64) * image_stride + pixel * pixel_stride
    out_base = out + image.to(tl.int64) * out_image + pixel * out_pixel
    group = image * CLASSES if PER_IMAGE else 0
    scale = tl.load(factor).to(tl.float32)
    own = tl.load(base + label * class_stride, mask=valid, other=0.0).to(tl.float32)
    mean = tl.zeros_like(own)
    if HELD:
        highest, held = _hold(base, class_stride, valid, own, CLASSES)
        exponentials = ()
        others = tl.zeros_like(own)
        for class_ in tl.static_range(CLASSES):
            e = tl.exp(held[class_] - highest)
            others += tl.where(label == class_, 0.0, e)
            exponentials = exponentials + (e,)
    else:
        highest, others = _walk(base, class_stride, label, valid, own, CLASSES, BLOCK)
    right = tl.exp(own - highest)
    inverse = 1.0 / (others + right)
    wrong = others * inverse
    right = right * inverse
    place = mirrored_place(wrong, right)
    q_own = slope(place, valid, group + label, 1, label, lut, tail, table, flat, CELLS, BINS)
    if HELD:
        slopes = ()
        for class_ in tl.static_range(CLASSES):
            p = exponentials[class_] * inverse
            place = mirrored_place(p, 1.0 - p)
            counted = valid & (label != class_)
            q = slope(place, counted, group + class_, 0, class_, lut, tail, table, flat, CELLS, BINS)
            mean += tl.where(counted, p * q, 0.0)
            slopes = slopes + (q,)
    else:
        for first in range(0, CLASSES, BLOCK):
            class_ = first + tl.arange(0, BLOCK)[:, None]
            counted = valid[None, :] & (class_ < CLASSES) & (class_ != label[None, :])
            logit = tl.load(base[None, :] + class_ * class_stride, mask=counted, other=0.0).to(tl.float32)
            p = tl.exp(logit - highest[None, :]) * inverse[None, :]
            place = mirrored_place(p, 1.0 - p)
            class_ = tl.where(class_ < CLASSES, class_, 0)
            q = slope(place, counted, group + class_, 0, class_, lut, tail, table, flat, CELLS, BINS)
            mean += tl.sum(tl.where(counted, p * q, 0.0), 0)
    at_label = -right * (wrong * q_own + mean) * scale
    mean = mean - right * q_own
    if HELD:
        for class_ in tl.static_range(CLASSES):
            p = exponentials[class_] * inverse
            gradient = tl.where(label == class_, at_label, p * (slopes[class_] - mean) * scale)
            gradient = tl.where(valid, gradient, 0.0)
            tl.store(out_base + class_ * out_class, gradient.to(out.dtype.element_ty), mask=inside)
    else:
        for first in range(0, CLASSES, BLOCK):
            class_ = first + tl.arange(0, BLOCK)[:, None]
            known = class_ < CLASSES
            counted = valid[None, :] & known & (class_ != label[None, :])
            logit = tl.load(base[None, :] + class_ * class_stride, mask=counted, other=0.0).to(tl.float32)
            p = tl.exp(logit - highest[None, :]) * inverse[None, :]
            place = mirrored_place(p, 1.0 - p)
            row = tl.where(known, class_, 0)
            q = slope(place, counted, group + row, 0, row, lut, tail, table, flat, CELLS, BINS)
            gradient = tl.where(counted, p * (q - mean[None, :]) * scale, at_label[None, :])
            gradient = tl.where(valid[None, :], gradient, 0.0)
            where = out_base[None, :] + class_ * out_class
            tl.store(where, gradient.to(out.dtype.element_ty), mask=inside[None, :] & known)
