"""The losses for Keras 3, on its TensorFlow, JAX and PyTorch backends: functions, and serialisable ``Loss`` classes.

As everywhere in Keras the target comes first, channels come last and the void label is ``ignore_class``. Names, options
and values are otherwise those of `lovasz.functional`. Only `keras.ops` computes here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras

from lovasz.choices import require_choice
from lovasz.keras_arrays import ARRAYS, integer_labels, mask_of, ops, share_of_replica, sizes
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

REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none")


@keras.saving.register_keras_serializable(package="lovasz")
def lovasz_softmax(y_true: Any, y_pred: Any, **options: Any) -> Any:
    """Lovász-Softmax loss; formula, shapes and errors are those of :class:`LovaszSoftmaxLoss`.

    For calls of your own. In ``compile`` use the class: sample weights and masks do not reach a function, whose result
    Keras multiplies by their mean.

    Args:
        y_true, y_pred, options: what a call of the class takes, and by name the arguments of its constructor.

    Returns:
        A scalar; with ``reduction=None`` or "none" the losses of the images, (N,), or the one of the batch, (1,).
    """
    return LovaszSoftmaxLoss(**options)(y_true, y_pred)


@keras.saving.register_keras_serializable(package="lovasz")
def lovasz_hinge(y_true: Any, y_pred: Any, **options: Any) -> Any:
    """Lovász hinge loss with the options of :class:`LovaszHingeLoss`; the result as of :func:`lovasz_softmax`."""
    return LovaszHingeLoss(**options)(y_true, y_pred)


@keras.saving.register_keras_serializable(package="lovasz")
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


@keras.saving.register_keras_serializable(package="lovasz")
class LovaszSoftmaxLoss(_LovaszLoss):
    """Lovász-Softmax loss: the surrogate of one minus the mean IoU over classes.

    With p the softmax of the logits over classes, the errors of class c are (Eq. 11) ``m_i(c) = 1 - p_i(c)`` where the
    target is c and ``p_i(c)`` elsewhere, and the loss is (Eq. 12, 13) ``sum_c w_c Δ_c(m(c)) / sum_c w_c``, where Δ_c is
    the Lovász extension of the Jaccard loss of class c over all pixels of the batch.

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
        name, dtype: as in every Keras loss; but arithmetic is in float64 for float64 scores, else in float32, whatever
            the dtype.

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
            weight=weight,
            axis=axis,
            method=method,
        )

    def _prepare(self, y_true: Any, y_pred: Any) -> Prepared:
        y_true, y_pred = ARRAYS.array(y_true), ops.convert_to_tensor(y_pred)
        axis, given = self._options["axis"], sizes(y_true)
        if len(given) == len(sizes(y_pred)) > 1 and given[axis] == 1 and y_pred.shape[axis] != 1:
            y_true = ops.squeeze(y_true, axis)
        return super()._prepare(y_true, y_pred)

    _preparation = staticmethod(preparation.softmax)


@keras.saving.register_keras_serializable(package="lovasz")
class LovaszHingeLoss(_LovaszLoss):
    """Lovász hinge loss for foreground against background: the surrogate of one minus the IoU of the foreground.

    With scores F and labels y in {-1, 1} the errors are ``m_i = max(0, 1 - F_i y_i)`` (Eq. 7), and the loss is the
    Lovász extension of the Jaccard loss at m (Eq. 8), per image and averaged, or over the whole batch.

    ``y_true`` is 1 for foreground and 0 for background, ``y_pred`` holds scores of any floating dtype, positive for
    foreground; both are (N, *spatial), (N, *spatial, 1) or (P,).

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

    With ``p = sigmoid(y_pred)`` the errors are ``m_i = 1 - p_i`` on foreground and ``p_i`` elsewhere (Eq. 11 with one
    class); the loss is their Lovász extension; with ``multilabel=True`` the (weighted) mean of those of the channels.

    ``y_true`` is 1 for foreground and 0 for background, ``y_pred`` of any floating dtype. Binary: both are
    (N, *spatial), (N, *spatial, 1) or (P,). Multi-label: both are (N, *spatial, C) or (P, C).

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
            weight=weight,
            axis=axis,
            method=method,
        )

    _preparation = staticmethod(preparation.sigmoid)


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
