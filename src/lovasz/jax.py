"""The losses for JAX: under ``jit``, ``grad``, ``vmap`` and in mixed precision; channels last by default.

The options and values are those of `lovasz.functional`; PyTorch is not imported.
"""

from __future__ import annotations

import functools
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from lovasz.choices import Activation, Classes, Method
from lovasz.ports import arguments, preparation
from lovasz.ports.arguments import Weights
from lovasz.ports.losses import losses

__all__ = ["lovasz_hinge", "lovasz_sigmoid", "lovasz_softmax"]


def lovasz_softmax(
    input: ArrayLike,
    target: ArrayLike,
    *,
    from_logits: bool = True,
    classes: Classes = "present",
    per_image: bool = False,
    ignore_index: SupportsIndex | None = None,
    weight: Weights | None = None,
    axis: int = -1,
    method: Method = "binned",
) -> Array:
    """Lovász-Softmax loss: the surrogate of one minus the mean IoU over classes.

    With p the softmax of the logits over classes, the errors of class c are (Eq. 11) ``m_i(c) = 1 - p_i(c)`` where the
    target is c and ``p_i(c)`` elsewhere, and the loss is (Eq. 12, 13) ``sum_c w_c Δ_c(m(c)) / sum_c w_c``, where Δ_c is
    the Lovász extension of the Jaccard loss of class c over all pixels of the batch.

    Args:
        input: (N, *spatial, C) or (P, C) logits, or probabilities if ``from_logits=False``; any floating dtype.
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
            [0, 1] with ``from_logits=False``, raise where they have values; what is traced, as inside ``jit`` or
            ``vmap``, has none yet, and they make the loss NaN.

    Example:
        >>> logits = jnp.array([[[2.0, 0.0], [0.0, 1.0]]])  # one image of two pixels, two classes
        >>> target = jnp.array([[0, 1]])
        >>> value, gradient = jax.value_and_grad(lovasz_softmax)(logits, target)
        >>> print(f"{value:.4f}")
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
    input: ArrayLike,
    target: ArrayLike,
    *,
    per_image: bool = True,
    ignore_index: SupportsIndex | None = None,
    activation: Activation = "relu",
    axis: int = -1,
    method: Method = "binned",
) -> Array:
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
        >>> print(f"{lovasz_hinge(jnp.array([[2.0, -0.5, -3.0]]), jnp.array([[1, 1, 0]])):.4f}")
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
    input: ArrayLike,
    target: ArrayLike,
    *,
    from_logits: bool = True,
    multilabel: bool = False,
    classes: Classes = "present",
    per_image: bool = False,
    ignore_index: SupportsIndex | None = None,
    weight: Weights | None = None,
    axis: int = -1,
    method: Method = "binned",
) -> Array:
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
        >>> print(f"{lovasz_sigmoid(jnp.array([[3.0, -2.0, -2.0]]), jnp.array([[1, 0, 0]])):.4f}")
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


class _JaxArrays:
    """`lovasz.ports.arrays.Arrays` in JAX."""

    where = staticmethod(jnp.where)
    minimum = staticmethod(jnp.minimum)
    maximum = staticmethod(jnp.maximum)
    exp = staticmethod(jnp.exp)
    log1p = staticmethod(jnp.log1p)
    sigmoid = staticmethod(jax.nn.sigmoid)
    softmax = staticmethod(jax.nn.softmax)
    any = staticmethod(jnp.any)
    reshape = staticmethod(jnp.reshape)
    transpose = staticmethod(jnp.transpose)
    expand = staticmethod(jnp.expand_dims)
    shift_right = staticmethod(jnp.right_shift)
    ones_like = staticmethod(jnp.ones_like)
    constant_of = staticmethod(jax.lax.stop_gradient)

    def array(self, value: Any) -> Any:
        wide = jax.dtypes.canonicalize_dtype("int64") == "int64"  # where the user has asked for 64 bits
        return jnp.asarray(value if wide else arguments.within_32_bits(value))

    def constant(self, values: Any, dtype: str) -> Any:
        return jnp.array(values, dtype)

    def dtype(self, x: Any) -> str:
        return x.dtype.name

    def static_shape(self, x: Any) -> tuple[int | None, ...]:
        return tuple(size if isinstance(size, int) else None for size in x.shape)  # jax.export has sizes with names

    def shape(self, x: Any) -> tuple[Any, ...]:
        return x.shape

    def holds(self, condition: Any) -> bool | None:
        return None if isinstance(condition, Tracer) else bool(condition)

    def cast(self, x: Any, dtype: str) -> Any:
        return x.astype(dtype)

    def bits(self, x: Any) -> Any:
        return jax.lax.bitcast_convert_type(x, jnp.int32)

    def max(self, x: Any, axis: tuple[int, ...]) -> Any:
        return jnp.max(x, axis, keepdims=True)

    def sum(self, x: Any, axis: int | tuple[int, ...], keepdims: bool = False) -> Any:
        return jnp.sum(x, axis, dtype=x.dtype, keepdims=keepdims)

    def cumsum(self, x: Any) -> Any:
        return jnp.cumsum(x, -1, dtype=x.dtype)

    def stack(self, parts: list[Any]) -> Any:
        return jnp.stack(parts, 1)

    def arange(self, size: Any) -> Any:
        return jnp.arange(size, dtype=jnp.int32)

    def descending(self, x: Any) -> Any:
        places = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
        return jax.lax.sort((-x, places), dimension=1, is_stable=False, num_keys=1)[1]

    def take(self, x: Any, index: Any) -> Any:
        return x.at[index].get(mode="promise_in_bounds")

    def add_up(self, values: Any | None, index: Any, size: Any) -> Any:
        zeros = jnp.zeros(size, jnp.int32 if values is None else values.dtype)
        return zeros.at[index].add(1 if values is None else values, mode="promise_in_bounds")


_ARRAYS: Any = _JaxArrays()  # the framework types and names its arguments in its own way


@functools.partial(jax.jit, static_argnums=2)
def _mean(input: Array, target: Array, problem: Any) -> Array:
    return jnp.mean(losses(_ARRAYS, input, target, problem))
