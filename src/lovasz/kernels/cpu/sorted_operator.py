"""The sort inside torch.compile, where few errors are ordered together. Apart from ``operator.py``, whose operator it
is, because each way that ``choose`` knows is a module with a ``loss``."""

from __future__ import annotations

from torch import Tensor

from lovasz.kernels.cpu import operator
from lovasz.problem import Problem


def loss(input: Tensor, target: Tensor, problem: Problem, weight: Tensor | None, group: None = None) -> Tensor:
    """The loss of (N, C, S) scores, any strides, against (N, S) labels or (N, C, S) masks, as a node of a graph."""
    return operator.loss(input, target, problem, weight, group, sort=True)
