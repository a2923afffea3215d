"""The definition by one sort, in plain torch: the reference that every other kernel must equal.

Apart from the binned kernels because it shares nothing with them; it runs on any device and traces into one graph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SetFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


def jaccard_weights(foreground: Tensor, valid: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights of the errors, already sorted in decreasing order, in the Lovász extension of the Jaccard loss.

    These are the differences of the Jaccard loss along the sorted pixels (Algorithm 1 of the paper), in closed form from
    integer counts, hence without the cancellation of ``jaccard[1:] - jaccard[:-1]``. With n foreground pixels, of which k
    come before pixel i together with j background pixels::

        g_i = 1 / (n + j)                          foreground
        g_i = (n - k) / ((n + j) (n + j + 1))      background
        n = 0: 1 for the first pixel, 0 for the rest

    Args:
        foreground: (G, P) bool, in the order of decreasing errors.
        valid: (G, P) bool, False where a pixel does not count; those must come last.
        dtype: floating dtype of the result.

    Returns:
        (G, P) weights, not negative; each row sums to 1 if it has a valid pixel.
    """
    background = ~foreground if valid is None else ~foreground & valid
    total = foreground.sum(-1, keepdim=True)  # (G, 1)
    passed_foreground = foreground.cumsum(-1) - foreground.long()  # (G, P) k
    passed_background = background.cumsum(-1) - background.long()  # (G, P) j
    union = (total + passed_background).clamp(min=1).to(dtype)
    remaining = (total - passed_foreground).to(dtype)
    weights = torch.where(foreground, 1 / union, remaining / union / (union + 1))
    first = background & (passed_background == 0) & (total == 0)
    weights = torch.where(total == 0, first.to(dtype), weights)
    return weights if valid is None else weights * valid


def set_function_weights(
    foreground: Tensor, set_function: SetFunction, valid: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Weights as in :func:`jaccard_weights`, for any set function ``f(false_negatives, false_positives, foreground)``.

    The differences are taken in float64 along the sorted pixels: ``g_i = f(M_i) - f(M_{i-1})`` (Eq. 9).
    """
    background = ~foreground if valid is None else ~foreground & valid
    total = foreground.sum(-1, keepdim=True)
    zero = torch.zeros_like(total)
    missed = torch.cat([zero, foreground.cumsum(-1)], -1)  # (G, P + 1)
    false_alarms = torch.cat([zero, background.cumsum(-1)], -1)
    values = set_function(missed.double(), false_alarms.double(), total.double().expand_as(missed))
    return values.diff(dim=-1).to(dtype)


def extension(
    errors: Tensor,
    foreground: Tensor,
    valid: Tensor | None = None,
    *,
    activation: Callable[[Tensor], Tensor] | None = None,
    set_function: SetFunction | None = None,
) -> Tensor:
    """The Lovász extension (Definition 2, Eq. 8) of each row of errors: sort once, weigh, sum.

    Args:
        errors: (G, P) floating, differentiable.
        foreground: (G, P) bool.
        valid: (G, P) bool or None; pixels that do not count have neither value nor gradient.
        activation: applied to the sorted errors, not decreasing (the hinge's ``relu``).
        set_function: None for the Jaccard loss of Eq. 6.

    Returns:
        (G,) values.
    """
    if valid is not None:
        foreground = foreground & valid
        errors = errors.masked_fill(~valid, -torch.inf)
    ordered, order = errors.sort(dim=-1, descending=True)
    foreground = foreground.gather(-1, order)
    valid = None if valid is None else valid.gather(-1, order)
    if set_function is None:
        weights = jaccard_weights(foreground, valid, ordered.dtype)
    else:
        weights = set_function_weights(foreground, set_function, valid, ordered.dtype)
    if valid is not None:
        ordered = ordered.masked_fill(~valid, 0)
    if activation is not None:
        ordered = activation(ordered)
    return (ordered * weights).sum(-1)
