"""Losses on sets of mispredicted pixels, as functions of counts, and a check of whether one is submodular."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from torch import Tensor

SetFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


def jaccard(false_negatives: Tensor, false_positives: Tensor, foreground: Tensor) -> Tensor:
    """One minus the IoU, ``(fn + fp) / (n + fp)``, and 0 for 0/0 (Eq. 3 and 6 of the paper).

    Args:
        false_negatives, false_positives: wrong pixels of each kind, float64 counts of any one shape.
        foreground: n, the foreground pixels of the ground set; the same shape and dtype.

    Returns:
        float64 in [0, 1] of that shape, elementwise.
    """
    return (false_negatives + false_positives) / (foreground + false_positives).clamp(min=1)


def dice(false_negatives: Tensor, false_positives: Tensor, foreground: Tensor) -> Tensor:
    """One minus the Dice score, ``(fn + fp) / (2 n - fn + fp)``, and 0 for 0/0.

    It is not submodular: the extension is not convex. Arguments and result as of :func:`jaccard`.
    """
    return (false_negatives + false_positives) / (2 * foreground - false_negatives + false_positives).clamp(min=1)


def hamming(pixels: int) -> SetFunction:
    """The share of wrong pixels, ``(fn + fp) / pixels``: one minus the pixel accuracy.

    Args:
        pixels: size of the ground set, foreground and background.

    Returns:
        A function with the arguments and result of :func:`jaccard`.

    Raises:
        ValueError: ``pixels`` that is no integer of at least 1.
    """
    if isinstance(pixels, bool) or not isinstance(pixels, SupportsIndex) or operator.index(pixels) < 1:
        raise ValueError(f"pixels must be an integer of at least 1, got {pixels!r}")

    def function(false_negatives: Tensor, false_positives: Tensor, _foreground: Tensor) -> Tensor:
        return (false_negatives + false_positives) / pixels

    return function


def resolve(set_function: str | SetFunction, pixels: int) -> SetFunction | None:
    """The function behind a name, checked to be 0 where nothing is wrong; None stands for Jaccard's closed form."""
    if isinstance(set_function, str):
        if set_function == "jaccard":
            return None
        if set_function == "hamming":
            return hamming(pixels)
        raise ValueError(f'set_function must be "jaccard", "hamming" or a function of counts, got {set_function!r}')
    if not callable(set_function):
        raise TypeError(f"set_function must be a name or a function of counts, got {type(set_function).__name__}")
    foreground = torch.arange(3, dtype=torch.float64, device="cpu")
    at_zero = set_function(torch.zeros_like(foreground), torch.zeros_like(foreground), foreground)
    if not isinstance(at_zero, Tensor) or at_zero.shape != foreground.shape:
        raise TypeError("set_function must return a tensor of the shape of its arguments, elementwise in the counts")
    if not torch.equal(at_zero.double(), torch.zeros_like(foreground)):
        raise ValueError(
            f"set_function must be 0 without errors, f(0, 0, n) = 0; got {at_zero.tolist()} at n = 0, 1, 2"
        )
    return set_function


@dataclass(frozen=True)
class Violation:
    """Where a set function is not submodular: a wrong pixel costs more after another went wrong than before.

    Attributes:
        foreground, background: pixels of each kind in the ground set.
        false_negatives, false_positives: the errors already made.
        pair: the two further pixels, each "foreground" or "background".
        gain_alone, gain_after: the cost of the first of them before and after the second went wrong.
    """

    foreground: int
    background: int
    false_negatives: int
    false_positives: int
    pair: tuple[str, str]
    gain_alone: float
    gain_after: float


def find_violation(
    set_function: str | SetFunction, *, max_pixels: int = 8, tolerance: float = 1e-12
) -> Violation | None:
    """Look for a place where a set function is not submodular (Definition 1 of the paper), on all small ground sets.

    A function of counts is submodular on a ground set exactly if for every state and every two further pixels u and v
    ``f(M + u) + f(M + v) >= f(M + u + v) + f(M)``. Since only counts matter, all states can be tried.

    Args:
        set_function: "jaccard", "hamming", or a function of float64 counts with the arguments of :func:`jaccard`,
            elementwise, with ``f(0, 0, n) = 0``.
        max_pixels: ground sets of 2 up to this many pixels are tried, with every number of foreground pixels.
        tolerance: slack for rounding, relative to the largest value of the function, or 1 if that is larger; never
            below 8 machine epsilons of the function's own dtype.

    Returns:
        None if no violation was found, else the first one. None is a proof for these sizes only.

    Raises:
        TypeError: a set function that is neither a name nor callable, or whose result has another shape; a
            ``tolerance`` that is no number.
        ValueError: an unknown name, a ``max_pixels`` below 2, a ``tolerance`` that is negative or not finite, a set
            function that is not 0 without errors or not finite for some counts.

    Example:
        >>> find_violation("jaccard") is None
        True
        >>> find_violation(dice) is None
        False
    """
    try:
        largest = operator.index(max_pixels)
    except TypeError:
        largest = 0
    if largest < 2:
        raise ValueError(
            f"max_pixels must be an integer of at least 2, a violation needs two pixels; got {max_pixels!r}"
        )
    if not isinstance(tolerance, int | float):
        raise TypeError(f"tolerance must be a number, got {tolerance!r}")
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be finite and not negative, got {tolerance}")
    for pixels in range(2, largest + 1):
        function = resolve(set_function, pixels) or jaccard
        for foreground in range(pixels + 1):
            violation = _violation_on(function, foreground, pixels - foreground, tolerance)
            if violation is not None:
                return violation
    return None


def _violation_on(function: SetFunction, foreground: int, background: int, tolerance: float) -> Violation | None:
    missed, alarms = torch.meshgrid(
        torch.arange(foreground + 1, dtype=torch.float64, device="cpu"),
        torch.arange(background + 1, dtype=torch.float64, device="cpu"),
        indexing="ij",
    )
    values = function(missed, alarms, torch.full_like(missed, foreground))  # (n + 1, b + 1)
    values = torch.as_tensor(values)
    if not values.isfinite().all():
        raise ValueError(
            f"set_function is not finite everywhere with {foreground} foreground and {background} background pixels, "
            "so it cannot be tried; give every count a number"
        )
    if values.is_floating_point():
        tolerance = max(tolerance, 8 * torch.finfo(values.dtype).eps)
    values = values.double()
    tolerance *= max(1.0, float(values.abs().max()))
    steps = {"foreground": (1, 0), "background": (0, 1)}
    for first, second in (("foreground", "foreground"), ("foreground", "background"), ("background", "background")):
        (a, b), (c, d) = steps[first], steps[second]
        for k in range(foreground + 1 - a - c):
            for j in range(background + 1 - b - d):
                alone = float(values[k + a, j + b] - values[k, j])
                after = float(values[k + a + c, j + b + d] - values[k + c, j + d])
                if after > alone + tolerance:
                    return Violation(foreground, background, k, j, (first, second), alone, after)
    return None


def is_submodular(set_function: str | SetFunction, *, max_pixels: int = 8) -> bool:
    """Whether no ground set of up to ``max_pixels`` pixels violates submodularity; only then is the extension convex.

    Args:
        set_function, max_pixels: as :func:`find_violation`, which names the violation, and so are the errors.

    Returns:
        True if :func:`find_violation` finds none.
    """
    return find_violation(set_function, max_pixels=max_pixels) is None
