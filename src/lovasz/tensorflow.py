"""The losses for TensorFlow: eager, in ``tf.function`` with or without XLA, in mixed precision; channels come last.

The options and values are those of `lovasz.functional`; PyTorch is not imported. The authors' own TensorFlow names are
in `lovasz.compat_tensorflow`.
"""

from __future__ import annotations

from typing import Any, SupportsIndex

import tensorflow as tf

from lovasz.choices import Activation, Classes, Method
from lovasz.ports import preparation
from lovasz.ports.arguments import Weights
from lovasz.ports.losses import losses

__all__ = ["lovasz_hinge", "lovasz_sigmoid", "lovasz_softmax"]


def lovasz_softmax(
    input: Any,
    target: Any,
    *,
    from_logits: bool = True,
    classes: Classes = "present",
    per_image: bool = False,
    ignore_index: SupportsIndex | None = None,
    weight: Weights | None = None,
    axis: int = -1,
    method: Method = "binned",
) -> Any:
    """Lovász-Softmax loss: the surrogate of one minus the mean IoU over classes.

    With p the softmax of the logits over classes, the errors of class c are (Eq. 11) ``m_i(c) = 1 - p_i(c)`` where the
    target is c and ``p_i(c)`` elsewhere, and the loss is (Eq. 12, 13) ``sum_c w_c Δ_c(m(c)) / sum_c w_c``, where Δ_c is
    the Lovász extension of the Jaccard loss of class c over all pixels of the batch.

    Args:
        input: (N, *spatial, C) or (P, C) logits, or probabilities if ``from_logits=False``; any floating dtype. Only
            the number of classes must be known while tracing.
        target: (N, *spatial) or (P,) class indices of any integer dtype or bool.
        from_logits: whether the softmax over classes is still to be taken.
        classes: "present" averages over the classes that occur in the target, "all" over every class, a list over
            exactly those.
        per_image: average the losses of single images instead of taking the batch as one set of pixels.
        ignore_index: label of void pixels, any integer of 32 bits; they have neither value nor gradient.
        weight: (C,) class weights of the average; numbers, not traced.
        axis: the class axis of ``input``; 1 for channels first.
        method: "binned" (linear time; small inputs are sorted) or "exact" (sorted).

    Returns:
        A scalar in [0, 1], float64 for float64 input, else float32; 0 with zero gradient if all pixels are void.

    Raises:
        TypeError, ValueError: dtypes, shapes or options that do not fit. Labels beyond the classes, and values outside
            [0, 1] with ``from_logits=False``, raise in eager execution; in ``tf.function`` they make the loss NaN.

    Example:
        >>> logits = tf.constant([[[2.0, 0.0], [0.0, 1.0]]])  # one image of two pixels, two classes
        >>> print(f"{lovasz_softmax(logits, tf.constant([[0, 1]])):.4f}")
        0.2315
    """
    return _mean(
        *preparation.softmax(
            _ARRAYS,
            input,
            target,
            from_logits=from_logits,
            classes=classes,
            per_image=per_image,
            void=ignore_index,
            weight=weight,
            axis=axis,
            method=method,
        )
    )


def lovasz_hinge(
    input: Any,
    target: Any,
    *,
    per_image: bool = True,
    ignore_index: SupportsIndex | None = None,
    activation: Activation = "relu",
    axis: int = -1,
    method: Method = "binned",
) -> Any:
    """Lovász hinge loss for foreground against background: the surrogate of one minus the IoU of the foreground.

    With scores F and labels y in {-1, 1} the errors are ``m_i = max(0, 1 - F_i y_i)`` (Eq. 7), and the loss is the
    Lovász extension of the Jaccard loss at m (Eq. 8), per image and averaged, or over the whole batch.

    Args:
        input: (N, *spatial), (N, *spatial, 1) or (P,) scores, positive for foreground; any floating dtype.
        target: same shape (the single channel may be left out), 1 for foreground, 0 for background; integers or bool.
        per_image: average over images (a flat (P,) input is one image), else the batch is one set of pixels.
        ignore_index: label of void pixels, any integer of 32 bits.
        activation: "relu" is the paper's hinge; "elu" uses ``elu(1 - F y) + 1``.
        axis: where a single channel stands; 1 for channels first.
        method: "binned" or "exact", as in :func:`lovasz_softmax`.

    Returns:
        A scalar, float64 for float64 input, else float32; 0 with zero gradient if all pixels are void.

    Raises:
        TypeError, ValueError: as :func:`lovasz_softmax`.

    Example:
        >>> print(f"{lovasz_hinge(tf.constant([[2.0, -0.5, -3.0]]), tf.constant([[1, 1, 0]])):.4f}")
        0.7500
    """
    return _mean(
        *preparation.hinge(
            _ARRAYS,
            input,
            target,
            per_image=per_image,
            void=ignore_index,
            activation=activation,
            axis=axis,
            method=method,
        )
    )


