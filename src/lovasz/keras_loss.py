"""What the Keras losses have in common: weights of samples and pixels, the mean over images, and the configuration.

Apart from `lovasz.keras`, which has the losses and their options.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import keras

from lovasz.choices import require_choice
from lovasz.keras_arrays import ARRAYS, integer_labels, mask_of, ops, share_of_replica, sizes
from lovasz.ports import arguments
from lovasz.ports.losses import losses
from lovasz.ports.preparation import Prepared

REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none")


class LovaszLoss(keras.losses.Loss):
    """What the three have in common: weights of samples and pixels, the mean over images, and the configuration.

    ``sample_weight`` of one number for each image multiplies that image's loss with ``per_image=True``; without, the
    batch is one set, in which each pixel of the image counts as so many pixels. With a number for each pixel, the pixel
    counts as so many. Zero is void; a mask that travels with ``y_pred`` is such a weight.
    """

    _preparation: Callable[..., Prepared]

    def __init__(self, reduction: str | None, name: str | None, dtype: Any, **options: Any) -> None:
        reduction = "none" if reduction is None else reduction
        require_choice("reduction", reduction, REDUCTIONS)
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self._options = arguments.plain_options("ignore_class", options)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss: a scalar, or with ``reduction=None`` one for each image (one in all for the batch)."""
        for name, value in (("y_true", y_true), ("y_pred", y_pred)):
            if value is None:
                raise TypeError(f"{name} must be an array, got None")
        input, target, problem = self._prepare(y_true, y_pred)
        of_images, of_pixels = [], []
        for weight in (one for one in (sample_weight, mask_of(y_pred)) if one is not None):
            weight = ops.cast(ops.convert_to_tensor(weight), "float32")
            _check_weight(sizes(weight), self._pixels(y_true, y_pred), sizes(input)[1])
            if len(weight.shape) and weight.shape[0] != 1 and input.shape[0] == 1:
                weight = ops.reshape(weight, (1, -1))  # of a flat input, whose pixels are one image
            if len(weight.shape) == 0 or (problem.per_image and set(sizes(weight)[1:]) <= {1}):
                of_images.append(ops.reshape(weight, (-1,)))  # (N,) or (1,)
            elif set(sizes(weight)[1:]) <= {1}:
                of_pixels.append(ops.reshape(weight, (-1, 1)) * ops.ones_like(input[:, :, 0], "float32"))  # (N, S)
            else:
                of_pixels.append(ops.reshape(weight, (ops.shape(input)[0], -1)))  # (N, S)
        pixel_weight = math.prod(of_pixels) if of_pixels else None
        if pixel_weight is not None and not problem.labelled:
            pixel_weight = ops.expand_dims(pixel_weight, 2)  # (N, S, 1)
        values = losses(ARRAYS, input, target, problem, pixel_weight)
        return self._reduced(values, ops.cast(math.prod(of_images), values.dtype) if of_images else None)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The losses of the images, (N,), or the one of the batch, (1,)."""
        return losses(ARRAYS, *self._prepare(y_true, y_pred))

    def get_config(self) -> dict[str, Any]:
        """Everything that `from_config` needs."""
        return {**super().get_config(), **self._options}

    def _reduced(self, values: Any, weight: Any) -> Any:
        if weight is not None:
            values = values * weight
        if self.reduction in ("none", "sum"):
            return values if self.reduction == "none" else ops.sum(values)
        total = ops.cast(ops.shape(values)[0], values.dtype)
        if self.reduction == "mean_with_sample_weight" and weight is not None:
            total = ops.sum(weight * ops.ones_like(values))
        return share_of_replica(ops.sum(values) / ops.where(total > 0, total, 1.0))

    def _pixels(self, y_true: Any, y_pred: Any) -> arguments.Shape:
        """The target's shape without its channels, if it has any."""
        shape, axis = sizes(ARRAYS.array(y_true)), self._options["axis"]
        channels = self._options.get("multilabel") or (
            len(shape) == len(sizes(ops.convert_to_tensor(y_pred))) > 2 and shape[axis] == 1
        )
        axis %= len(shape)
        return shape[:axis] + shape[axis + 1 :] if channels else shape

    def _prepare(self, y_true: Any, y_pred: Any) -> Prepared:
        options = dict(self._options)
        void = options.pop("ignore_class")
        options |= {"void": void, "void_name": "ignore_class"}
        try:
            return self._preparation(ARRAYS, y_pred, integer_labels(y_true), **options)
        except (TypeError, ValueError) as error:
            if type(error) not in (TypeError, ValueError):  # others may want more than a message
                raise
            message = re.sub(r"\binput\b", "y_pred", re.sub(r"\btarget\b", "y_true", str(error)))
            raise type(error)(message) from None


def _check_weight(weight: arguments.Shape, pixels: arguments.Shape, count: int | None) -> None:
    """Raise ValueError unless weights are one number, one for each image, or one for each pixel; axes of 1 aside.

    pixels: (N, *spatial) or (P,), as the target has them; count: pixels of an image.
    """

    def without_ones(shape: arguments.Shape) -> arguments.Shape:
        return (*shape[:1], *(size for size in shape[1:] if size != 1))

    first, flat = pixels[:1], len(pixels) == 1
    given, allowed = without_ones(weight), [(1,), first, without_ones(pixels), (1, *first) if flat else (*first, count)]
    if not weight or any(arguments.same(given, shape) for shape in allowed):
        return
    each = "pixel" if flat else f"image, {first}, or for each of its {count} pixels"
    raise ValueError(f"sample_weight must have one number for each {each}, {pixels}, got shape {weight}")
