"""The authors' formulas, written anew for comparison; on float64 logits they are the yardstick of accuracy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def jaccard_slopes(foreground: Tensor) -> Tensor:
    """Differences of the Jaccard loss along sorted pixels as the authors take them: float cumsum, divide, subtract."""
    total = foreground.sum()
    loss = 1 - (total - foreground.cumsum(0)) / (total + (1 - foreground).cumsum(0))
    return torch.cat([loss[:1], loss[1:] - loss[:-1]])


def of_one_class(probabilities: Tensor, foreground: Tensor) -> Tensor:
    """The loss of one class from its probabilities (P,) and its 0/1 ground truth in the same dtype."""
    errors, order = (foreground - probabilities).abs().sort(descending=True)
    return errors @ jaccard_slopes(foreground[order])


def softmax_by_class(
    logits: Tensor,
    target: Tensor,
    *,
    absent: bool = False,
    one_class: Callable[[Tensor, Tensor], Tensor] = of_one_class,
) -> Tensor:
    """Lovász-Softmax by the authors' formula: a sort for each class that is present, in the precision of the logits.

    With ``absent``, classes that are not present count as well.
    """
    probabilities = logits.softmax(1).transpose(0, 1).flatten(1)  # (C, P)
    labels = target.flatten()
    losses = []
    for c in range(len(probabilities)):
        foreground = (labels == c).to(logits.dtype)
        if not absent and foreground.sum() == 0:
            continue
        losses.append(one_class(probabilities[c], foreground))
    return torch.stack(losses).mean()


def sigmoid(logits: Tensor, target: Tensor) -> Tensor:
    """The same for one class with a sigmoid, over the whole batch."""
    return of_one_class(logits.flatten().sigmoid(), target.flatten().to(logits.dtype))


def hinge(logits: Tensor, target: Tensor) -> Tensor:
    """The Lovász hinge over the whole batch, by the authors' formula."""
    foreground = target.flatten().to(logits.dtype)
    errors, order = (1 - logits.flatten() * (2 * foreground - 1)).sort(descending=True)
    return errors.relu() @ jaccard_slopes(foreground[order])