def lovasz_sigmoid(
    input: Any,
    target: Any,
    *,
    from_logits: bool = True,
    multilabel: bool = False,
    classes: Classes = "present",
    per_image: bool = False,
    ignore_index: SupportsIndex | None = None,
    weight: Weights | None = None,
    axis: int = -1,
    method: Method = "binned",
) -> Any:
    """Lovász extension of the Jaccard loss on sigmoid probabilities: binary, or one independent mask per channel.

    With ``p = sigmoid(input)`` the errors are ``m_i = 1 - p_i`` on foreground and ``p_i`` elsewhere (Eq. 11 with one
    class); the loss is their Lovász extension; with ``multilabel=True`` the (weighted) mean of those of the channels.

    Args:
        input: binary: (N, *spatial), (N, *spatial, 1) or (P,); multi-label: (N, *spatial, C) or (P, C). Logits, or
            probabilities if ``from_logits=False``; any floating dtype.
        target: 1 for foreground, 0 for background, integers or bool; shape of the input (a single channel may be
            dropped).
        from_logits: whether the sigmoid is still to be taken.
        multilabel: treat the channels as labels that do not exclude one another.
        classes, weight: for multi-label, as in :func:`lovasz_softmax`.
        per_image, ignore_index, axis, method: as in :func:`lovasz_softmax`.

    Returns:
        A scalar in [0, 1], float64 for float64 input, else float32; 0 with zero gradient if all is void.

    Raises:
        TypeError, ValueError: as :func:`lovasz_softmax`, and ``weight`` or ``classes`` without ``multilabel``.

    Example:
        >>> print(f"{lovasz_sigmoid(tf.constant([[3.0, -2.0, -2.0]]), tf.constant([[1, 0, 0]])):.4f}")
        0.0953
    """
    return _mean(
        *preparation.sigmoid(
            _ARRAYS,
            input,
            target,
            from_logits=from_logits,
            multilabel=multilabel,
            classes=classes,
            per_image=per_image,
            void=ignore_index,
            weight=weight,
            axis=axis,
            method=method,
        )
    )


class _TensorFlowArrays:
    """`lovasz.ports.arrays.Arrays` in TensorFlow."""

    array = staticmethod(tf.convert_to_tensor)
    constant = staticmethod(tf.constant)
    cast = staticmethod(tf.cast)
    ones_like = staticmethod(tf.ones_like)
    minimum = staticmethod(tf.minimum)
    maximum = staticmethod(tf.maximum)
    exp = staticmethod(tf.exp)
    log1p = staticmethod(tf.math.log1p)
    sigmoid = staticmethod(tf.sigmoid)
    softmax = staticmethod(tf.nn.softmax)
    sum = staticmethod(tf.reduce_sum)
    any = staticmethod(tf.reduce_any)
    reshape = staticmethod(tf.reshape)
    transpose = staticmethod(tf.transpose)
    expand = staticmethod(tf.expand_dims)
    arange = staticmethod(tf.range)
    shift_right = staticmethod(tf.bitwise.right_shift)
    take = staticmethod(tf.gather)
    constant_of = staticmethod(tf.stop_gradient)

    def dtype(self, x: Any) -> str:
        return x.dtype.name

    def static_shape(self, x: Any) -> tuple[int | None, ...]:
        if x.shape.rank is None:
            raise ValueError("a tensor of unknown rank came; give it its shape with tf.ensure_shape")
        return tuple(x.shape.as_list())

    def shape(self, x: Any) -> tuple[Any, ...]:
        sizes = self.static_shape(x)
        if None not in sizes:
            return sizes
        dynamic = tf.shape(x)
        return tuple(dynamic[i] if size is None else size for i, size in enumerate(sizes))

    def holds(self, condition: Any) -> bool | None:
        # A graph has no values yet; on an accelerator, looking would wait for it.
        return bool(condition) if tf.executing_eagerly() and "CPU" in condition.device.upper() else None

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        dtype = x.dtype if tf.is_tensor(x) else y.dtype  # a bare number takes the dtype of the other
        return tf.where(condition, tf.convert_to_tensor(x, dtype), tf.convert_to_tensor(y, dtype))

    def bits(self, x: Any) -> Any:
        return tf.bitcast(x, tf.int32)

    def max(self, x: Any, axis: tuple[int, ...]) -> Any:
        return tf.reduce_max(x, axis, keepdims=True)

    def cumsum(self, x: Any) -> Any:
        return tf.cumsum(x, -1)

    def stack(self, parts: list[Any]) -> Any:
        return tf.stack(parts, 1)

    def descending(self, x: Any) -> Any:
        return tf.argsort(x, direction="DESCENDING")

    def add_up(self, values: Any | None, index: Any, size: Any) -> Any:
        return tf.math.unsorted_segment_sum(tf.ones_like(index) if values is None else values, index, size)


_ARRAYS: Any = _TensorFlowArrays()  # the framework types and names its arguments in its own way


def _mean(input: Any, target: Any, problem: Any) -> Any:
    values = losses(_ARRAYS, input, target, problem)
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype))  # 0 for no images
