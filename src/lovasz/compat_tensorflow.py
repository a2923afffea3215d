"""The names and signatures of the authors' `lovasz_losses_tf.py` (bermanmaxim/LovaszSoftmax): a one-line switch.

    from lovasz import compat_tensorflow as L      # was: import lovasz_losses_tf as L

Values are the authors', by a sort. Mended: nothing has a size that depends on values except the two functions that
flatten, so that the losses compile with ``jit_compile=True``; a batch, or an image of a per-image mean, that is void
throughout counts as 0 (theirs is NaN under ``classes="present"``); half precision is computed in float32 and float64 in
float64; the weights come from integer counts. Labels that name no class and are not `ignore` raise in eager execution
and make the loss NaN in a graph (theirs takes them for background of every class), and so do probabilities outside
[0, 1].
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from lovasz import tensorflow as port
from lovasz.authors import in_their_names
from lovasz.choices import Classes

# The authors' names of arguments and orders are kept as they are.
_AXES = {"BHWC": -1, "BCHW": 1}
_hinge = in_their_names("logits", port.lovasz_hinge, method="exact")
_softmax = in_their_names("probas", port.lovasz_softmax, from_logits=False, method="exact")
_sigmoid = in_their_names("probas", port.lovasz_sigmoid, from_logits=False, method="exact")


def lovasz_grad(gt_sorted: Any) -> Any:
    """Gradient of the Lovász extension of the Jaccard loss in the sorted errors (Algorithm 1 of the paper).

    Args:
        gt_sorted: (P,) 0/1 ground truth in the order of decreasing errors; of any dtype. All but 1 is background.

    Returns:
        (P,) weights, float64 for a float64 argument, else float32.

    Example:
        >>> print([round(float(g), 4) for g in lovasz_grad(tf.constant([1.0, 0.0, 1.0]))])
        [0.5, 0.1667, 0.3333]
    """
    gt_sorted = tf.convert_to_tensor(gt_sorted)
    dtype = tf.float64 if gt_sorted.dtype == tf.float64 else tf.float32
    foreground = gt_sorted if gt_sorted.dtype == tf.bool else tf.equal(gt_sorted, 1)
    f, b = tf.cast(foreground, tf.int32), tf.cast(~foreground, tf.int32)
    n = tf.reduce_sum(f)
    union = n + tf.cumsum(b, exclusive=True)
    remaining = n - tf.cumsum(f, exclusive=True)
    first = tf.cast(tf.equal(tf.cumsum(b), 1), dtype)  # without foreground, the largest error bears all
    a = tf.cast(tf.maximum(union, 1), dtype)
    weights = tf.where(foreground, 1 / a, tf.cast(remaining, dtype) / a / (a + 1))
    return tf.where(n > 0, weights, first)


# ------------------------------------------------------------------ binary losses


def lovasz_hinge(logits: Any, labels: Any, per_image: bool = True, ignore: int | None = None) -> Any:
    """Binary Lovász hinge loss: the Lovász extension of the Jaccard loss at the hinge errors (Eq. 7, 8).

    Args:
        logits: (B, H, W) scores, or any (B, ...), positive for foreground; any floating dtype.
        labels: same shape (a channel of size 1 may be there or not), 0 and 1, and `ignore`.
        per_image: mean of the losses of the images, else one loss of all pixels. Of (P,) logits each pixel is an image.
        ignore: void label.

    Returns:
        A scalar, float64 for float64 logits, else float32; errors as in `lovasz.tensorflow.lovasz_hinge`.
    """
    logits, labels = tf.convert_to_tensor(logits), _whole(labels)
    logits, labels = _shaped(logits, labels.shape), _shaped(labels, logits.shape)
    if logits.shape.rank and logits.shape.is_compatible_with(labels.shape):
        # Volumes too, as the authors' flattening takes them, and images of one pixel: the port wants a channel then.
        logits, labels = logits[..., tf.newaxis, tf.newaxis], labels[..., tf.newaxis, tf.newaxis]
    return _hinge(logits, labels, per_image=bool(per_image), ignore_index=ignore)


def lovasz_hinge_flat(logits: Any, labels: Any) -> Any:
    """Binary Lovász hinge loss of (P,) logits and (P,) labels 0 and 1.

    Returns:
        A scalar, float64 for float64 logits, else float32; 0 for P = 0.

    Raises:
        TypeError, ValueError: as `lovasz.tensorflow.lovasz_hinge`.
    """
    logits = tf.convert_to_tensor(logits)
    if logits.shape.num_elements() == 0:
        return tf.reduce_sum(logits) * 0.0
    return _hinge(logits, _whole(labels), per_image=False)


def flatten_binary_scores(scores: Any, labels: Any, ignore: int | None = None) -> tuple[Any, Any]:
    """Scores and labels, of one shape, as (P,) vectors of their own dtypes, without the pixels labelled `ignore`.

    With `ignore` the size depends on the values: not for ``jit_compile=True``.
    """
    scores, labels = tf.reshape(scores, (-1,)), tf.reshape(labels, (-1,))
    if ignore is None:
        return scores, labels
    valid = tf.not_equal(_whole(labels), ignore)
    return tf.boolean_mask(scores, valid), tf.boolean_mask(labels, valid)


# ------------------------------------------------------------------ multi-class losses


def lovasz_softmax(
    probas: Any,
    labels: Any,
    classes: Classes = "all",
    per_image: bool = False,
    ignore: int | None = None,
    order: str = "BHWC",
) -> Any:
    """Multi-class Lovász-Softmax loss of probabilities p (Eq. 11 to 13).

    The mean over `classes` of each one's Jaccard loss, extended to the errors 1 - p on its pixels and p elsewhere.

    Args:
        probas: (B, H, W, C) class probabilities, or (B, C, H, W) with ``order="BCHW"``; or (B, H, W), also with a
            channel of size 1, the sigmoid output for the one class that `classes` names, such as [1].
        labels: (B, H, W) or (B, H, W, 1), 0..C-1 and `ignore`.
        classes: "all", "present" for those that occur in labels, or a list of classes to average.
        per_image: mean of the losses of the images, else one loss of all pixels.
        ignore: void label.
        order: "BHWC" or "BCHW".

    Returns:
        A scalar in [0, 1], float64 for float64 probabilities, else float32; errors as in
        `lovasz.tensorflow.lovasz_softmax`.

    Raises:
        NotImplementedError: another order.
        ValueError: a sigmoid output without exactly one class in `classes`.
    """
    probas, axis = tf.convert_to_tensor(probas), _axis(order)
    if probas.shape.rank == 3 or (probas.shape.rank == 4 and probas.shape[axis] == 1):
        foreground = _foreground(_shaped(_whole(labels), probas.shape), classes, ignore)
        void = None if ignore is None else -1
        return _sigmoid(probas, foreground, per_image=bool(per_image), ignore_index=void, axis=axis)
    of_pixels = probas.shape[:-1] if axis == -1 else probas.shape[:1].concatenate(probas.shape[2:])
    labels = _shaped(_whole(labels), of_pixels)
    return _softmax(probas, labels, classes=classes, per_image=bool(per_image), ignore_index=ignore, axis=axis)


def lovasz_softmax_flat(probas: Any, labels: Any, classes: Classes = "all") -> Any:
    """Lovász-Softmax loss of (P, C) probabilities and (P,) labels. C = 1 is a sigmoid's one class.

    Returns:
        A scalar, float64 for float64 probabilities, else float32; 0 for P = 0.

    Raises:
        TypeError, ValueError: as `lovasz.tensorflow.lovasz_softmax`.
    """
    probas = tf.convert_to_tensor(probas)
    if probas.shape.num_elements() == 0:
        return tf.reduce_sum(probas) * 0.0
    if probas.shape[1] == 1:
        return _sigmoid(probas[:, 0], _foreground(_whole(labels), classes, None))
    return _softmax(probas, _whole(labels), classes=classes)


def flatten_probas(probas: Any, labels: Any, ignore: int | None = None, order: str = "BHWC") -> tuple[Any, Any]:
    """Probabilities, or (B, H, W) of a sigmoid, as (P, C) and labels as (P,), without `ignore` pixels.

    With `ignore` the size depends on the values: not for ``jit_compile=True``.
    """
    probas = tf.convert_to_tensor(probas)
    axis = _axis(order)
    if probas.shape.rank == 3:
        probas = tf.expand_dims(probas, 3)  # (B, H, W, 1)
    elif axis == 1:
        probas = tf.transpose(probas, (0, 2, 3, 1))
    probas, labels = tf.reshape(probas, (-1, probas.shape[3])), tf.reshape(labels, (-1,))  # (P, C), (P,)
    if ignore is None:
        return probas, labels
    valid = tf.not_equal(_whole(labels), ignore)
    return tf.boolean_mask(probas, valid), tf.boolean_mask(labels, valid)


def _foreground(labels: Any, classes: Classes, ignore: int | None) -> Any:
    """1 where the one class of a sigmoid is, 0 elsewhere, -1 where void."""
    if isinstance(classes, str | bool) or len(classes) != 1:
        raise ValueError(f"a sigmoid output, probas (B, H, W), is one class: name it, classes=[1]; got {classes!r}")
    foreground = tf.cast(tf.equal(labels, classes[0]), tf.int32)
    if ignore is None:
        return foreground
    return tf.where(tf.equal(labels, ignore), -1, foreground)


def _axis(order: str) -> int:
    if order not in _AXES:
        raise NotImplementedError(f"order must be 'BHWC' or 'BCHW', got {order!r}")
    return _AXES[order]


def _shaped(x: Any, shape: Any) -> Any:
    """A tensor without a channel of size 1 that such a shape does not have: the authors flatten whatever comes."""
    if x.shape.rank is None or shape.rank is None or x.shape.rank != shape.rank + 1:
        return x
    for axis in (-1, 1):
        if x.shape[axis] == 1 and tf.squeeze(x, axis).shape.is_compatible_with(shape):
            return tf.squeeze(x, axis)
    return x


def _whole(labels: Any) -> Any:
    """Labels as integers. Floating labels are taken, as the authors take them, if they are whole numbers."""
    labels = tf.convert_to_tensor(labels)
    if not labels.dtype.is_floating:
        return tf.cast(labels, tf.int64)  # in uint8, -1 would equal 255
    stray = tf.constant(-(2**31), tf.int32)  # a fraction is no class, and is refused as such
    return tf.where(tf.equal(labels, tf.round(labels)), tf.cast(labels, tf.int32), stray)
