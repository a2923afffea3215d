"""Distance to float64 of value and gradient, ours and the authors' formula, over distributions and formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks import formulas
from benchmarks.checks import Loss, value_and_gradient
from benchmarks.distributions import BINARY, MULTICLASS, binary, multiclass
from benchmarks.settings import Settings
from lovasz import lovasz_sigmoid, lovasz_softmax

CLASSES = (2, 21, 150)
NARROW = (torch.float16, torch.bfloat16)
ORDERS = 4  # of the pixels, over which the truth of the narrow formats is a mean


def run(settings: Settings) -> dict[str, Any]:
    """Float32 rows, then float16 and bfloat16 rows whose truth is the float64 formula on the rounded logits.

    Rounded logits are equal by the hundred. Among equal errors the gradient is not unique, and a sort takes one of
    their orders: the truth of the narrow rows is the mean over several orders of the pixels.
    """
    wide, narrow = [], []
    for name, ours, formula, draw in _cases(settings):
        logits, target = draw()
        truth = value_and_gradient(formula, logits.double(), target)
        row = {"input": name}
        row |= _distances("ours", ours, logits, target, truth)
        row |= _distances("authors' float32", formula, logits, target, truth)
        wide.append(row)
        if name.startswith("one class: rare") or "150" in name:
            continue  # enough is enough: the other rows tell the same
        for dtype in NARROW:
            narrow.append(narrow_row(name, ours, formula, logits.to(dtype), target))
    return {"rows": wide, "narrow": narrow}


def _cases(settings: Settings) -> Iterator[tuple[str, Loss, Loss, Callable[[], tuple[Tensor, Tensor]]]]:
    pixels = 20_000 if settings.quick else 10**6
    for kind in BINARY:
        yield f"one class: {kind}", lovasz_sigmoid, formulas.sigmoid, lambda kind=kind: binary(kind, pixels)
    for classes in CLASSES:
        size = settings.size(176 if classes > 100 else 288)  # more pixels than are sorted by default: bins are on trial
        for kind in MULTICLASS:
            draw = lambda kind=kind, classes=classes, size=size: multiclass(kind, classes, size)  # noqa: E731
            yield f"{classes} classes: {kind}", lovasz_softmax, formulas.softmax_by_class, draw


def narrow_row(name: str, ours: Loss, formula: Loss, logits: Tensor, target: Tensor) -> dict[str, Any]:
    """Truth: see ``run``. Beside ours: the formula in float32 on the narrow logits, and in their own format."""
    truth = _mean_over_orders(formula, logits.double(), target)

    def in_float32(scores: Tensor, labels: Tensor) -> Tensor:
        return formula(scores.float(), labels)

    row: dict[str, Any] = {"input": f"{name}, {str(logits.dtype).removeprefix('torch.')}"}
    row |= _distances("ours", ours, logits, target, truth)
    row |= _distances("authors' float32", in_float32, logits, target, truth)
    return row | _distances("authors' own format", formula, logits, target, truth)


def _mean_over_orders(formula: Loss, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of the formula, the mean over shuffled pixels."""
    scores, labels = logits.flatten(1 + logits.dim() - target.dim()), target.flatten(1)
    random = torch.Generator().manual_seed(0)
    values, gradient = [], torch.zeros_like(scores)
    for _ in range(ORDERS):
        order = torch.randperm(labels.shape[1], generator=random)
        value, slope = value_and_gradient(formula, scores[..., order], labels[..., order])
        values.append(value)
        gradient[..., order] += slope / ORDERS
    return torch.stack(values).mean(), gradient.view_as(logits)


def _distances(
    label: str, loss: Loss, logits: Tensor, target: Tensor, truth: tuple[Tensor, Tensor]
) -> dict[str, float | None]:
    value, gradient = value_and_gradient(loss, logits, target)
    far = abs(value.double() - truth[0]) / abs(truth[0])
    slope = (gradient.double() - truth[1]).norm() / truth[1].norm()
    # JSON has no NaN: a formula that breaks down in its format has no distance.
    return {f"{label}, {what}": x.item() if x.isfinite() else None for what, x in (("value", far), ("gradient", slope))}
