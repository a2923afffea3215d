"""Scores that do not depend on one another (sigmoid, hinge, probabilities) on the GPU: count, write the gradient."""

# What Triton compiles is not quite Python: its loops, tuples and launches mean more.
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import triton
import triton.language as tl

from lovasz.kernels.gpu.arithmetic import COUNTED, mirrored_place, slope, tally, unbounded_place

SIGMOID, PROBABILITY, HINGE, ELU = (tl.constexpr(i) for i in range(4))


@triton.jit
def _where_am_i(tiles, CLASSES: tl.constexpr):
    """Class, tile and image of this program; the classes of one tile side by side, for scores that lie so."""
    program = tl.program_id(0)
    return program % CLASSES, program // CLASSES % tiles, program // CLASSES // tiles


@triton.jit
def _error_and_place(z, foreground, MODE: tl.constexpr):
    """Error, its place, and how steeply it follows the score, apart from the sign."""
    if MODE == SIGMOID:
        e = tl.exp(-tl.abs(z))
        large = 1.0 / (1.0 + e)
        small = e * large
        right = (z > 0) == foreground
        error = tl.where(right, small, large)
        complement = tl.where(right, large, small)
        return error, mirrored_place(error, complement), small * large
    elif MODE == PROBABILITY:
        error = tl.where(foreground, 1.0 - z, z)
        complement = tl.where(foreground, z, 1.0 - z)
        return error, mirrored_place(error, complement), tl.where(error == error, 1.0, error)
    else:
        margin = 1.0 - tl.where(foreground, z, -z)
        if MODE == HINGE:
            error = tl.where(margin <= 0, 0.0, margin)  # NaN stays
            steep = tl.where(error == error, (error > 0).to(tl.float32), error)
        else:
            error = tl.where(margin <= 0, tl.exp(tl.minimum(margin, 0.0)), margin + 1.0)
            steep = tl.where(error > 1.0, 1.0, error)
        return error, unbounded_place(error), steep


@triton.jit
def _truth(
    target, image, class_, pixel, target_image, target_class, target_pixel, inside, void,
    HAS_VOID: tl.constexpr, LABELLED: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Foreground, valid and wrongly labelled elements of one class of one image."""
    at = target + image.to(tl.int64) * target_image + class_.to(tl.int64) * target_class
    label = tl.load(at + pixel * target_pixel, mask=inside, other=0).to(tl.int64)
    valid = inside
    if HAS_VOID:
        valid = valid & (label != void)
    known = (label >= 0) & (label < (CLASSES if LABELLED else 2))
    foreground = (label == class_) if LABELLED else (label == 1)
    return foreground & valid, valid & known, valid & ~known


@triton.jit(do_not_specialize=COUNTED)
def count_elements(
    x, target, lut, hist, status, seen,
    image_stride, class_stride, pixel_stride, target_image, target_class, target_pixel, pixels, tiles, void,
    parts, part_size, size,
    HAS_VOID: tl.constexpr, LABELLED: tl.constexpr, PER_IMAGE: tl.constexpr, LARGE: tl.constexpr, MODE: tl.constexpr,
    CLASSES: tl.constexpr, CELLS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """First pass: the bins of all errors. ``seen`` (G, 2) receives foreground << 32 | background, and wrong labels."""
    class_, tile, image = _where_am_i(tiles, CLASSES)
    if LARGE:
        tile = tile.to(tl.int64)
    pixel = tile * WIDTH + tl.arange(0, WIDTH)
    inside = pixel < pixels
    foreground, valid, wrong = _truth(
        target, image, class_, pixel, target_image, target_class, target_pixel, inside, void,
        HAS_VOID, LABELLED, CLASSES,
    )  # fmt: skip
    base = x + image.to(tl.int64) * image_stride + class_.to(tl.int64) * class_stride
    z = tl.load(base + pixel * pixel_stride, mask=valid, other=0.0, eviction_policy="evict_first").to(tl.float32)
    error, place, _ = _error_and_place(z, foreground, MODE)
    part = tl.program_id(0).to(tl.int64) * parts // tl.num_programs(0)
    group = class_ + (image * CLASSES if PER_IMAGE else 0)
    tally(place, valid, group, foreground.to(tl.int32), class_, lut, hist + part * part_size, size, CELLS)
    strange = valid & (error - error != 0)
    tl.atomic_max(status + class_ + tl.zeros(place.shape, tl.int32), 1, mask=strange, sem="relaxed")
    if not LABELLED:
        both = tl.sum((valid & ~foreground).to(tl.int32) + (foreground.to(tl.int32) << 16), 0)
        number = (both & 0xFFFF).to(tl.int64) + ((both >> 16).to(tl.int64) << 32)
        tl.atomic_add(seen + group * 2, number, sem="relaxed")
        tl.atomic_add(
            seen + group * 2 + 1 + tl.zeros(place.shape, tl.int32), wrong.to(tl.int64), mask=wrong, sem="relaxed"
        )


@triton.jit(do_not_specialize=COUNTED)
def gradient_elements(
    x, target, lut, table, factor, out,
    image_stride, class_stride, pixel_stride, out_image, out_class, out_pixel,
    target_image, target_class, target_pixel, pixels, tiles, void, size,
    HAS_VOID: tl.constexpr, LABELLED: tl.constexpr, PER_IMAGE: tl.constexpr, LARGE: tl.constexpr, MODE: tl.constexpr,
    CLASSES: tl.constexpr, CELLS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Second pass: weight, sign and slope of each error times ``factor``, a number on the device, into ``out``."""
    class_, tile, image = _where_am_i(tiles, CLASSES)
    if LARGE:
        tile = tile.to(tl.int64)
    pixel = tile * WIDTH + tl.arange(0, WIDTH)
    inside = pixel < pixels
    foreground, valid, _ = _truth(
        target, image, class_, pixel, target_image, target_class, target_pixel, inside, void,
        HAS_VOID, LABELLED, CLASSES,
    )  # fmt: skip
    base = x + image.to(tl.int64) * image_stride + class_.to(tl.int64) * class_stride
    z = tl.load(base + pixel * pixel_stride, mask=valid, other=0.0, eviction_policy="evict_first").to(tl.float32)
    _, place, steep = _error_and_place(z, foreground, MODE)
    group = class_ + (image * CLASSES if PER_IMAGE else 0)
    q = slope(place, valid, group, foreground.to(tl.int32), class_, lut, table, size, CELLS)
    gradient = tl.where(foreground, -q, q) * steep * tl.load(factor).to(tl.float32)
    gradient = tl.where(valid, gradient, 0.0)
    out_base = out + image.to(tl.int64) * out_image + class_.to(tl.int64) * out_class
    tl.store(
        out_base + pixel * out_pixel, gradient.to(out.dtype.element_ty), mask=inside, eviction_policy="evict_first"
    )
