"""The binned losses on the CPU, fused from logits: two passes over memory, nothing of its size but the gradient.

Here are threads, layouts and autograd; beside it the loops and the tables that they fill.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lovasz import validation
from lovasz.kernels import bins
from lovasz.kernels.cpu import elements, softmax, tables
from lovasz.kernels.cpu.arithmetic import Scores
from lovasz.problem import Problem
from lovasz.sharing import ProcessGroup

_MODES = {
    "sigmoid": elements.MODE_SIGMOID,
    "probability": elements.MODE_PROBABILITY,
    "hinge": elements.MODE_HINGE,
    "elu": elements.MODE_ELU,
}
_GRAIN = 1 << 16  # errors below which a further thread costs more than it saves
_pools: dict[int, ThreadPoolExecutor] = {}
# A forked child has the pool's object but not its threads: it starts its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)


def loss(
    input: Tensor, target: Tensor, problem: Problem, weight: Tensor | None, group: ProcessGroup | None = None
) -> Tensor:
    """The loss of (N, C, S) scores, any strides, against (N, S) labels or (N, C, S) masks."""
    if input.dtype not in (torch.float32, torch.float64):
        input = input.float()
    if target.dtype == torch.bool:
        target = target.view(torch.uint8)
    elif target.dtype not in (torch.uint8, torch.int64):
        target = target.long()
    return _Binned.apply(input, target.contiguous(), problem, weight)  # pyright: ignore[reportReturnType]


class _Binned(torch.autograd.Function):
    """Counts and tables in forward, the gradient in backward, where the scores are read again."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, problem: Problem, weight: Tensor | None) -> Tensor:
        passes = _Passes(input, target, problem)
        value = passes.count(weight)
        if passes.nan:
            value = float("nan")
        ctx.save_for_backward(input, target)
        ctx.tables = passes.lut, passes.weights, passes.shares
        ctx.problem = problem
        return torch.tensor(value, dtype=input.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore
        input, target = ctx.saved_tensors
        passes = _Passes(input, target, ctx.problem)
        passes.lut, passes.weights, passes.shares = ctx.tables
        return passes.gradient(float(grad_outputs[0])), None, None, None


class _Passes:
    """Both passes over one input: how it lies in memory, who computes which part, and the tables between them."""

    lut: np.ndarray  # (C, cells)
    weights: np.ndarray  # (G, 2, bins)
    shares: np.ndarray  # (G,)

    def __init__(self, input: Tensor, target: Tensor, problem: Problem) -> None:
        self.input = input
        self.problem = problem
        self.images, self.classes, self.pixels = input.shape
        self.groups = self.classes * (self.images if problem.per_image else 1)
        self.x = _storage(input)
        self.target = target.view(-1).numpy()
        self.mirrored = problem.errors not in ("hinge", "elu")
        self.cells = bins.MIRRORED_CELLS if self.mirrored else bins.UNBOUNDED_CELLS
        self.softmax = problem.errors == "softmax"
        self.mode = _MODES.get(problem.errors, -1)
        self.nan = False
        self.width = min(1024, max(64, 32768 // (4 * self.classes) // 16 * 16))

    def count(self, weight: Tensor | None) -> float:
        """First pass: deal the bins, count, weigh. Returns the loss."""
        labelled = self.problem.labelled
        totals, surplus = self._count_labels() if labelled else (None, np.zeros(self.groups, np.int64))
        # Without labels every chosen group is counted, and its foreground with it.
        self.shares = self._shares(totals, weight)
        most, least = bins.capacity(self.groups, self.cells, self.images * self.pixels)
        step = max(1, self.images * self.pixels // bins.SAMPLE) | 1
        identity = np.tile(np.arange(self.cells, dtype=np.int32) << 5 | bins.CELL_BITS, (self.classes, 1))
        active = np.any(self.shares.reshape(-1, self.classes), axis=0)
        sample, sampled = self._count_errors(identity, self.cells, step, False, active)
        sample = sample.sum(0)
        found = sample[:, 1].sum(1) >> bins.SUM_BITS  # (C,)
        pixels = self.images * -(-self.pixels // step)
        extra = pixels - found.sum() + found if self.softmax else np.zeros_like(found)
        if totals is None:
            foreground = np.maximum((sampled - np.sqrt(sampled)) * step, 1.0)
        else:
            foreground = totals.reshape(-1, self.classes).sum(0).astype(np.float64)
        self.lut = np.empty((self.classes, self.cells), np.int32)
        used = np.empty(self.classes, np.int64)
        resolution = 512.0 * bins.fineness(self.images * self.pixels)
        tables.deal(sample, extra, foreground, step, resolution, most, least, self.lut, used)

        active = self.shares != 0
        hist, counted = self._count_errors(self.lut, int(used.max()), 1, self.problem.per_image, active)
        if totals is None:
            totals = counted
            self.shares = self._shares(totals, weight)
        if not self.softmax:
            surplus[:] = 0
        self.weights = np.empty((self.groups, 2, hist.shape[-1]), np.float32)
        losses = np.empty(self.groups)
        parts = min(torch.get_num_threads(), self.groups)
        bounds = [self.groups * i // parts for i in range(parts + 1)]
        known = (self.mirrored, self.lut, hist, surplus, totals, self.shares)
        _in_threads(lambda i: tables.weigh(*known, bounds[i], bounds[i + 1], self.weights, losses), parts)
        return float((losses * self.shares).sum())

    def _shares(self, totals: np.ndarray | None, weight: Tensor | None) -> np.ndarray:
        """Each group's share in the average; before its foreground is known, as if it had some."""
        foreground = np.ones(self.groups, np.int64) if totals is None else totals
        return self.problem.shares(torch.from_numpy(foreground).view(-1, self.classes), weight).view(-1).numpy()

    def _count_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of each group (G,), and those with the void ones of its image (G,)."""
        bounds = _split(self.images * self.pixels, self.images * self.pixels)
        parts = len(bounds) - 1
        totals = np.zeros((parts, self.groups), np.int64)
        surplus = np.zeros((parts, self.groups), np.int64)
        status = np.zeros((parts, 3), np.int64)
        scores = self._scores()

        def run(i: int) -> None:
            softmax.count_labels(scores, bounds[i], bounds[i + 1], totals[i], surplus[i], status[i])

        _in_threads(run, parts)
        self._raise_for_labels(status)
        return totals.sum(0), surplus.sum(0)

    def _count_errors(
        self, lut: np.ndarray, size: int, step: int, per_image: bool, active: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Packed counts (R, G, 2, size) of every ``step``-th pixel; without labels, also foreground pixels (G,)."""
        pixels = -(-self.pixels // step)
        units = self.images * pixels * (1 if self.softmax else self.classes)
        bounds = _split(units, units * (self.classes if self.softmax else 1))
        parts = len(bounds) - 1
        groups = self.classes * (self.images if per_image else 1)
        hist = np.zeros((parts, groups, 2, size), np.int64)
        totals = np.zeros((parts, groups), np.int64)
        status = np.zeros((parts, 3), np.int64)
        scores = self._scores(step, per_image)

        def run(i: int) -> None:
            part = (scores, bounds[i], bounds[i + 1])
            if self.softmax:
                softmax.count_softmax(*part, self.width, lut, active, hist[i], status[i])
            else:
                elements.count_elements(self.mode, *part, lut, active, hist[i], totals[i], status[i])

        _in_threads(run, parts)
        self._raise_for_labels(status)
        self.nan |= bool(status[:, 2].any())
        return hist, totals.sum(0)

    def _raise_for_labels(self, status: np.ndarray) -> None:
        if status[:, 0].any():
            label = int(status[status[:, 0].argmax(), 1])
            raise validation.label_error(label, self.classes if self.problem.labelled else 2)

    def _scores(self, step: int = 1, per_image: bool | None = None) -> Scores:
        """Every ``step``-th pixel of the input, as the loops read it."""
        image, channel, pixel = self.input.stride()
        if self.problem.labelled:
            target_strides = (self.pixels, 0, step)
        else:
            target_strides = (self.classes * self.pixels, self.pixels, step)
        return Scores(
            x=self.x,
            strides=(image, channel, pixel * step),
            shape=(self.images, self.classes, -(-self.pixels // step)),
            target=self.target,
            target_strides=target_strides,
            labelled=self.problem.labelled,
            void=self.problem.ignore_index or 0,
            has_void=self.problem.ignore_index is not None,
            per_image=self.problem.per_image if per_image is None else per_image,
        )

    def gradient(self, factor: float) -> Tensor:
        """Second pass: the gradient of the loss times ``factor``, laid out as the input."""
        out = torch.empty_like(self.input)
        flat = _storage(out)
        units = self.images * self.pixels * (1 if self.softmax else self.classes)
        bounds = _split(units, units * (self.classes if self.softmax else 1))
        scores = self._scores()
        written = (self.lut, self.weights, self.shares != 0, self.x.dtype.type(factor), flat, out.stride())

        def run(i: int) -> None:
            part = (scores, bounds[i], bounds[i + 1])
            if self.softmax:
                softmax.gradient_softmax(*part, self.width, *written)
            else:
                elements.gradient_elements(self.mode, *part, *written)

        _in_threads(run, len(bounds) - 1)
        return out


def _storage(tensor: Tensor) -> np.ndarray:
    """The memory under a tensor as a flat array that begins at its first element."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.detach().as_strided((extent,), (1,)).numpy()


def _split(units: int, errors: int) -> list[int]:
    """Bounds of parts of about equal size: as many as threads where that pays, and none beyond a packed bin's range."""
    parts = max(1, min(torch.get_num_threads(), errors // _GRAIN))
    parts = max(parts, -(-units // bins.CHUNK))
    return [units * i // parts for i in range(parts + 1)]


def _in_threads(run: Callable[[int], None], parts: int) -> None:
    """Call ``run(0)`` to ``run(parts - 1)`` on as many threads as torch uses; compiled code runs without the GIL."""
    threads = torch.get_num_threads()
    if parts == 1 or threads == 1:
        for i in range(parts):
            run(i)
        return
    pool = _pools.get(threads)
    if pool is None:
        pool = _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="lovasz")
    list(pool.map(run, range(parts)))
