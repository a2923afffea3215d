"""A wrong result has no speed: value and gradient against the definition in float64, before anything is timed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]

VALUE_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 2e-3


def value_and_gradient(loss: Loss, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its gradient at the scores."""
    leaf = scores.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = loss(leaf, target)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def distances(loss: Loss, formula: Loss, scores: Tensor, target: Tensor) -> tuple[float, float]:
    """Relative error of the value, and of the gradient in L2 norm, against ``formula`` on the scores in float64."""
    return _distances(loss, scores, target, *value_and_gradient(formula, scores.double(), target))


def _distances(loss: Loss, scores: Tensor, target: Tensor, expected: Tensor, reference: Tensor) -> tuple[float, float]:
    value, gradient = value_and_gradient(loss, scores, target)
    far = (gradient.double() - reference).norm() / reference.norm()
    return abs(value.double() - expected).item() / abs(expected.item()), far.item()


def fault(loss: Loss, formula: Loss, scores: Tensor, target: Tensor) -> str:
    """Empty if the loss is near its definition on these scores, else how far it is off."""
    expected, reference = value_and_gradient(formula, scores.double(), target)
    value, gradient = _distances(loss, scores, target, expected, reference)
    rounding, rounded = 0.0, 0.0
    if scores.dtype not in (torch.float32, torch.float64):
        # What the true gradient loses in this format: many of its elements are too small for float16's normal numbers.
        rounding = torch.finfo(scores.dtype).eps
        rounded = ((reference.to(scores.dtype) - reference).norm() / reference.norm()).item()
    found = []
    # A value far off may be NaN: compare so that NaN counts as far.
    if not value <= VALUE_TOLERANCE + rounding:
        found.append(f"value off by {_percent(value)}")
    if not gradient <= GRADIENT_TOLERANCE + rounded:
        found.append(f"gradient off by {_percent(gradient)}")
    return " and ".join(found)


def check(name: str, loss: Loss, formula: Loss, scores: Tensor, target: Tensor) -> None:
    """Raise ArithmeticError unless value and gradient are near the definition in float64."""
    problem = fault(loss, formula, scores, target)
    if problem:
        raise ArithmeticError(f"{name} on {tuple(scores.shape)} {scores.dtype}: {problem}; not timed")


def both_passes(loss: Loss, scores: Tensor, target: Tensor) -> Tensor:
    """Forward and backward; returns the gradient.

    Who times this drops the gradient before the clock stops, so that each contestant pays for giving its own memory
    back, and none for its predecessor's.
    """
    (gradient,) = torch.autograd.grad(loss(scores, target), scores)
    return gradient


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 1e-3 else f"{share:.1e}"
