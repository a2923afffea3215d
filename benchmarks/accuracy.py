"""Distance to float64 of value and gradient, ours and the authors' float32 formula, over distributions of errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import formulas
from benchmarks.distributions import BINARY, MULTICLASS, binary, multiclass
from lovasz import lovasz_sigmoid, lovasz_softmax


def rows() -> list[dict[str, Any]]:
    """One row per distribution: relative error of the value and relative L2 error of the gradient at the logits."""
    cases = [(f"one class: {kind}", lovasz_sigmoid, formulas.sigmoid, binary(kind)) for kind in BINARY]
    for classes in (2, 21, 150):
        size = 128 if classes > 100 else 256
        cases += [
            (f"{classes} classes: {kind}", lovasz_softmax, formulas.softmax_by_class, multiclass(kind, classes, size))
            for kind in MULTICLASS
        ]
    return [_row(name, ours, formula, *inputs) for name, ours, formula, inputs in cases]


def _row(name: str, ours: Callable, formula: Callable, logits: Tensor, target: Tensor) -> dict[str, Any]:
    value, gradient = _run(formula, logits.double(), target)
    row: dict[str, Any] = {"input": name}
    for label, loss in (("ours", ours), ("authors' float32", formula)):
        other, slope = _run(loss, logits, target)
        row[f"{label}, value"] = abs(other - value) / abs(value)
        row[f"{label}, gradient"] = ((slope.double() - gradient).norm() / gradient.norm()).item()
    return row


def _run(loss: Callable, logits: Tensor, target: Tensor) -> tuple[float, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, target)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.item(), gradient
