"""The CPU kernels inside torch.compile: one operator to the compiler, which sees shapes and keeps one graph.

The operator gives the gradient together with the loss, for what the two passes share is not made of tensors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lovasz.kernels.cpu import layout, passes, sorting
from lovasz.problem import ONCE, Problem
from lovasz.sharing import ProcessGroup

EXPORTED = (
    "this loss was exported without a gradient, and so has none; export it again with gradients enabled, and with an "
    "input, or parameters of the network, that require them"
)

# Declared plainly, as the GPU kernel's are; only torch.compile's graphs come here.
_LIBRARY = torch.library.Library("lovasz", "FRAGMENT")
_LIBRARY.define(
    "on_cpu(Tensor input, Tensor target, Tensor? weight, str errors, bool labelled, bool per_image, "
    "int? ignore_index, bool only_present, int[]? chosen, float scale, float[]? cross_entropy, bool sort, "
    "bool differentiable) "
    "-> (Tensor, Tensor)"
)


def loss(
    input: Tensor,
    target: Tensor,
    problem: Problem,
    weight: Tensor | None,
    group: ProcessGroup | None = None,
    *,
    sort: bool = False,
) -> Tensor:
    """The loss of (N, C, S) scores, any strides, against (N, S) labels or (N, C, S) masks, as a node of a graph."""
    assert group is None, "choose() has another kernel for a batch that is spread over processes"
    chosen = None if problem.chosen is None else list(problem.chosen)
    cross_entropy = None if problem.cross_entropy is None else list(problem.cross_entropy)
    asked = (
        *(problem.errors, problem.labelled, problem.per_image, problem.ignore_index, problem.only_present),
        *(chosen, problem.scale, cross_entropy, sort),
    )
    input = layout.computable(input)
    differentiable = input.requires_grad and torch.is_grad_enabled()
    return torch.ops.lovasz.on_cpu(input, target, weight, *asked, differentiable)[0]


@torch.library.impl(_LIBRARY, "on_cpu", "CompositeExplicitAutograd")
def _on_cpu(
    input: Tensor, target: Tensor, weight: Tensor | None, errors: str, labelled: bool, per_image: bool,
    ignore_index: int | None, only_present: bool, chosen: list[int] | None, scale: float,
    cross_entropy: list[float] | None, sort: bool, differentiable: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    problem = Problem(
        errors,
        labelled,
        per_image,
        ignore_index,
        only_present,
        None if chosen is None else tuple(chosen),
        scale,
        None if cross_entropy is None else (cross_entropy[0], cross_entropy[1]),
    )
    kernel = sorting if sort else passes
    return kernel.value_and_gradient(input, target, problem, weight, differentiable)


@torch.library.register_fake("lovasz::on_cpu")
def _(input: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(input.dtype, torch.float32)
    gradient = torch.empty_like(input, dtype=dtype) if rest[-1] else input.new_empty(0, dtype=dtype)
    return input.new_empty((), dtype=dtype), gradient


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """The gradient waits from forward to backward, which follows at once."""
    ctx.save_for_backward(output[1])
    ctx.dtype, ctx.numel = inputs[0].dtype, inputs[0].numel()


def _backward(ctx: Any, incoming: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    (gradient,) = ctx.saved_tensors
    if ctx.numel and not gradient.numel():
        raise RuntimeError(EXPORTED)
    return (_Scaled.apply(incoming, gradient, ctx.dtype), *[None] * 12)


class _Scaled(torch.autograd.Function):
    """The gradient times what comes from above. A function, so that a second derivative is refused and not 0."""

    @staticmethod
    def forward(ctx: Any, incoming: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ARG004
        return (incoming * gradient).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # noqa: ARG004
        raise RuntimeError(ONCE)


torch.library.register_autograd("lovasz::on_cpu", _backward, setup_context=_save, lib=_LIBRARY)
