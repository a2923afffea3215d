"""The losses for arrays of any framework: the errors, their weights by a sort or by bins, and the average over classes.

The loss is ``sum m_i g_i`` with the weights g held constant: g is its gradient in m, so that every framework's own
differentiation through the errors is the right one, and nothing needs a rule of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lovasz.choices import Method
from lovasz.ports import bins
from lovasz.ports.arguments import SLACK
from lovasz.ports.arrays import Arrays
from lovasz.ports.bins import Whole

_STEP = 1024  # pixels that are added up before others join


@dataclass(frozen=True)
class Problem:
    """One loss, apart from its arrays; as `lovasz.problem.Problem`.

    Attributes:
        errors: "softmax" (from logits), "sigmoid" (from logits), "probability", "hinge" or "elu".
        labelled: the target holds class indices (N, S), else 0 and 1 per score (N, S, C).
        per_image: groups are (image, class), else classes.
        void: void label or None.
        method: "binned" or "exact".
        only_present: average over groups with foreground.
        chosen: average over these classes, None for all.
        weight: class weights or None.
    """

    errors: str
    labelled: bool
    per_image: bool
    void: int | None
    method: Method
    only_present: bool = False
    chosen: tuple[int, ...] | None = None
    weight: tuple[float, ...] | None = None


def losses(arrays: Arrays, input: Any, target: Any, problem: Problem, pixel_weight: Any = None) -> Any:
    """The losses of the images, (N,), or the one of the batch, (1,).

    Args:
        arrays: the framework's operations.
        input: (N, S, C) scores.
        target: (N, S) labels or (N, S, C) masks, integers.
        problem: what is asked.
        pixel_weight: None, or as how many pixels each pixel counts: float32, (N, S) with labels and (N, S, 1) with
            masks; not negative. 0 is void.

    Returns:
        float64 for float64 input, else float32. A label beyond the classes, a value outside [0, 1] that should be a
        probability, or a negative weight makes the result NaN: compiled code cannot raise.
    """
    images, _, classes = arrays.static_shape(input)
    assert classes is not None  # checked before
    sound, valid = _labels_are_sound(arrays, target, classes if problem.labelled else 2, problem.void), None
    if problem.void is not None:
        valid = target != problem.void
    if pixel_weight is not None:
        unfit = arrays.any(~((pixel_weight >= 0) & (pixel_weight < float("inf"))))
        if arrays.holds(unfit):
            raise ValueError(
                "sample_weight holds a number that is negative, infinite or NaN; a pixel counts 0 (not at all) or more"
            )
        sound = sound & ~unfit
        valid = pixel_weight > 0 if valid is None else valid & (pixel_weight > 0)
    counts = None if pixel_weight is None else bins.whole_parts(arrays, pixel_weight, problem.per_image)
    if problem.labelled:
        labels = arrays.cast(arrays.arange(classes), arrays.dtype(target))
        foreground = arrays.expand(target, 2) == labels  # (N, S, C)
        valid = None if valid is None else arrays.expand(valid, 2)  # (N, S, 1)
        counts = None if counts is None else counts.map(lambda part: arrays.expand(part, 2))  # (N, S, 1)
    else:
        foreground = target == 1
    dtype = "float64" if arrays.dtype(input) == "float64" else "float32"
    scores = arrays.cast(input, dtype)
    if valid is not None:
        foreground = foreground & valid
        scores = arrays.where(valid, scores, 0.0)  # void pixels are not even read: they may hold NaN
    if problem.errors == "probability":
        sound = sound & _are_probabilities(arrays, scores, arrays.dtype(input))
    errors, complement = _errors(arrays, scores, foreground, problem.errors)

    fixed, complement = arrays.constant_of(errors), arrays.constant_of(complement)
    if problem.method == "exact":
        slopes, totals = _by_sort(arrays, fixed, foreground, valid, problem.per_image, counts)
    else:
        elements = _product(arrays.static_shape(input))
        groups = classes * (bins.UNKNOWN_IMAGES if images is None else images) if problem.per_image else classes
        layout = bins.layout(problem.errors, groups, elements)
        places = bins.bin_of(arrays, arrays.cast(fixed, "float32"), arrays.cast(complement, "float32"), layout)
        slopes, totals = _by_bins(arrays, places, foreground, valid, problem.per_image, layout.size, counts)
    shares = _shares(arrays, arrays.reshape(totals, (-1, classes)), problem, dtype)  # (R, C)
    # A class left out must not turn the sum into NaN: 0 * NaN is NaN.
    counted = arrays.expand(shares > 0, 1)  # (R, 1, C)
    counted = counted if valid is None else counted & valid
    terms = arrays.where(counted, errors, 0.0) * arrays.cast(arrays.constant_of(slopes), dtype)
    by_class = _sum_over_pixels(arrays, terms)  # (N, C)
    if not problem.per_image:
        by_class = arrays.sum(by_class, 0, keepdims=True)  # (1, C)
    shares = arrays.constant_of(arrays.where(sound, shares, float("nan")))
    return arrays.sum(by_class * arrays.cast(shares, dtype), 1)  # (R,)


def _sum_over_pixels(arrays: Arrays, terms: Any) -> Any:
    """(N, C) from (N, S, C), in steps: TensorFlow on the CPU adds up in one float32, which loses digits."""
    _, pixels, classes = arrays.static_shape(terms)
    if pixels is not None and pixels <= _STEP:
        return arrays.sum(terms, 1)
    images, count, _ = arrays.shape(terms)
    whole = count - count % _STEP
    steps = arrays.reshape(terms[:, :whole], (images, whole // _STEP, _STEP, classes))
    total = arrays.sum(arrays.sum(steps, 2), 1)
    return total if pixels is not None and pixels % _STEP == 0 else total + arrays.sum(terms[:, whole:], 1)


def _product(sizes: tuple[int | None, ...]) -> int | None:
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def _labels_are_sound(arrays: Arrays, target: Any, classes: int, void: int | None) -> Any:
    """Whether every label is a class or void."""
    stray = (target < 0) | (target >= classes)
    return ~arrays.any(stray if void is None else stray & (target != void))


def _are_probabilities(arrays: Arrays, scores: Any, dtype: str) -> Any:
    """Whether no value lies outside [0, 1] beyond a rounding or two; NaN passes and propagates."""
    slack = SLACK.get(dtype, 0.0)
    return ~arrays.any((scores < -slack) | (scores > 1 + slack))


def _errors(arrays: Arrays, scores: Any, foreground: Any, kind: str) -> tuple[Any, Any]:
    """Errors, and what they lack to 1 (for the hinge, which has no upper end, the errors again)."""
    if kind in ("hinge", "elu"):
        margins = 1 - arrays.where(foreground, scores, -scores)
        positive = margins > 0
        errors = arrays.where(positive, margins, 0.0)
        if kind == "elu":
            errors = arrays.where(positive, margins + 1, arrays.exp(arrays.where(positive, 0.0, margins)))
        return errors, errors
    if kind == "sigmoid":
        signed = arrays.where(foreground, scores, -scores)
        return arrays.sigmoid(-signed), arrays.sigmoid(signed)
    probabilities = arrays.softmax(scores) if kind == "softmax" else scores
    rest = 1 - probabilities
    return arrays.where(foreground, rest, probabilities), arrays.where(foreground, probabilities, rest)


def _by_sort(
    arrays: Arrays, errors: Any, foreground: Any, valid: Any, per_image: bool, counts: Whole | None
) -> tuple[Any, Any]:
    """Weights (N, S, C) by the definition, and the foreground of each group (G,).

    Walked by decreasing errors, with n the foreground of the group, and k foreground and j background before pixel i::

        g_i = w_i / (n + j)                          foreground
        g_i = w_i (n - k) / ((n + j) (n + j + w_i))  background
        n = 0: 1 for the first pixel, 0 for the rest

    where w_i = 1 unless pixels have weights of their own.
    """
    images, pixels, classes = arrays.shape(errors)
    axes = (0, 2, 1) if per_image else (2, 0, 1)

    def rows(x: Any) -> Any:
        return arrays.reshape(arrays.transpose(x, axes), (classes * (images if per_image else 1), -1))  # (G, P)

    dtype = arrays.dtype(errors)
    order_by = errors if valid is None else arrays.where(valid, errors, -1.0)  # void pixels last
    order_by = rows(order_by)
    order = arrays.descending(order_by)
    groups, length = arrays.shape(order_by)
    index = order + length * arrays.reshape(arrays.arange(groups), (-1, 1))  # (G, P) into the flat rows
    ones = arrays.ones_like(errors, "int32")
    if valid is not None:
        ones = ones * arrays.cast(valid, "int32")
    counts = Whole([ones]) if counts is None else counts.map(lambda part: ones * part)
    counts = counts.map(lambda part: arrays.take(arrays.reshape(rows(part), (-1,)), index))
    is_foreground = arrays.take(arrays.reshape(rows(foreground), (-1,)), index)
    f = counts.map(lambda part: arrays.where(is_foreground, part, part - part))
    b = counts.map(lambda part: arrays.where(is_foreground, part - part, part))
    n, union, remaining = bins.walk(arrays, b, f, dtype)
    own = counts.value(arrays, dtype)
    first = (n == 0) & (union == 0) & ~is_foreground & (own > 0)
    a = arrays.where(union > 0, union, 1.0)
    weights = own * arrays.where(is_foreground, 1 / a, remaining / a / (a + own))
    weights = arrays.where(n == 0, arrays.cast(first, dtype), weights)
    placed = arrays.add_up(arrays.reshape(weights, (-1,)), arrays.reshape(index, (-1,)), groups * length)
    if per_image:
        return arrays.transpose(arrays.reshape(placed, (images, classes, pixels)), (0, 2, 1)), n
    return arrays.transpose(arrays.reshape(placed, (classes, images, pixels)), (1, 2, 0)), n


def _by_bins(
    arrays: Arrays, places: Any, foreground: Any, valid: Any, per_image: bool, size: int, counts: Whole | None
) -> tuple[Any, Any]:
    """Weights (N, S, C) by bins, and the foreground of each group (G,): count, run through the bins, look up."""
    images, _, classes = arrays.shape(places)
    groups, group = classes, arrays.arange(classes)  # (C,)
    if per_image:
        group = group + classes * arrays.reshape(arrays.arange(images), (-1, 1, 1))  # (N, 1, C)
        groups = classes * images
    slot = (group * 2 + arrays.cast(foreground, "int32")) * size + places  # (N, S, C)
    if valid is not None:
        slot = arrays.where(valid, slot, groups * 2 * size)  # void pixels beside all bins

    def histogram(part: Any) -> Any:  # (G, 2, K)
        values = None if part is None else arrays.reshape(part * arrays.ones_like(places, "int32"), (-1,))
        summed = arrays.add_up(values, arrays.reshape(slot, (-1,)), groups * 2 * size + 1)
        return arrays.reshape(summed[:-1], (groups, 2, size))

    binned = (Whole([None]) if counts is None else counts).map(histogram)
    of_background, of_foreground = binned.map(lambda part: part[:, 0]), binned.map(lambda part: part[:, 1])  # (G, K)
    table = arrays.reshape(bins.weights(arrays, of_background, of_foreground), (-1,))
    # Added into a new array, which also has the void's 0: a compiler would fold the formula of a table that is merely
    # joined into the look-up, and compute it for every pixel.
    table = arrays.add_up(table, arrays.arange(groups * 2 * size), groups * 2 * size + 1)
    slopes = arrays.take(table, slot)
    if counts is not None:
        slopes = slopes * counts.value(arrays, "float32")
    return slopes, of_foreground.map(lambda part: arrays.sum(part, 1)).value(arrays, "float32")


def _shares(arrays: Arrays, foreground: Any, problem: Problem, dtype: str) -> Any:
    """Share of each class in its image's or the batch's loss: the weighted mean over the counted classes (Eq. 13).

    Args:
        foreground: (R, C) foreground of each group.

    Returns:
        (R, C) of that dtype; a row without any counted class is 0.
    """
    weight = problem.weight or (1.0,) * (arrays.static_shape(foreground)[1] or 1)
    if problem.chosen is not None:
        weight = tuple(w if c in problem.chosen else 0.0 for c, w in enumerate(weight))
    share = arrays.constant(weight, dtype) * arrays.ones_like(foreground, dtype)
    if problem.only_present:
        share = arrays.where(foreground > 0, share, 0.0)
    total = arrays.sum(share, 1, keepdims=True)
    return share / arrays.where(total > 0, total, 1.0)
