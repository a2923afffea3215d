"""The exact losses on the CPU: every error is sorted, class by class, and weighed by its rank.

Apart from ``passes.py``, which bins. The weights take one float32 per score from forward to backward, and the sort 16
bytes per pixel on each thread; so it serves method="exact", and groups of errors so small that bins cost more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lovasz.kernels.cpu import layout, order
from lovasz.kernels.cpu.entropy import Entropy
from lovasz.kernels.cpu.inputs import Inputs
from lovasz.kernels.cpu.parts import pieces
from lovasz.loops import in_threads
from lovasz.memory import reused_empty_like
from lovasz.problem import Problem, raw_errors


def loss(
    input: Tensor,
    target: Tensor,
    problem: Problem,
    weight: Tensor | None,
    group: None = None,  # noqa: ARG001 - as all kernels have it; `choose` sends no shared batch here
) -> Tensor:
    """The loss of (N, C, S) scores, any strides, against (N, S) labels or (N, C, S) masks."""
    return _Sorted.apply(layout.computable(input), layout.readable(target), problem, weight)  # pyright: ignore[reportReturnType]


def value_and_gradient(
    input: Tensor, target: Tensor, problem: Problem, weight: Tensor | None, differentiable: bool
) -> tuple[Tensor, Tensor]:
    """As that of ``passes.py``: both at once, outside autograd, the gradient in float32 at least, or empty."""
    sorts = _Sorts(input.detach(), layout.readable(target), problem)
    value, weights, active, entropy = sorts.value(weight)
    if not differentiable:
        return value, input.new_empty(0, dtype=value.dtype)
    return value, sorts.gradient(weights, active, entropy, torch.ones((), device="cpu"), value.dtype)


class _Sorted(torch.autograd.Function):
    """The weights in forward; in backward the scores are read again."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, problem: Problem, weight: Tensor | None) -> Tensor:
        value, weights, ctx.active, ctx.entropy = _Sorts(input, target, problem).value(weight)
        ctx.problem = problem
        ctx.save_for_backward(input, target, weights)
        return value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore
        input, target, weights = ctx.saved_tensors
        incoming = grad_outputs[0]
        batch = layout.is_batch(incoming)
        factor = torch.ones((), device="cpu") if batch else incoming
        if torch.is_grad_enabled():  # create_graph=True
            gradient = _differentiable(factor, input, target, ctx.problem, weights, ctx.entropy)
        else:
            sorts = _Sorts(input, target, ctx.problem)
            # In half precision most of it would be 0 before what comes in multiplies it.
            dtype = torch.promote_types(input.dtype, torch.float32) if batch else input.dtype
            gradient = sorts.gradient(weights, ctx.active, ctx.entropy, factor, dtype)
        return (gradient * incoming if batch else gradient).to(input.dtype), None, None, None


