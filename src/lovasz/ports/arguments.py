"""Every check of the ports' arguments and its message, on shapes, names and Python numbers alone.

Apart from `lovasz.validation`, which says the same of torch tensors. Sizes are None where a compiled function does not
know them yet; what cannot be known is not refused.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from lovasz.choices import ACTIVATIONS, METHODS, plain_classes, require_choice, unordered

Shape = tuple[int | None, ...]
Weights = Sequence[float] | np.ndarray  # of classes

# Interpolated probabilities leave [0, 1] by a rounding or two: eight units in the last place of each dtype.
SLACK = {"bfloat16": 2.0**-4, "float16": 2.0**-7, "float32": 2.0**-20, "float64": 2.0**-49}


def same(a: Shape, b: Shape) -> bool:
    """Whether two shapes can be equal."""
    return len(a) == len(b) and all(x is None or y is None or x == y for x, y in zip(a, b, strict=True))


def require_float(name: str, dtype: str) -> None:
    """Raise TypeError unless the dtype is a floating one."""
    if "float" not in dtype:
        raise TypeError(f"{name} must be floating-point, got {dtype}; cast it to float32")


def require_labels(name: str, dtype: str) -> None:
    """Raise TypeError unless the dtype holds integers or booleans."""
    if not dtype.startswith(("int", "uint", "bool")):
        raise TypeError(f"{name} must hold integer labels, got {dtype}; cast it to int32")


def require_flags(**flags: Any) -> None:
    """Raise TypeError unless each is a bool or numpy.bool_; a traced value would otherwise fail without a name."""
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def void_label(name: str, value: Any) -> int | None:
    """The void label as an int or None; raise unless it is an integer of 32 bits, NumPy's included."""
    if value is None:
        return None
    try:
        label = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        label = None
    if label is None:
        raise TypeError(f"{name} must be an integer or None, got {value!r}")
    if not -(2**31) <= label < 2**31:
        raise ValueError(f"{name} must fit into 32 bits, got {label}")
    return label


def resolve_axis(axis: Any, shape: Shape, expected: str) -> int:
    """The channel axis counted from 0."""
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise TypeError(f"axis must be an integer, got {axis!r}")
    if len(shape) < 2:
        raise ValueError(f"input must be {expected}, got shape {shape}")
    if not -len(shape) <= axis < len(shape) or axis % len(shape) == 0:
        raise ValueError(
            f"axis={axis} is no channel axis of input {shape}: images come first, channels last (axis=-1) or second "
            "(axis=1)"
        )
    return axis % len(shape)


def check_multiclass_shapes(input: Shape, target: Shape, axis: int, per_image: bool) -> int:
    """Check ``(N, *spatial, C)`` or ``(P, C)`` against ``(N, *spatial)`` or ``(P,)``; the channel axis from 0."""
    place = resolve_axis(axis, input, "(N, *spatial, C) or (P, C)")
    expected = input[:place] + input[place + 1 :]
    if not same(target, expected):
        hint = ""
        if same(target, (*expected[:place], 1, *expected[place:])):
            hint = f"; drop the channel with squeeze(axis={axis})"
        elif same(target, input):
            hint = f"; class indices are expected, not one-hot: use argmax(axis={axis})"
        elif len(input) > 2 and place != 1 and same(target, (input[0], *input[2:])):
            hint = "; input looks channels-first, pass axis=1"
        elif len(input) > 2 and place == 1 and same(target, input[:-1]):
            hint = "; input looks channels-last, pass axis=-1"
        raise ValueError(f"target must have shape {expected} to match input {input}, got {target}{hint}")
    check_channels(input, place)
    if input[place] == 1:
        raise ValueError(
            f"input has one channel, shape {input}: a softmax over one class is constant; "
            "use lovasz_sigmoid or lovasz_hinge for foreground against background"
        )
    refuse_flat(input, per_image)
    return place


def check_multilabel_shapes(input: Shape, target: Shape, axis: int, per_image: bool) -> int:
    """Check ``(N, *spatial, C)`` or ``(P, C)`` for both arrays; the channel axis from 0."""
    place = resolve_axis(axis, input, "(N, *spatial, C) or (P, C) for multilabel=True")
    if not same(target, input):
        raise ValueError(
            f"target must have the shape of input {input} for multilabel=True, got {target}; "
            "each channel is its own 0/1 mask"
        )
    check_channels(input, place)
    refuse_flat(input, per_image)
    return place


