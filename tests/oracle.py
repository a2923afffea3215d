"""The losses by their definition, sharing no code with the package: level sets and Python loops in float64.

The Lovász extension of a set function Δ at m >= 0 is the integral over t of Δ({i: m_i >= t}) (Bach 2013, Eq. 3.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from torch import Tensor


def jaccard_loss(wrong: np.ndarray, foreground: np.ndarray) -> float:
    """One minus the IoU of the truth and the prediction that errs on ``wrong``; 0 for 0/0."""
    prediction = foreground ^ wrong
    union = (prediction | foreground).sum()
    return 0.0 if union == 0 else 1.0 - (prediction & foreground).sum() / union


def extension(errors: np.ndarray, foreground: np.ndarray, loss: Callable = jaccard_loss) -> float:
    """The integral over levels of the loss of the set of pixels with errors at or above the level."""
    levels = np.unique(np.concatenate([[0.0], errors]))  # increasing
    return sum((high - low) * loss(errors >= high, foreground) for low, high in pairwise(levels))


def errors_of(kind: str, scores: np.ndarray, foreground: np.ndarray, channel: int) -> np.ndarray:
    """The errors of one class or channel of (C, P) scores."""
    z = scores[channel]
    if kind == "softmax":
        shifted = np.exp(scores - scores.max(0))
        z = shifted[channel] / shifted.sum(0)
    elif kind == "sigmoid":
        z = np.array([1 / (1 + math.exp(-v)) for v in z])
    elif kind in ("hinge", "elu"):
        margin = 1 - np.where(foreground, z, -z)
        return (
            np.maximum(margin, 0)
            if kind == "hinge"
            else np.where(margin > 0, margin + 1, np.exp(np.minimum(margin, 0)))
        )
    return np.where(foreground, 1 - z, z)


def loss(
    kind: str,
    scores: Tensor,
    target: Tensor,
    *,
    labelled: bool,
    classes: str | list[int] = "all",
    per_image: bool = False,
    ignore_index: int | None = None,
    weight: list[float] | None = None,
) -> float:
    """The loss of (N, C, S) scores against (N, S) labels or (N, C, S) masks."""
    s, t = scores.double().numpy(), target.long().numpy()
    images, channels, _ = s.shape
    weights = [1.0] * channels if weight is None else weight
    results = []
    for chosen in [[n] for n in range(images)] if per_image else [list(range(images))]:
        terms, shares = [], []
        for c in range(channels):
            values, masks = [], []
            for n in chosen:
                truth = t[n] if labelled else t[n, c]
                valid = np.ones_like(truth, bool) if ignore_index is None else truth != ignore_index
                foreground = (truth == c) if labelled else (truth == 1)
                clean = np.where(valid, s[n], 0)  # void scores may be anything
                values.append(errors_of(kind, clean, foreground, c)[valid])
                masks.append(foreground[valid])
            errors, foreground = np.concatenate(values), np.concatenate(masks)
            if classes == "present" and not foreground.any():
                continue
            if not isinstance(classes, str) and c not in classes:
                continue
            terms.append(weights[c] * extension(errors, foreground))
            shares.append(weights[c])
        results.append(sum(terms) / sum(shares) if sum(shares) > 0 else 0.0)
    return sum(results) / len(results)


def slope(function: Callable[[Tensor], float], at: Tensor, direction: Tensor, step: float = 1e-5) -> float:
    """Central difference of a function of a float64 tensor along a direction."""
    at = at.double()
    return (function(at + step * direction) - function(at - step * direction)) / (2 * step)


def relative(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 distance; the plain norm where nothing is expected."""
    difference = (actual.double() - expected.double()).norm()
    return float(difference / expected.double().norm()) if bool(expected.any()) else float(difference)
