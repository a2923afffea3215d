"""What `lovasz.keras` asks of Keras: `lovasz.ports.arrays.Arrays` in `keras.ops`, sizes, labels and masks.

Apart from the losses, whose file is what a user reads.
"""

from __future__ import annotations

from typing import Any

import keras

# Not public, but where Keras's own losses look for a mask: arrays of JAX cannot bear marks.
from keras.src.backend import get_keras_mask

from lovasz.ports import arguments

__all__ = ["ARRAYS", "integer_labels", "mask_of", "ops", "share_of_replica", "sizes"]

ops: Any = keras.ops
mask_of = get_keras_mask


def sizes(x: Any) -> tuple[int | None, ...]:
    """The sizes of a tensor, None where they are known only when the compiled function runs."""
    if getattr(x.shape, "rank", 0) is None:  # TensorFlow's
        raise ValueError("a tensor of unknown rank came; give it its shape with tf.ensure_shape")
    return tuple(size if isinstance(size, int) else None for size in x.shape)  # JAX has sizes with names


def integer_labels(y_true: Any) -> Any:
    """The target as integers. Keras's data adapters hand out floating labels; a fraction is no class."""
    y_true = ARRAYS.array(y_true)
    if not keras.backend.is_float_dtype(y_true.dtype):
        return y_true
    stray = ops.cast(-(2**31), "int32")
    return ops.where(y_true == ops.round(y_true), ops.cast(y_true, "int32"), stray)


def share_of_replica(loss: Any) -> Any:
    """A mean as one replica of a TensorFlow strategy gives it: Keras adds the replicas' up, as of its own losses."""
    if keras.backend.backend() != "tensorflow":
        return loss
    import tensorflow as tf

    return loss / tf.distribute.get_strategy().num_replicas_in_sync


class KerasArrays:
    """`lovasz.ports.arrays.Arrays` in keras.ops."""

    constant = staticmethod(ops.convert_to_tensor)
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

    def array(self, value: Any) -> Any:
        narrow = keras.backend.backend() == "jax"  # 64 bits there only where JAX's user has asked for them
        return ops.convert_to_tensor(arguments.within_32_bits(value) if narrow else value)

    def dtype(self, x: Any) -> str:
        return keras.backend.standardize_dtype(x.dtype)

    def static_shape(self, x: Any) -> tuple[int | None, ...]:
        return sizes(x)

    def holds(self, condition: Any) -> bool | None:
        if keras.backend.backend() == "torch" and condition.device.type != "cpu":
            return None  # looking would wait for the device
        try:
            return bool(condition)
        except TypeError:  # JAX and TensorFlow: it is being traced and has no value yet
            return None

    def bits(self, x: Any) -> Any:
        return ops.view(x, "int32")

    def max(self, x: Any, axis: tuple[int, ...]) -> Any:
        return ops.max(x, axis, keepdims=True)

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
        summands: Any = ops.ones_like(index) if values is None else values
        if keras.backend.backend() == "torch":  # whose segment_sum adds integers up in float32
            return ops.zeros((size,), keras.backend.standardize_dtype(summands.dtype)).index_add(0, index, summands)
        return ops.segment_sum(summands, index, num_segments=size)


ARRAYS: Any = KerasArrays()  # the framework types and names its arguments in its own way
