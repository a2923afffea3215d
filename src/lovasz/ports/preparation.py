"""From the arguments of a public loss to what `lovasz.ports.losses` takes: checked, and reshaped to (N, S, C)."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np

from lovasz.choices import (
    ACTIVATIONS,
    METHODS,
    SMALL,
    Activation,
    Classes,
    Method,
    require_choice,
    resolve_classes,
)
from lovasz.ports import arguments
from lovasz.ports.arrays import Arrays
from lovasz.ports.losses import Problem

Prepared = tuple[Any, Any, Problem]


def softmax(
    arrays: Arrays,
    input: Any,
    target: Any,
    *,
    from_logits: bool,
    classes: Classes,
    per_image: bool,
    void: SupportsIndex | None,
    weight: Any,
    axis: int,
    method: Method,
    void_name: str = "ignore_index",
) -> Prepared:
    """The arguments of a Lovász-Softmax loss as (N, S, C) scores, (N, S) labels and the problem."""
    void = arguments.void_label(void_name, void)
    input, target = _arrays(arrays, input, target, method, per_image=per_image, from_logits=from_logits)
    shape = arrays.static_shape(input)
    place = arguments.check_multiclass_shapes(shape, arrays.static_shape(target), axis, per_image)
    channels = shape[place] or 0
    only_present, chosen = resolve_classes(classes, channels)
    weight = arguments.resolve_weight(weight, channels)
    _check_labels(arrays, target, channels, void, void_name)
    sizes = arrays.shape(input)
    target = _where_sizes_agree(arrays, target, sizes[:place] + sizes[place + 1 :], void)
    images = 1 if len(shape) == 2 else sizes[0]
    input, target = _channels_last(arrays, input, place, images, channels), arrays.reshape(target, (images, -1))
    if not from_logits:
        _check_probabilities(arrays, input, arrays.expand(target, 2), void)
    problem = Problem(
        errors="softmax" if from_logits else "probability",
        labelled=True,
        per_image=per_image,
        void=void,
        method=_method(method, shape),
        only_present=only_present,
        chosen=chosen,
        weight=weight,
    )
    return input, target, problem


def hinge(
    arrays: Arrays,
    input: Any,
    target: Any,
    *,
    per_image: bool,
    void: SupportsIndex | None,
    activation: Activation,
    axis: int,
    method: Method,
    void_name: str = "ignore_index",
) -> Prepared:
    """The arguments of a Lovász hinge loss as (N, S, 1) scores and masks, and the problem."""
    require_choice("activation", activation, ACTIVATIONS)
    void = arguments.void_label(void_name, void)
    input, target = _arrays(arrays, input, target, method, per_image=per_image)
    input, target, shape = _binary(arrays, input, target, axis, per_image, void)
    _check_labels(arrays, target, 2, void, void_name)
    errors = "hinge" if activation == "relu" else "elu"
    return input, target, Problem(errors, False, per_image, void, _method(method, shape))


def sigmoid(
    arrays: Arrays,
    input: Any,
    target: Any,
    *,
    from_logits: bool,
    multilabel: bool,
    classes: Classes,
    per_image: bool,
    void: SupportsIndex | None,
    weight: Any,
    axis: int,
    method: Method,
    void_name: str = "ignore_index",
) -> Prepared:
    """The arguments of a Lovász-sigmoid loss as (N, S, C) scores and masks, and the problem."""
    arguments.require_flags(multilabel=multilabel)
    void = arguments.void_label(void_name, void)
    input, target = _arrays(arrays, input, target, method, per_image=per_image, from_logits=from_logits)
    only_present, chosen = False, None
    if multilabel:
        shape = arrays.static_shape(input)
        place = arguments.check_multilabel_shapes(shape, arrays.static_shape(target), axis, per_image)
        channels = shape[place] or 0
        only_present, chosen = resolve_classes(classes, channels)
        weight = arguments.resolve_weight(weight, channels)
        target = _where_sizes_agree(arrays, target, arrays.shape(input), void)
        images = 1 if len(shape) == 2 else arrays.shape(input)[0]
        input, target = (_channels_last(arrays, x, place, images, channels) for x in (input, target))
    else:
        if weight is not None or not (isinstance(classes, str) and classes == "present"):
            raise TypeError("classes and weight belong to multilabel=True; a binary input has one class")
        input, target, shape = _binary(arrays, input, target, axis, per_image, void)
    _check_labels(arrays, target, 2, void, void_name)
    if not from_logits:
        _check_probabilities(arrays, input, target, void)
    problem = Problem(
        errors="sigmoid" if from_logits else "probability",
        labelled=False,
        per_image=per_image,
        void=void,
        method=_method(method, shape),
        only_present=only_present,
        chosen=chosen,
        weight=weight,
    )
    return input, target, problem


def _arrays(arrays: Arrays, input: Any, target: Any, method: Method, **flags: bool) -> tuple[Any, Any]:
    """Both as arrays of the framework: scores of a floating dtype, labels of int32 or int64."""
    require_choice("method", method, METHODS)
    arguments.require_flags(**flags)
    for name, value in (("input", input), ("target", target)):
        if value is None:
            raise TypeError(f"{name} must be an array, got None")
    input, target = arrays.array(input), arrays.array(target)
    arguments.require_float("input", arrays.dtype(input))
    arguments.require_labels("target", arrays.dtype(target))
    if arrays.dtype(target) in ("uint32", "uint64"):  # the largest would wrap around to a negative void label
        target = arrays.minimum(target, 2**31 - 1)
    if arrays.dtype(target) not in ("int32", "int64"):  # in uint8, -1 would equal 255
        target = arrays.cast(target, "int32")
    return input, target


def _method(method: Method, shape: arguments.Shape) -> Method:
    size = 1
    for length in shape:
        if length is None:
            return method
        size *= length
    return "exact" if size <= SMALL else method


def _binary(
    arrays: Arrays, input: Any, target: Any, axis: int, per_image: bool, void: int | None
) -> tuple[Any, Any, arguments.Shape]:
    """(N, S, 1) scores and masks, and the shape that came."""
    shape = arrays.static_shape(input)
    arguments.check_binary_shapes(shape, arrays.static_shape(target), axis, per_image)
    sizes = arrays.shape(input)
    if len(arrays.static_shape(target)) < len(shape):  # the target has dropped the single channel
        place = arguments.resolve_axis(axis, shape, "(N, *spatial, 1)")
        target = _where_sizes_agree(arrays, target, sizes[:place] + sizes[place + 1 :], void)
    else:
        target = _where_sizes_agree(arrays, target, sizes, void)
    images = 1 if len(shape) == 1 else sizes[0]
    return arrays.reshape(input, (images, -1, 1)), arrays.reshape(target, (images, -1, 1)), shape


def _where_sizes_agree(arrays: Arrays, target: Any, sizes: tuple[Any, ...], void: int | None) -> Any:
    """The target, or labels of no class where sizes that only the compiled function knows are not the input's.

    Such labels make the loss NaN. Compiled code cannot raise, and a target of other sizes may fit all the same; where
    it does not, TensorFlow may raise before the loss has a value.
    """
    agree = None
    for own, wanted in zip(arrays.shape(target), sizes, strict=True):
        if isinstance(own, int) and isinstance(wanted, int):
            continue  # checked already
        same = own == wanted
        agree = same if agree is None else agree & same
    if agree is None:
        return target
    if isinstance(agree, bool):  # JAX's symbols are equal or not while tracing
        if not agree:
            raise ValueError(f"target must have shape {sizes} to match input, got {arrays.shape(target)}")
        return target
    stray = -(2**31) + (void == -(2**31))
    return arrays.where(agree, target, arrays.cast(arrays.constant(stray, "int32"), arrays.dtype(target)))


def _channels_last(arrays: Arrays, x: Any, place: int, images: Any, channels: int) -> Any:
    """(N, S, C)."""
    axes = len(arrays.static_shape(x))
    if place != axes - 1:
        x = arrays.transpose(x, (*(a for a in range(axes) if a != place), place))
    return arrays.reshape(x, (images, -1, channels))


def _check_labels(arrays: Arrays, target: Any, classes: int, void: int | None, void_name: str) -> None:
    """Raise ValueError for a stray label, where labels have values already."""
    stray = (target < 0) | (target >= classes)
    if void is not None:
        stray = stray & (target != void)
    if arrays.holds(arrays.any(stray)):
        label = int(np.asarray(target)[np.asarray(stray)][0])
        raise ValueError(arguments.label_message(label, classes, void_name))


def _check_probabilities(arrays: Arrays, input: Any, target: Any, void: int | None) -> None:
    """Raise ValueError for values outside [0, 1] of (N, S, C) scores, where they have values already.

    target: (N, S, C) or (N, S, 1); where it is void anything passes.
    """
    slack = arguments.SLACK.get(arrays.dtype(input), 0.0)
    stray = (input < -slack) | (input > 1 + slack)
    if void is not None:
        stray = stray & (target != void)
    if arrays.holds(arrays.any(stray)):
        raise ValueError(
            "input holds values outside [0, 1] though from_logits=False promises probabilities; "
            "pass logits with from_logits=True, or apply softmax or sigmoid first"
        )
