"""The authors' formulas, written anew for comparison; on float64 logits they are the yardstick of accuracy."""

from __future__ import annotations

import torch
from torch import Tensor


def jaccard_slopes(foreground: Tensor) -> Tensor:
    """Differences of the Jaccard loss along sorted pixels as the authors take them: float cumsum, divide, subtract."""
    total = foreground.sum()
    loss = 1 - (total - foreground.cumsum(0)) / (total + (1 - foreground).cumsum(0))
    return torch.cat([loss[:1], loss[1:] - loss[:-1]])


def softmax_by_class(logits: Tensor, target: Tensor) -> Tensor:
    """Lovász-Softmax by the authors' formula: a sort for each class that is present, in the precision of the logits."""
    probabilities = logits.softmax(1).transpose(0, 1).flatten(1)  # (C, P)
    labels = target.flatten()
    losses = []
    for c in range(len(probabilities)):
        foreground = (labels == c).to(logits.dtype)
        if foreground.sum() == 0:
            continue
        errors, order = (foreground - probabilities[c]).abs().sort(descending=True)
        losses.append(errors @ jaccard_slopes(foreground[order]))
    return torch.stack(losses).mean()


def sigmoid(logits: Tensor, target: Tensor) -> Tensor:
    """The same for one class with a sigmoid, over the whole batch."""
    foreground = target.flatten().to(logits.dtype)
    errors, order = (foreground - logits.flatten().sigmoid()).abs().sort(descending=True)
    return errors @ jaccard_slopes(foreground[order])


def hinge(logits: Tensor, target: Tensor) -> Tensor:
    """The Lovász hinge over the whole batch, by the authors' formula."""
    foreground = target.flatten().to(logits.dtype)
    errors, order = (1 - logits.flatten() * (2 * foreground - 1)).sort(descending=True)
    return errors.relu() @ jaccard_slopes(foreground[order])
