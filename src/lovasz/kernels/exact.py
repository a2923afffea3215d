"""The definition by one sort, in plain torch: the reference that every other kernel must equal.

Apart from the binned kernels because it shares nothing with them; it runs on any device and traces into one graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lovasz.devices import where_float64_is, widest
from lovasz.problem import Problem, raw_errors
from lovasz.set_functions import SetFunction


def jaccard_weights(foreground: Tensor, valid: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights of the errors, already sorted in decreasing order, in the Lovász extension of the Jaccard loss.

    These are the differences of the Jaccard loss along the sorted pixels (Algorithm 1 of the paper), in closed form
    from integer counts, hence without the cancellation of ``jaccard[1:] - jaccard[:-1]``. With n foreground pixels, of
    which k come before pixel i together with j background pixels::

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


def set_function_weights(foreground: Tensor, set_function: SetFunction, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights as in :func:`jaccard_weights`, for any set function ``f(false_negatives, false_positives, foreground)``.

    The differences are taken in float64 along the sorted pixels: ``g_i = f(M_i) - f(M_{i-1})`` (Eq. 9).
    """
    total = foreground.sum(-1, keepdim=True)
    zero = torch.zeros_like(total)
    missed = torch.cat([zero, foreground.cumsum(-1)], -1)  # (G, P + 1)
    false_alarms = torch.cat([zero, (~foreground).cumsum(-1)], -1)
    counts = (where_float64_is(count).double() for count in (missed, false_alarms, total.expand_as(missed)))
    return set_function(*counts).diff(dim=-1).to(dtype).to(foreground.device)


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
        valid: (G, P) bool or None; pixels that do not count have neither value nor gradient. Not with set_function.
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
        weights = set_function_weights(foreground, set_function, ordered.dtype)
    if valid is not None:
        ordered = ordered.masked_fill(~valid, 0)
    if activation is not None:
        ordered = activation(ordered)
    return (ordered * weights).sum(-1)


def loss(
    input: Tensor,
    target: Tensor,
    problem: Problem,
    weight: Tensor | None,
    group: None = None,  # noqa: ARG001 - as all kernels have it; `choose` sends no shared batch here
) -> Tensor:
    """The loss of (N, C, S) scores against (N, S) labels or (N, C, S) masks; see ``lovasz.functional``.

    Computed in float64 (float32 on devices without it): the logits of a confident network alone cost float32 a digit.
    """
    images, classes, _ = input.shape
    valid = None if problem.ignore_index is None else target != problem.ignore_index
    if problem.labelled:
        foreground = target.unsqueeze(1) == torch.arange(classes, device=input.device).view(1, -1, 1)  # (N, C, S)
        valid = None if valid is None else valid.unsqueeze(1).expand_as(foreground)
    else:
        foreground = target == 1
    scores = input.to(widest(input.device))
    if valid is not None:
        scores = scores.masked_fill(~valid, 0)  # void pixels are not even read: they may hold NaN
    errors, activation = raw_errors(scores, foreground, problem.errors)
    if not problem.per_image:
        errors, foreground, valid = (_joined(t) for t in (errors, foreground, valid))  # (1, C, P)
        images = 1
    errors, foreground = errors.flatten(0, 1), foreground.flatten(0, 1)  # (N C, P)
    valid = None if valid is None else valid.flatten(0, 1)
    losses = extension(errors, foreground, valid, activation=activation).view(images, classes)
    present = (foreground if valid is None else foreground & valid).sum(-1).view(images, classes)
    shares = problem.shares(present, weight).to(losses.dtype)
    if problem.errors != "softmax":  # whose classes share a NaN; of others, one left out must not spoil: 0 * NaN is NaN
        losses = torch.where(shares > 0, losses, 0)
    value = (losses * shares).sum()
    return value.to(torch.promote_types(input.dtype, torch.float32))


def _joined(tensor: Tensor | None) -> Any:
    """The pixels of all images in one row per class: (N, C, S) to (1, C, N S)."""
    return None if tensor is None else tensor.transpose(0, 1).flatten(1).unsqueeze(0)