class _Sorts(Inputs):
    """Both passes over one input and the sort between them: who computes which part."""

    def value(self, weight: Tensor | None) -> tuple[Tensor, Tensor, np.ndarray, Entropy | None]:
        """The loss, NaN where an error is; the weight of each error (G, errors); which groups count (G,); the
        cross-entropy that goes with it."""
        together = self.images * self.pixels // (self.groups // self.classes)
        weights = np.empty((self.groups, together), np.float32)  # numpy asks for large pages, torch does not
        keys = weights.view(np.int32)
        totals = self.count_labels()[0] if self.problem.labelled else None
        shares = self.shares(totals, weight)  # without labels every chosen group counts its foreground first
        entropy = self.entropy(totals, weight)
        foreground, least, unfit, cross_entropy = self._fill(keys, shares != 0, entropy)
        if totals is None:
            totals, shares = foreground, self.shares(foreground, weight)
        nan = bool((unfit if self.softmax else unfit & (shares != 0)).any())
        losses = np.empty(self.groups)
        parts = min(self.groups, 4 * torch.get_num_threads())
        bounds = [self.groups * i // parts for i in range(parts + 1)]
        known = (totals, shares, least, keys, weights, losses)
        labels = self.labels()
        idle: list[np.ndarray] = []  # memory that a thread has done with

        def run(i: int) -> None:
            try:
                scratch = idle.pop()
            except IndexError:
                scratch = np.empty((2, together), np.uint64)
            order.weigh_groups(self.mode, labels, bounds[i], bounds[i + 1], *known, scratch)
            idle.append(scratch)

        in_threads(run, parts)
        value = float("nan") if nan else float((losses * shares).sum()) * self.problem.scale + cross_entropy
        dtype = torch.promote_types(self.input.dtype, torch.float32)
        return torch.tensor(value, dtype=dtype, device="cpu"), torch.from_numpy(weights), shares != 0, entropy

    def _strides(self) -> tuple[int, int]:
        """Of keys and weights, for image and class."""
        if self.problem.per_image:
            return self.classes * self.pixels, self.pixels
        return self.pixels, self.images * self.pixels

    def _fill(
        self, keys: np.ndarray, active: np.ndarray, entropy: Entropy | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Write the keys; foreground pixels (G,) of masks, the least key of foreground (G,), whether a group (G,) has
        an error of NaN or infinity, and the cross-entropy."""
        units = self.images * self.pixels * (1 if self.softmax else self.classes)
        bounds = pieces(units, units * (self.classes if self.softmax else 1))
        parts = len(bounds) - 1
        totals, unfit = np.zeros((parts, self.groups), np.int64), np.zeros((parts, self.groups), np.bool_)
        least = np.full((parts, self.groups), order.NO_KEY)
        sums, status = np.zeros((parts, 1)), np.zeros((parts, 3), np.int64)
        scores, flat, strides = self.scores(), keys.reshape(-1), self._strides()

        def run(i: int) -> None:
            part = (scores, bounds[i], bounds[i + 1])
            if self.softmax:
                order.keys_softmax(*part, self.width, active, flat, strides, least[i], entropy, sums[i], status[i])
            else:
                order.keys_elements(self.mode, *part, active, flat, strides, least[i], totals[i], unfit[i], status[i])

        in_threads(run, parts)
        self.raise_for_labels(status)
        if self.softmax:  # the classes of a pixel share its NaN
            unfit[:] = status[:, 2].any()
        return totals.sum(0), least.min(0), np.asarray(unfit.any(0)), float(sums.sum())

    def gradient(
        self, weights: Tensor, active: np.ndarray, entropy: Entropy | None, incoming: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """The gradient of the loss times what comes in, laid out as the input."""
        out = reused_empty_like(self.input, dtype)
        units = self.images * self.pixels * (1 if self.softmax else self.classes)
        bounds = pieces(units, units * (self.classes if self.softmax else 1))
        kind = self.work.dtype.type
        known = (weights.view(-1).numpy(), self._strides(), kind(self.problem.scale * float(incoming)))
        written = (layout.storage(out), out.stride())
        scores = self.scores()

        def run(i: int) -> None:
            part = (scores, bounds[i], bounds[i + 1])
            if self.softmax:
                order.gradient_softmax(*part, self.width, *known, kind(float(incoming)), entropy, *written)
            else:
                order.gradient_elements(self.mode, *part, active, *known, *written)

        in_threads(run, len(bounds) - 1)
        return out


def _differentiable(
    incoming: Tensor, input: Tensor, target: Tensor, problem: Problem, weights: Tensor, entropy: Entropy | None
) -> Tensor:
    """The gradient, float32 at least, as operations that can be differentiated again: near its input the loss is the
    sum of the errors times these weights, which do not change there."""
    images, classes, pixels = input.shape
    order = (images, classes, pixels) if problem.per_image else (classes, images, pixels)
    weights = weights.view(order) if problem.per_image else weights.view(order).transpose(0, 1)  # (N, C, S)
    valid = (
        torch.ones_like(target, dtype=torch.bool) if problem.ignore_index is None else target != problem.ignore_index
    )
    if problem.labelled:
        foreground = target.unsqueeze(1) == torch.arange(classes, device="cpu").view(1, -1, 1)  # (N, C, S)
        valid = valid.unsqueeze(1)  # (N, 1, S)
    else:
        foreground = target == 1
    with torch.enable_grad():
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        scores = wide.double().masked_fill(~valid, 0)  # void pixels may hold NaN
        errors, activation = raw_errors(scores, foreground, problem.errors)
        value = problem.scale * ((errors if activation is None else activation(errors)) * weights).sum()
        if entropy is not None:
            each = torch.from_numpy(entropy.class_weights).view(1, -1, 1)
            share = (1 - entropy.smoothing) * foreground + entropy.smoothing / classes  # (N, C, S)
            share = share * each * valid
            value = value - torch.where(share > 0, share * scores.log_softmax(1), 0).sum()
        (gradient,) = torch.autograd.grad(value, wide, incoming.to(value.dtype), create_graph=True)
    return gradient
