"""Forward and backward against cross-entropy and the authors' formula, after a check of the results in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import formulas
from benchmarks.timing import interleaved
from lovasz import lovasz_hinge, lovasz_sigmoid, lovasz_softmax

Loss = Callable[[Tensor, Tensor], Tensor]


def both_passes(loss: Loss, scores: Tensor, target: Tensor) -> Tensor:
    """Forward and backward; returns the gradient."""
    scores.grad = None
    loss(scores, target).backward()
    assert scores.grad is not None
    return scores.grad


def check(loss: Loss, formula: Loss, scores: Tensor, target: Tensor) -> None:
    """Raise unless value and gradient are near the formula in float64: a wrong result has no speed."""
    value, expected = loss(scores, target), formula(scores.double(), target)
    if abs(value.item() - expected.item()) > 1e-4 * abs(expected.item()):
        raise ArithmeticError(f"value {value.item()} where {expected.item()} is right")
    (gradient,) = torch.autograd.grad(loss(scores, target), scores)
    wide = scores.detach().double().requires_grad_()
    (reference,) = torch.autograd.grad(formula(wide, target), wide)
    distance = ((gradient.double() - reference).norm() / reference.norm()).item()
    if distance > 2e-3:
        raise ArithmeticError(f"gradient off by {distance:.1e}")


def multiclass(
    classes: int, images: int = 4, size: int = 512, rounds: int = 15, slow_rounds: int = 2
) -> dict[str, Any]:
    """Softmax losses on random logits and labels; the authors' formula in few rounds, for it is slow."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(images, classes, size, size, generator=generator).requires_grad_()
    target = torch.randint(0, classes, (images, size, size), generator=generator)
    small, small_target = scores[:1, :, :64, :64].detach().contiguous().requires_grad_(), target[:1, :64, :64]
    check(lambda z, t: lovasz_softmax(z, t, impl="numba"), formulas.softmax_by_class, small, small_target)
    losses: dict[str, Loss] = {
        "F.cross_entropy": F.cross_entropy,
        "lovasz_softmax": lovasz_softmax,
        "lovasz_softmax, forward only": lovasz_softmax,
    }

    def forward_only() -> None:
        with torch.no_grad():
            lovasz_softmax(scores, target)

    contestants: dict[str, Callable[[], Any]] = {
        name: (lambda loss=loss: both_passes(loss, scores, target)) for name, loss in losses.items()
    }
    contestants["lovasz_softmax, forward only"] = forward_only
    result = interleaved(contestants, rounds)
    if not slow_rounds:
        return _table(f"{images} x {classes} x {size} x {size} float32", "F.cross_entropy", result)
    slow = {
        "F.cross_entropy": lambda: both_passes(F.cross_entropy, scores, target),
        "authors' formula": lambda: both_passes(formulas.softmax_by_class, scores, target),
        "lovasz_softmax, impl='torch'": lambda: both_passes(
            lambda z, t: lovasz_softmax(z, t, impl="torch"), scores, target
        ),
        "lovasz_softmax, method='exact'": lambda: both_passes(
            lambda z, t: lovasz_softmax(z, t, method="exact"), scores, target
        ),
    }
    slow_result = interleaved(slow, slow_rounds)
    del slow_result["F.cross_entropy"]
    return _table(f"{images} x {classes} x {size} x {size} float32", "F.cross_entropy", result | slow_result)


def binary(images: int = 8, size: int = 512, rounds: int = 15) -> dict[str, Any]:
    """Binary losses on random scores."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(images, size, size, generator=generator).requires_grad_()
    target = torch.randint(0, 2, (images, size, size), generator=generator)
    floats = target.float()
    small, small_target = scores[:1, :128, :128].detach().contiguous().requires_grad_(), target[:1, :128, :128]
    check(lambda z, t: lovasz_hinge(z, t, per_image=False, impl="numba"), formulas.hinge, small, small_target)
    check(lambda z, t: lovasz_sigmoid(z, t, impl="numba"), formulas.sigmoid, small, small_target)
    yardstick = "F.binary_cross_entropy_with_logits"
    contestants = {
        yardstick: lambda: both_passes(F.binary_cross_entropy_with_logits, scores, floats),
        "lovasz_hinge": lambda: both_passes(lovasz_hinge, scores, target),
        "lovasz_sigmoid": lambda: both_passes(lovasz_sigmoid, scores, target),
        "authors' hinge formula": lambda: both_passes(formulas.hinge, scores, target),
    }
    return _table(f"{images} x {size} x {size} float32", yardstick, interleaved(contestants, rounds))


def _table(shape: str, yardstick: str, result: dict[str, Any]) -> dict[str, Any]:
    base = result[yardstick].median
    rows = [{"name": n, **timing.as_json(), "ratio": timing.median / base} for n, timing in result.items()]
    return {"input": shape, "yardstick": yardstick, "rows": rows}