def check_binary_shapes(input: Shape, target: Shape, axis: int, per_image: bool) -> None:
    """Check ``(P,)``, ``(N, *spatial)`` or ``(N, *spatial, 1)``; the target may drop or keep the single channel."""
    if not input:
        raise ValueError("input must be (N, *spatial), (N, *spatial, 1) or (P,), got a scalar")
    shapes = [input]
    place = resolve_axis(axis, input, "(N, *spatial, 1)") if len(input) > 2 else 0
    if place and input[place] == 1:
        shapes.insert(0, input[:place] + input[place + 1 :])
    if not any(same(target, shape) for shape in shapes):
        expected = " or ".join(map(str, shapes))
        raise ValueError(f"target must have shape {expected} to match input {input}, got {target}")
    require_not_empty(input)
    if per_image and len(input) == 2 and input[1] == 1 and input[0] not in (None, 1):
        raise ValueError(
            f"input {input} with per_image=True would be {input[0]} images of one pixel; for a flat list of pixels "
            "drop the last axis of input and target, or use per_image=False"
        )
    if len(input) >= 4 and input[place] != 1:
        raise ValueError(
            f"input {input} is ambiguous for a binary loss: for one label per channel use "
            "lovasz_sigmoid(..., multilabel=True), for volumes add a channel of size 1"
        )


def check_channels(input: Shape, place: int) -> None:
    """Raise ValueError for an empty input, or one whose number of classes is not known."""
    require_not_empty(input)
    if input[place] is None:
        raise ValueError(f"the number of classes is unknown, input {input}: set it with a static shape")


def require_not_empty(input: Shape) -> None:
    """Raise ValueError for an array without elements: there is no mean over nothing."""
    if 0 in input:
        raise ValueError(f"input is empty, shape {input}: a loss needs at least one pixel; skip empty batches")


def refuse_flat(input: Shape, per_image: bool) -> None:
    """Raise ValueError if pixels without images are to be averaged over images."""
    if per_image and len(input) == 2:
        raise ValueError(f"per_image=True needs images, but input is a flat list of pixels {input}")


def plain_options(void_name: str, options: dict[str, Any]) -> dict[str, Any]:
    """A loss's options when it is built, before any array is seen: checked, and as Python's own numbers and lists."""
    plain = dict(options)
    plain[void_name] = void_label(void_name, options[void_name])
    require_choice("method", options["method"], METHODS)
    if "activation" in options:
        require_choice("activation", options["activation"], ACTIVATIONS)
    flags = {name: options[name] for name in ("from_logits", "multilabel", "per_image") if name in options}
    require_flags(**flags)
    plain |= {name: bool(value) for name, value in flags.items()}
    if "classes" in options:
        chosen = plain_classes(options["classes"])
        plain["classes"] = chosen if isinstance(chosen, str) else list(chosen)
    if options.get("weight") is not None:
        plain["weight"] = list(plain_weight(options["weight"]) or ())
    return plain


def resolve_weight(weight: Any, num_classes: int) -> tuple[float, ...] | None:
    """Class weights as Python numbers: they are a setting of the loss, not something traced."""
    values = plain_weight(weight)
    if values is not None and len(values) != num_classes:
        raise ValueError(f"weight must have shape ({num_classes},), one weight per class, got ({len(values)},)")
    return values


def plain_weight(weight: Any) -> tuple[float, ...] | None:
    """Class weights as Python numbers, checked without knowing how many classes there are."""
    if weight is None:
        return None
    listed = weight
    with suppress(TypeError, RuntimeError, ValueError):  # of what NumPy cannot read: on a GPU, or traced
        array = np.asarray(weight)  # JAX traces what is taken out of its arrays, even of those with values
        listed = array if array.ndim == 1 and array.dtype.kind not in "OcSU" else weight
    try:
        if isinstance(weight, str | bytes) or unordered(weight):
            raise TypeError
        values = tuple(float(w) for w in listed)
    except (TypeError, ValueError):
        raise TypeError(
            f"weight must be a list of numbers, one per class, that are known while tracing, got {weight!r}"
        ) from None
    if not all(math.isfinite(w) and w >= 0 for w in values):
        raise ValueError(f"weight must be finite and not negative, got {list(values)}")
    return values


def within_32_bits(value: Any) -> Any:
    """NumPy's integers of 64 bits within what 32 hold; anything else as it is.

    Frameworks without 64 bits cut the upper ones off, and label 2**32 would be class 0. A clipped label is still none.
    """
    if isinstance(value, np.ndarray | np.integer) and value.dtype.kind in "iu" and value.dtype.itemsize == 8:
        return np.clip(value, -(2**31) * (value.dtype.kind == "i"), 2**31 - 1)
    return value


def label_message(label: int, num_classes: int, void: str) -> str:
    """The message for a label beyond the classes."""
    what = "0 or 1" if num_classes == 2 else f"0 to {num_classes - 1}"
    stray = label in (-(2**31), 2**31 - 1)  # clipped, or what a fraction became
    found = "a fraction, or a label of 32 bits or more" if stray else f"label {label}"
    foreground = "; where it is a way to write the foreground give target > 0" if num_classes == 2 else ""
    return (
        f"target holds {found}, beyond its {num_classes} classes (labels {what}); "
        f"if it marks void pixels pass it as {void}{foreground}"
    )
