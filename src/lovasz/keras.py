"""The losses for Keras 3, on its TensorFlow, JAX and PyTorch backends: functions, and serialisable ``Loss`` classes.

As everywhere in Keras the target comes first, channels come last and the void label is ``ignore_class``. Names, options
and values are otherwise those of `lovasz.functional`. Only `keras.ops` computes here.
"""

from __future__ import annotations

from typing import Any, SupportsIndex

import keras

from lovasz.choices import Activation, Classes, Method
from lovasz.keras_arrays import ARRAYS, ops, sizes
from lovasz.keras_loss import LovaszLoss
from lovasz.ports import preparation
from lovasz.ports.arguments import Weights
from lovasz.ports.preparation import Prepared

__all__ = [
    "LovaszHingeLoss",
    "LovaszSigmoidLoss",
    "LovaszSoftmaxLoss",
    "lovasz_hinge",
    "lovasz_sigmoid",
    "lovasz_softmax",
]


@keras.saving.register_keras_serializable(package="lovasz")
def lovasz_softmax(
    y_true: Any,
    y_pred: Any,
    *,
    from_logits: bool = True,
    classes: Classes = "present",
    per_image: bool = False,
    ignore_class: SupportsIndex | None = None,
    weight: Weights | None = None,
    axis: int = -1,
    method: Method = "binned",
    reduction: str | None = "sum_over_batch_size",
) -> Any:
    """Lovász-Softmax loss; formula, shapes and errors are those of :class:`LovaszSoftmaxLoss`.

    For calls of your own. In ``compile`` use the class: sample weights and masks do not reach a function, whose result
    Keras multiplies by their mean.

    Args:
        y_true, y_pred: as a call of the class takes them.
        from_logits, classes, per_image, ignore_class, weight, axis, method, reduction: as its constructor does.

    Returns:
        A scalar; with ``reduction=None`` or "none" the losses of the images, (N,), or the one of the batch, (1,).
    """
    criterion = LovaszSoftmaxLoss(
        from_logits=from_logits,
        classes=classes,
        per_image=per_image,
        ignore_class=ignore_class,
        weight=weight,
        axis=axis,
        method=method,
        reduction=reduction,
    )
    return criterion(y_true, y_pred)


@keras.saving.register_keras_serializable(package="lovasz")
def lovasz_hinge(
    y_true: Any,
    y_pred: Any,
    *,
    per_image: bool = True,
    ignore_class: SupportsIndex | None = None,
    activation: Activation = "relu",
    axis: int = -1,
    method: Method = "binned",
    reduction: str | None = "sum_over_batch_size",
) -> Any:
    """Lovász hinge loss with the options of :class:`LovaszHingeLoss`; the result as of :func:`lovasz_softmax`."""
    criterion = LovaszHingeLoss(
        per_image=per_image,
        ignore_class=ignore_class,
        activation=activation,
        axis=axis,
        method=method,
        reduction=reduction,
    )
    return criterion(y_true, y_pred)


@keras.saving.register_keras_serializable(package="lovasz")
def lovasz_sigmoid(
    y_true: Any,
    y_pred: Any,
    *,
    from_logits: bool = True,
    multilabel: bool = False,
    classes: Classes = "present",
    per_image: bool = False,
    ignore_class: SupportsIndex | None = None,
    weight: Weights | None = None,
    axis: int = -1,
    method: Method = "binned",
    reduction: str | None = "sum_over_batch_size",
) -> Any:
    """Lovász-sigmoid loss with the options of :class:`LovaszSigmoidLoss`; the result as of :func:`lovasz_softmax`."""
    criterion = LovaszSigmoidLoss(
        from_logits=from_logits,
        multilabel=multilabel,
        classes=classes,
        per_image=per_image,
        ignore_class=ignore_class,
        weight=weight,
        axis=axis,
        method=method,
        reduction=reduction,
    )
    return criterion(y_true, y_pred)


@keras.saving.register_keras_serializable(package="lovasz")
class LovaszSoftmaxLoss(LovaszLoss):
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
        classes: Classes = "present",
        per_image: bool = False,
        ignore_class: SupportsIndex | None = None,
        weight: Weights | None = None,
        axis: int = -1,
        method: Method = "binned",
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
class LovaszHingeLoss(LovaszLoss):
    """Lovász hinge loss for foreground against background: the surrogate of one minus the IoU of the foreground.

    With scores F and labels y in {-1, 1} the errors are ``m_i = max(0, 1 - F_i y_i)`` (Eq. 7), and the loss is the
    Lovász extension of the Jaccard loss at m (Eq. 8), per image and averaged, or over the whole batch.

    ``y_true`` is 1 for foreground and 0 for background, ``y_pred`` holds scores of any floating dtype, positive for
    foreground; both are (N, *spatial), (N, *spatial, 1) or (P,).

    Args:
        per_image: average over images (a flat (P,) input is one image), else the batch is one set of pixels.
        activation: "relu" is the paper's hinge; "elu" uses ``elu(1 - F y) + 1``.
        axis: where a single channel stands; 1 for channels first.
        ignore_class, method, reduction, name, dtype: as :class:`LovaszSoftmaxLoss`.

    Raises:
        TypeError, ValueError: as :class:`LovaszSoftmaxLoss`; labels other than 0, 1 and void.

    Example:
        >>> y_pred = ops.convert_to_tensor([[2.0, -0.5, -3.0]])
        >>> print(f"{float(LovaszHingeLoss()(ops.convert_to_tensor([[1, 1, 0]]), y_pred)):.4f}")
        0.7500
    """

    def __init__(
        self,
        *,
        per_image: bool = True,
        ignore_class: SupportsIndex | None = None,
        activation: Activation = "relu",
        axis: int = -1,
        method: Method = "binned",
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
class LovaszSigmoidLoss(LovaszLoss):
    """Lovász extension of the Jaccard loss on sigmoid probabilities: binary, or one independent mask per channel.

    With ``p = sigmoid(y_pred)`` the errors are ``m_i = 1 - p_i`` on foreground and ``p_i`` elsewhere (Eq. 11 with one
    class); the loss is their Lovász extension; with ``multilabel=True`` the (weighted) mean of those of the channels.

    ``y_true`` is 1 for foreground and 0 for background, ``y_pred`` of any floating dtype. Binary: both are
    (N, *spatial), (N, *spatial, 1) or (P,). Multi-label: both are (N, *spatial, C) or (P, C).

    Args:
        from_logits: whether the sigmoid is still to be taken; True where Keras's own losses have False.
        multilabel: treat the channels as labels that do not exclude one another.
        classes, weight: for multi-label, as :class:`LovaszSoftmaxLoss`.
        per_image, ignore_class, axis, method, reduction, name, dtype: as :class:`LovaszSoftmaxLoss`.

    Raises:
        TypeError, ValueError: as :class:`LovaszSoftmaxLoss`; labels other than 0, 1 and void, and ``classes`` or
            ``weight`` without ``multilabel``.

    Example:
        >>> y_pred = ops.convert_to_tensor([[3.0, -2.0, -2.0]])
        >>> print(f"{float(LovaszSigmoidLoss()(ops.convert_to_tensor([[1, 0, 0]]), y_pred)):.4f}")
        0.0953
    """

    def __init__(
        self,
        *,
        from_logits: bool = True,
        multilabel: bool = False,
        classes: Classes = "present",
        per_image: bool = False,
        ignore_class: SupportsIndex | None = None,
        weight: Weights | None = None,
        axis: int = -1,
        method: Method = "binned",
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
