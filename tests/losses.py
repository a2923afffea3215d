"""The losses and options that several tests go through, each with the call of the package and of the oracle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import oracle
import torch
from torch import Tensor

from lovasz import lovasz_hinge, lovasz_sigmoid, lovasz_softmax


@dataclass(frozen=True)
class Case:
    """One loss with options: ``package(scores, target)`` and ``expected(scores, target)`` on (N, C, H, W) scores."""

    name: str
    kind: str
    channels: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def labelled(self) -> bool:
        return self.name == "softmax"

    def package(self, scores: Tensor, target: Tensor, **how: Any) -> Tensor:
        function = {"softmax": lovasz_softmax, "hinge": lovasz_hinge, "sigmoid": lovasz_sigmoid}[self.name]
        return function(scores, target, **self.options, **how)

    def expected(self, scores: Tensor, target: Tensor) -> float:
        options = {k: v for k, v in self.options.items() if k in ("classes", "per_image", "ignore_index", "weight")}
        if self.name == "softmax" or self.options.get("multilabel"):
            options.setdefault("classes", "present")
        if self.name == "hinge":
            options.setdefault("per_image", True)
        flat = target.flatten(1) if self.labelled else target.flatten(2)
        return oracle.loss(self.kind, scores.flatten(2), flat, labelled=self.labelled, **options)

    def draw(self, seed: int = 0, size: tuple[int, int] = (5, 6), images: int = 3) -> tuple[Tensor, Tensor]:
        """Scores in float64 and a target with void pixels, an all-void image and absent classes where void exists."""
        generator = torch.Generator().manual_seed(seed)
        scores = 3 * torch.randn(images, self.channels, *size, generator=generator, dtype=torch.float64)
        if self.kind == "probability":
            scores = scores.softmax(1) if self.labelled else scores.sigmoid()
        shape = (images, *size) if self.labelled else (images, self.channels, *size)
        most = max(1, self.channels - 1) if self.labelled else 2  # the last class never occurs
        target = torch.randint(0, most, shape, generator=generator)
        void = self.options.get("ignore_index")
        if void is not None:
            target[torch.rand(shape, generator=generator) < 0.2] = void
            target[-1] = void
        return scores, target

    def __str__(self) -> str:
        return "-".join([self.kind, *(f"{k}={v}" for k, v in self.options.items())]).replace(" ", "")


CASES = [
    Case("softmax", "softmax", 5),
    Case("softmax", "softmax", 5, {"classes": "all"}),
    Case("softmax", "softmax", 5, {"classes": [3, 1], "ignore_index": 255}),
    Case("softmax", "softmax", 5, {"per_image": True}),
    Case("softmax", "softmax", 5, {"per_image": True, "classes": "all", "ignore_index": -1}),
    Case("softmax", "softmax", 5, {"ignore_index": 2, "weight": [1.0, 2.0, 0.0, 4.0, 5.0]}),
    Case("softmax", "softmax", 2, {"per_image": True, "weight": [0.25, 1.0]}),
    Case("softmax", "probability", 5, {"from_logits": False}),
    Case("softmax", "probability", 4, {"from_logits": False, "per_image": True, "ignore_index": 0, "classes": [2]}),
    Case("hinge", "hinge", 1),
    Case("hinge", "hinge", 1, {"per_image": False}),
    Case("hinge", "hinge", 1, {"ignore_index": 255}),
    Case("hinge", "elu", 1, {"activation": "elu", "per_image": False, "ignore_index": -1}),
    Case("hinge", "elu", 1, {"activation": "elu"}),
    Case("sigmoid", "sigmoid", 1),
    Case("sigmoid", "sigmoid", 1, {"per_image": True, "ignore_index": 7}),
    Case("sigmoid", "probability", 1, {"from_logits": False}),
    Case("sigmoid", "sigmoid", 4, {"multilabel": True}),
    Case("sigmoid", "sigmoid", 4, {"multilabel": True, "classes": "all", "per_image": True, "ignore_index": -100}),
    Case("sigmoid", "probability", 4, {"multilabel": True, "classes": [0, 2], "from_logits": False}),
    Case("sigmoid", "sigmoid", 3, {"multilabel": True, "weight": [3.0, 1.0, 0.5], "ignore_index": 9}),
]


def value_and_gradient(case: Case, scores: Tensor, target: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
    """The loss and its gradient at ``scores``."""
    leaf = scores.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = case.package(leaf, target, **how)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def assert_near_exact(
    case: Case,
    scores: Tensor,
    target: Tensor,
    *,
    value_tolerance: float = 1e-4,
    gradient_tolerance: float = 1e-3,
    package: Any = None,
    **how: Any,
) -> None:
    """Fail unless the kernel chosen by ``how`` is near the exact one, in value and in L2 norm of the gradient."""
    judged = package or (lambda: value_and_gradient(case, scores, target, **how))
    value, gradient = judged()
    exact_value, exact_gradient = value_and_gradient(case, scores.double(), target, method="exact")
    assert gradient.dtype == scores.dtype
    assert abs(value.double() - exact_value) <= value_tolerance * exact_value.abs() + 1e-12, (value, exact_value)
    distance = oracle.relative(gradient, exact_gradient)
    assert distance <= gradient_tolerance, f"gradient off by {distance:.1e}"
