"""The losses for Keras 3, on its TensorFlow, JAX and PyTorch backends: functions, and serialisable ``Loss`` classes.

As everywhere in Keras the target comes first, channels come last and the void label is ``ignore_class``. Names, options
and values are otherwise those of `lovasz.functional`. Only `keras.ops` computes here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from lovasz.ports import arguments, preparation
from lovasz.ports.losses import losses
from lovasz.ports.preparation import Prepared

__all__ = [
    "LovaszHingeLoss",
    "LovaszSigmoidLoss",
    "LovaszSoftmaxLoss",
    "lovasz_hinge",
    "lovasz_sigmoid",
    "lovasz_softmax",
]

ops: Any = keras.ops
REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none")


def lovasz_softmax(y_true: Any, y_pred: Any, **options: Any) -> Any:
    """Lovász-Softmax loss; formula, shapes and errors are those of :class:`LovaszSoftmaxLoss`.

    Args:
        y_true, y_pred, options: what a call of the class takes, and by name the arguments of its constructor.

    Returns:
        A scalar; with ``reduction=None`` or "none" the losses of the images, (N,), or the one of the batch, (1,).
    """
    return LovaszSoftmaxLoss(**options)(y_true, y_pred)


def lovasz_hinge(y_true: Any, y_pred: Any, **options: Any) -> Any:
    """Lovász hinge loss with the options of :class:`LovaszHingeLoss`; the result as of :func:`lovasz_softmax`."""
    return LovaszHingeLoss(**options)(y_true, y_pred)


def lovasz_sigmoid(y_true: Any, y_pred: Any, **options: Any) -> Any:
    """Lovász-sigmoid loss with the options of :class:`LovaszSigmoidLoss`; the result as of :func:`lovasz_softmax`."""
    return LovaszSigmoidLoss(**options)(y_true, y_pred)


class _LovaszLoss(keras.losses.Loss):
    """What the three have in common: weights of samples and pixels, the mean over images, and the configuration.

    ``sample_weight`` of one number for each image multiplies that image's loss with ``per_image=True``; without, the
    batch is one set, in which each pixel of the image counts as so many pixels. With a number for each pixel, the pixel
    counts as so many. Zero is void; a mask that travels with ``y_pred`` is such a weight.
    """

    _preparation: Callable[..., Prepared]

    def __init__(self, reduction: str | None, name: str | None, dtype: Any, **options: Any) -> None:
        reduction = "none" if reduction is None else reduction
        arguments.require_choice("reduction", reduction, REDUCTIONS)
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self._options = arguments.plain_options("ignore_class", options)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss: a scalar, or with ``reduction=None`` one for each image (one in all for the batch)."""
        input, target, problem = self._prepare(y_true, y_pred)
        of_images, of_pixels = [], []
        given = sample_weight, getattr(y_pred, "_keras_mask", None)
        for weight in (one for one in given if one is not None):
            weight = ops.cast(ops.convert_to_tensor(weight), "float32")
            if len(weight.shape) and weight.shape[0] != 1 and input.shape[0] == 1:
                weight = ops.reshape(weight, (1, -1))  # of a flat input, whose pixels are one image
            if len(weight.shape) == 0 or (problem.per_image and set(tuple(weight.shape)[1:]) <= {1}):
                of_images.append(ops.reshape(weight, (-1,)))  # (N,) or (1,)
            else:
                of_pixels.append(_pixel_weight(weight, input))  # (N, S)
        pixel_weight = math.prod(of_pixels) if of_pixels else None
        if pixel_weight is not None and not problem.labelled:
            pixel_weight = ops.expand_dims(pixel_weight, 2)  # (N, S, 1)
        values = losses(_ARRAYS, input, target, problem, pixel_weight)
        return self._reduced(values, ops.cast(math.prod(of_images), values.dtype) if of_images else None)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The losses of the images, (N,), or the one of the batch, (1,)."""
        return losses(_ARRAYS, *self._prepare(y_true, y_pred))

    def get_config(self) -> dict[str, Any]:
        """Everything that `from_config` needs."""
        return {**super().get_config(), **self._options}

    def _reduced(self, values: Any, weight: Any) -> Any:
        if weight is not None:
            values = values * weight
        if self.reduction in ("none", "sum"):
            return values if self.reduction == "none" else ops.sum(values)
        if self.reduction == "mean_with_sample_weight" and weight is not None:
            total = ops.sum(weight * ops.ones_like(values))
            return ops.sum(values) / ops.where(total > 0, total, 1.0)
        return ops.mean(values)

    def _prepare(self, y_true: Any, y_pred: Any) -> Prepared:
        options = dict(self._options)
        void = options.pop("ignore_class")
        return self._preparation(_ARRAYS, y_pred, _labels(y_true), void=void, void_name="ignore_class", **options)


@keras.saving.register_keras_serializable(package="lovasz")
class LovaszSoftmaxLoss(_LovaszLoss):
    """Lovász-Softmax loss: the surrogate of one minus the mean IoU over classes (the paper's Eq. 11 to 13).

    ``y_true`` is (N, *spatial), (N, *spatial, 1) or (P,): class indices, integers or whole floating numbers. ``y_pred``
    is (N, *spatial, C) or (P, C) of any floating dtype.

    Args:
        from_logits: whether the softmax over classes is still to be taken. True here, as in the rest of this package,
            where Keras's own losses have False: say ``from_logits=False`` for a model that ends in a softmax.
        classes: "present" averages over the classes that occur in ``y_true``, "all" over every class, a list over
            exactly those.
        per_image: average the losses of single images instead of taking the batch as one set of pixels.
        ignore_class: label of void pixels, any integer of 32 bits; they have neither value nor gradient.
        weight: (C,) class weights of the average.
        axis: the class axis of ``y_pred``; 1 for channels first.
        method: "binned" (linear time; small inputs are sorted) or "exact" (sorted).
        reduction: over the images of ``per_image=True``: "sum_over_batch_size" (or "mean"), "sum",
            "mean_with_sample_weight", or None (or "none") for the single losses.
        name, dtype: as in every Keras loss; arithmetic is in at least float32 whatever the dtype.

    Raises:
        TypeError, ValueError: dtypes, shapes or options that do not fit. Labels beyond the classes (or fractions), and
            values outside [0, 1] with ``from_logits=False``, raise where they have values; in a compiled training step
            that cannot be, and they make the loss NaN.

    Example:
        >>> criterion = LovaszSoftmaxLoss(ignore_class=255)
        >>> y_pred = ops.convert_to_tensor([[[2.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])  # three pixels, two classes
        >>> print(f"{float(criterion(ops.convert_to_tensor([[0, 1, 255]]), y_pred)):.4f}")
        0.2315
    """

    def __init__(
        self,
        *,
        from_logits: bool = True,
        classes: str | Sequence[int] = "present",
        per_image: bool = False,
        ignore_class: int | None = None,
        weight: Sequence[float] | None = None,
        axis: int = -1,
        method: str = "binned",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "lovasz_softmax",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            reduction,
            name,
            dtype,
            from_logits=from_logits,
            classes=classes,
            per_image=per_image,
            ignore_class=ignore_class,
            weight=None if weight is None else [float(w) for w in weight],
            axis=axis,
            method=method,
        )

    def _prepare(self, y_true: Any, y_pred: Any) -> Prepared:
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        axis, sizes = self._options["axis"], tuple(y_true.shape)
        if len(sizes) == len(y_pred.shape) > 1 and sizes[axis] == 1 and y_pred.shape[axis] != 1:
            y_true = ops.squeeze(y_true, axis)
        return super()._prepare(y_true, y_pred)

    _preparation = staticmethod(preparation.softmax)


@keras.saving.register_keras_serializable(package="lovasz")
class LovaszHingeLoss(_LovaszLoss):
    """Lovász hinge loss for foreground against background: the surrogate of one minus the foreground's IoU (Eq. 7, 8).

    ``y_true`` is 1 for foreground and 0 for background, ``y_pred`` holds scores, positive for foreground; both are
    (N, *spatial), (N, *spatial, 1) or (P,).

    Args:
        per_image: average over images (a flat (P,) input is one image), else the batch is one set of pixels.
        activation: "relu" is the paper's hinge; "elu" uses ``elu(1 - F y) + 1``.
        axis: where a single channel stands; 1 for channels first.
        ignore_class, method, reduction, name, dtype: as :class:`LovaszSoftmaxLoss`, and so are the errors.
    """

    def __init__(
        self,
        *,
        per_image: bool = True,
        ignore_class: int | None = None,
        activation: str = "relu",
        axis: int = -1,
        method: str = "binned",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "lovasz_hinge",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            reduction,
            name,
            dtype,
            per_image=per_image,
            ignore_class=ignore_class,
            activation=activation,
            axis=axis,
            method=method,
        )

    _preparation = staticmethod(preparation.hinge)


@keras.saving.register_keras_serializable(package="lovasz")
class LovaszSigmoidLoss(_LovaszLoss):
    """Lovász extension of the Jaccard loss on sigmoid probabilities: binary, or one independent mask per channel.

    ``y_true`` is 1 for foreground and 0 for background. Binary: both are (N, *spatial), (N, *spatial, 1) or (P,).
    Multi-label: both are (N, *spatial, C) or (P, C).

    Args:
        from_logits: whether the sigmoid is still to be taken; True where Keras's own losses have False.
        multilabel: treat the channels as labels that do not exclude one another.
        classes, weight: for multi-label, as :class:`LovaszSoftmaxLoss`.
        per_image, ignore_class, axis, method, reduction, name, dtype: as :class:`LovaszSoftmaxLoss`, and so are the
            errors.
    """

    def __init__(
        self,
        *,
        from_logits: bool = True,
        multilabel: bool = False,
        classes: str | Sequence[int] = "present",
        per_image: bool = False,
        ignore_class: int | None = None,
        weight: Sequence[float] | None = None,
        axis: int = -1,
        method: str = "binned",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "lovasz_sigmoid",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            reduction,
            name,
            dtype,
            from_logits=from_logits,
            multilabel=multilabel,
            classes=classes,
            per_image=per_image,
            ignore_class=ignore_class,
            weight=None if weight is None else [float(w) for w in weight],
            axis=axis,
            method=method,
        )

    _preparation = staticmethod(preparation.sigmoid)


def _labels(y_true: Any) -> Any:
    """The target as integers. Keras's data adapters hand out floating labels; a fraction is no class."""
    y_true = ops.convert_to_tensor(y_true)
    if not keras.backend.is_float_dtype(y_true.dtype):
        return y_true
    stray = ops.cast(-(2**31), "int32")
    return ops.where(y_true == ops.round(y_true), ops.cast(y_true, "int32"), stray)


def _pixel_weight(weight: Any, input: Any) -> Any:
    """A weight for each image or for each pixel as (N, S)."""
    sizes, known = tuple(weight.shape), tuple(input.shape)[:2]
    if set(sizes[1:]) <= {1}:
        return ops.reshape(weight, (-1, 1)) * ops.ones_like(input[:, :, 0], "float32")
    if None not in (*sizes, *known) and (sizes[0] != known[0] or math.prod(sizes) != math.prod(known)):
        raise ValueError(
            f"sample_weight must have one number for each image, ({known[0]},), or for each of its {known[1]} pixels, "
            f"got shape {sizes}"
        )
    return ops.reshape(weight, (ops.shape(input)[0], -1))


class _KerasArrays:
    """`lovasz.ports.arrays.Arrays` in keras.ops."""

    array = constant = staticmethod(ops.convert_to_tensor)
    cast = staticmethod(ops.cast)
    where = staticmethod(ops.where)
    minimum = staticmethod(ops.minimum)
    maximum = staticmethod(ops.maximum)
    exp = staticmethod(ops.exp)
    log1p = staticmethod(ops.log1p)
    sigmoid = staticmethod(ops.sigmoid)
    softmax = staticmethod(ops.softmax)
    any = staticmethod(ops.any)
    shape = staticmethod(ops.shape)
    reshape = staticmethod(ops.reshape)
    transpose = staticmethod(ops.transpose)
    expand = staticmethod(ops.expand_dims)
    ones_like = staticmethod(ops.ones_like)
    shift_right = staticmethod(ops.right_shift)
    take = staticmethod(ops.take)
    constant_of = staticmethod(ops.stop_gradient)

    def dtype(self, x: Any) -> str:
        return keras.backend.standardize_dtype(x.dtype)

    def static_shape(self, x: Any) -> tuple[int | None, ...]:
        return tuple(x.shape)

    def holds(self, condition: Any) -> bool | None:
        if keras.backend.backend() == "torch" and condition.device.type != "cpu":
            return None  # looking would wait for the device
        try:
            return bool(condition)
        except TypeError:  # JAX and TensorFlow: it is being traced and has no value yet
            return None

    def bits(self, x: Any) -> Any:
        return ops.view(x, "int32")

    def sum(self, x: Any, axis: int | tuple[int, ...], keepdims: bool = False) -> Any:
        return ops.cast(ops.sum(x, axis, keepdims=keepdims), x.dtype)

    def cumsum(self, x: Any) -> Any:
        return ops.cumsum(x, -1, dtype=keras.backend.standardize_dtype(x.dtype))

    def stack(self, parts: list[Any]) -> Any:
        return ops.stack(parts, 1)

    def arange(self, size: Any) -> Any:
        return ops.arange(size, dtype="int32")

    def descending(self, x: Any) -> Any:
        return ops.cast(ops.argsort(-x, axis=-1), "int32")

    def add_up(self, values: Any | None, index: Any, size: Any) -> Any:
        return ops.segment_sum(ops.ones_like(index) if values is None else values, index, num_segments=size)


_ARRAYS: Any = _KerasArrays()  # the framework types and names its arguments in its own way
