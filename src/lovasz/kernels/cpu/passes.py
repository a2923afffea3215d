"""The binned losses on the CPU, fused from logits: two passes over memory, nothing of its size but the gradient.

Here are layouts and autograd; beside it the loops and the tables that they fill.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lovasz.kernels import bins
from lovasz.kernels.cpu import elements, head_weights, heads, layout, softmax, tables
from lovasz.kernels.cpu.entropy import Entropy
from lovasz.kernels.cpu.inputs import Inputs
from lovasz.kernels.cpu.parts import pieces, split
from lovasz.loops import in_threads
from lovasz.memory import reused_empty_like
from lovasz.problem import ONCE, Problem
from lovasz.sharing import ProcessGroup, sum_over

TOO_MANY = "input has {} classes, too many for the CPU kernel: use method='exact'"


def loss(
    input: Tensor, target: Tensor, problem: Problem, weight: Tensor | None, group: ProcessGroup | None = None
) -> Tensor:
    """The loss of (N, C, S) scores, any strides, against (N, S) labels or (N, C, S) masks."""
    return _Binned.apply(layout.computable(input), layout.readable(target), problem, weight, group)  # pyright: ignore[reportReturnType]


def value_and_gradient(
    input: Tensor, target: Tensor, problem: Problem, weight: Tensor | None, differentiable: bool
) -> tuple[Tensor, Tensor]:
    """Both passes at once, outside autograd; without the second one the gradient is empty.

    It is float32 for half precision: most of a float16 one would be 0 before a GradScaler's factor comes in.
    """
    passes = _Passes(input.detach(), layout.readable(target), problem, None)
    value, tables_ = passes.value(weight)
    dtype = torch.promote_types(input.dtype, torch.float32)
    return value, passes.gradient(tables_, 1.0, dtype) if differentiable else input.new_empty(0, dtype=dtype)


class _Binned(torch.autograd.Function):
    """Counts and tables in forward, the gradient in backward, where the scores are read again."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, problem: Problem, weight: Tensor | None, group: ProcessGroup | None
    ) -> Tensor:
        value, ctx.tables = _Passes(input, target, problem, group).value(weight)
        ctx.problem, ctx.group = problem, group
        ctx.save_for_backward(input, target)
        return value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:  # pyright: ignore
        input, target = ctx.saved_tensors
        incoming = grad_outputs[0]
        if layout.is_batch(incoming):
            # In half precision most of it would be 0 before what comes in multiplies it.
            known = input, target, ctx, torch.promote_types(input.dtype, torch.float32)
            if torch.is_grad_enabled():
                gradient = _Gradient.apply(torch.ones((), device="cpu"), *known)
            else:  # torch.vmap takes no such function
                gradient = _gradient(1.0, *known)
            return (gradient * incoming).to(input.dtype), None, None, None, None  # pyright: ignore
        return _Gradient.apply(incoming, input, target, ctx, input.dtype), None, None, None, None  # pyright: ignore


def _gradient(factor: float, input: Tensor, target: Tensor, first: Any, dtype: torch.dtype) -> Tensor:
    """The second pass; first: the context of the first."""
    passes = _Passes(input.detach(), target, first.problem, first.group)
    return passes.gradient(first.tables, factor, dtype)


class _Gradient(torch.autograd.Function):
    """The second pass. A function of its own, so that a second derivative is refused and not taken to be 0."""

    @staticmethod
    def forward(ctx: Any, factor: Tensor, *known: Any) -> Tensor:  # noqa: ARG004
        return _gradient(float(factor), *known)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # noqa: ARG004
        raise RuntimeError(ONCE)


class _Tables(NamedTuple):
    """What the first pass finds and the second needs."""

    lut: np.ndarray  # (C, cells) which bin an error of a cell falls into
    weights: np.ndarray  # (2, bins, 2)
    head: head_weights.Head  # the largest errors, weighed one by one
    shares: np.ndarray  # (G,)
    entropy: Entropy | None


class _Counts(NamedTuple):
    """What one look at the errors counts."""

    hist: np.ndarray  # (R, 2, bins) packed counts
    foreground: np.ndarray  # (G,) of masks
    unfit: np.ndarray  # (G,) whether an error of the group is NaN or infinite
    cross_entropy: float
    kept: heads.Kept  # the largest errors


class _Passes(Inputs):
    """Both passes over one input: who computes which part."""

    def __init__(self, input: Tensor, target: Tensor, problem: Problem, group: ProcessGroup | None) -> None:
        super().__init__(input, target, problem)
        self.process_group = group
        self.cells = bins.MIRRORED_CELLS if self.mirrored else bins.UNBOUNDED_CELLS
        if self.classes * self.cells >= 1 << 26:  # not even the sample finds its bins, see tables.deal
            raise ValueError(TOO_MANY.format(self.classes))
        # Exact weights need all errors of a class side by side: one group, one process.
        whole = group is None and self.groups == self.classes
        self.head_size = heads.size(self.classes, self.images * self.pixels) if whole else 0

    def value(self, weight: Tensor | None) -> tuple[Tensor, _Tables]:
        """First pass: deal the bins, count, weigh. The loss as a tensor, NaN where an error is, and the tables."""
        totals, surplus = None, np.zeros(self.groups, np.int64)
        if self.problem.labelled:
            totals, surplus = self.count_labels()
        # Without labels every chosen group is counted, and its foreground with it.
        shares = self.shares(totals, weight)
        lut, used, thresholds = self._deal(totals, shares)
        if self.process_group is not None and totals is not None:
            totals = self._shared(totals)
            shares = self.shares(totals, weight)
        entropy = self.entropy(totals, weight)
        counts = self._count_errors(lut, used, 1, self.problem.per_image, shares != 0, thresholds, entropy)
        if totals is None:
            totals = self._shared(counts.foreground)
            shares = self.shares(totals, weight)
        # Of masks a group that is left out spoils nothing.
        nan = bool((counts.unfit if self.softmax else counts.unfit & (shares != 0)).any())
        if not self.softmax:
            surplus[:] = 0
        hist, lows, cross_entropy = counts.hist, None, counts.cross_entropy
        if self.process_group is not None:
            hist, lows = self._exchange(lut, hist, surplus)
            own = torch.tensor([cross_entropy, float(nan)], dtype=torch.float64, device="cpu")
            cross_entropy, unfit = sum_over(self.process_group, own).tolist()
            nan = unfit > 0
        weights, losses = np.zeros((2, hist.shape[-1], 2), np.float32), np.empty(self.groups)
        parts = min(torch.get_num_threads(), self.groups)
        bounds = [self.groups * i // parts for i in range(parts + 1)]
        places_of = elements.places_of(self.mode, self.work)
        limits = head_weights.limits(counts.kept, lut, totals, shares, places_of)
        known = (lut, hist, lows, surplus, totals, shares, limits.bins)
        in_threads(lambda i: tables.weigh(self.mirrored, *known, bounds[i], bounds[i + 1], weights, losses), parts)
        known = (lut, hist, surplus, totals, shares, weights, losses)
        head = head_weights.weigh(self.mirrored, counts.kept, limits, *known, places_of, self.work.dtype)
        value = float("nan") if nan else float((losses * shares).sum()) * self.problem.scale + cross_entropy
        dtype = torch.promote_types(self.input.dtype, torch.float32)
        return torch.tensor(value, dtype=dtype, device="cpu"), _Tables(lut, weights, head, shares, entropy)

    def _deal(self, totals: np.ndarray | None, shares: np.ndarray) -> tuple[np.ndarray, int, np.ndarray | None]:
        """From a sample: the bins of each class as ``lut``, how many in all, and from where on errors are kept."""
        step = bins.spacing(self.images * self.pixels, self.classes)
        cells = np.arange(self.classes * self.cells, dtype=np.int32).reshape(self.classes, self.cells)
        active = np.any(shares.reshape(-1, self.classes), axis=0)
        if self.process_group is not None:
            active[:] = True  # another process may have what this one lacks
        counts = self._count_errors(cells << 5 | bins.CELL_BITS, cells.size, step, False, active)
        sample = counts.hist.sum(0) >> bins.SUM_BITS  # the pixels are too few for the low bits to overflow
        sample = sample.reshape(2, self.classes, self.cells)
        if self.softmax:
            found = sample[1].sum(1)
            sample[0, active, 0] -= (self.images * -(-self.pixels // step) - found.sum() + found)[active]
        sample *= step
        if totals is None:
            foreground = counts.foreground * float(step)
        else:
            foreground = totals.reshape(-1, self.classes).sum(0).astype(np.float64)
        thresholds = heads.thresholds(sample.sum(0), foreground, self.head_size)
        if thresholds is not None and not self.softmax:
            thresholds = elements.keys_of(self.mode, thresholds)
        pixels = self.images * self.pixels
        most, least = bins.capacity(self.classes, self.groups // self.classes, self.cells, pixels)
        finer = bins.fineness(pixels, self.input.dtype)
        if self.process_group is not None:  # the same bins for all, whatever their sizes
            shared = self._shared(np.concatenate([sample.ravel(), foreground.astype(np.int64), [pixels]]))
            foreground = shared[sample.size : -1].astype(np.float64)
            sample = shared[: sample.size].reshape(sample.shape)
            step = max(3, int(shared[-1]) // bins.SAMPLE)
            most, least, finer = bins.SHARED_BINS, 1, 1.0
        if totals is None and step > 1:  # a sample may have met more than there are in proportion
            foreground = np.maximum(foreground - np.sqrt(foreground * step), 1.0)
        lut = np.empty((self.classes, self.cells), np.int32)
        used = int(tables.deal(sample[0], sample[1], foreground, step, finer, most, least, lut))
        if used < 0:
            raise ValueError(TOO_MANY.format(self.classes))
        return lut, used, thresholds

    def _exchange(self, lut: np.ndarray, hist: np.ndarray, surplus: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of all processes together, by one message: counts (1, 2, bins), and sums of places in cells (2, bins)."""
        used = hist.shape[-1]
        room = max(used, self.classes * max(bins.SHARED_BINS, 2 * self.cells))  # the same for every input
        sums = np.zeros((2, 2, room), np.int64)
        tables.unpack(lut, hist, surplus, sums[0], sums[1])
        sums = self._shared(sums)[:, :, :used]
        return sums[:1], sums[1]

    def _shared(self, counts: np.ndarray) -> np.ndarray:
        """The integers added up over the processes."""
        if self.process_group is None:
            return counts
        return sum_over(self.process_group, torch.from_numpy(counts)).numpy()

    def _count_errors(
        self,
        lut: np.ndarray,
        size: int,
        step: int,
        per_image: bool,
        active: np.ndarray,
        thresholds: np.ndarray | None = None,
        entropy: Entropy | None = None,
    ) -> _Counts:
        """Of every ``step``-th pixel; the largest errors are those above ``thresholds``."""
        pixels = -(-self.pixels // step)
        units = self.images * pixels * (1 if self.softmax else self.classes)
        errors = units * (self.classes if self.softmax else 1)
        bounds = split(units, errors)
        copies = len(bounds) - 1
        images = self.images if per_image else 1
        finer = pieces(units, errors) if thresholds is None else pieces(units, errors, heads.most_parts(self.classes))
        lent = units <= bins.CHUNK  # whether copies go from thread to thread: then any of them may come to hold all
        if per_image and images >= copies and units // images <= bins.CHUNK:
            # No two threads in one image: they can share one copy.
            parts = min(len(finer) - 1, images)
            bounds = [images * i // parts * (units // images) for i in range(parts + 1)]
            copies = 1
        elif lent:
            bounds = finer
        parts = len(bounds) - 1
        hist = np.zeros((copies, 2, size * images), np.int64)
        totals = np.zeros((parts, self.classes * images), np.int64)
        unfit = np.zeros((parts, self.classes * images), np.bool_)
        sums = np.zeros((parts, 1))
        status = np.zeros((parts, 3), np.int64)
        scores = self.scores(step, per_image)
        kept = heads.room(parts, self.classes, self.head_size, thresholds)
        idle = list(range(copies))  # copies that no thread counts into

        def run(i: int) -> None:
            part = (scores, bounds[i], bounds[i + 1])
            copy = idle.pop() if copies > 1 else 0
            if self.softmax:
                softmax.count_softmax(
                    *part, self.width, lut, active, hist[copy], kept.part(i), entropy, sums[i], status[i]
                )
            else:
                elements.count_elements(
                    self.mode, *part, lut, active, hist[copy], kept.part(i), totals[i], unfit[i], status[i]
                )
            if lent:
                idle.append(copy)

        in_threads(run, parts)
        self.raise_for_labels(status)
        if self.softmax:  # the classes of a pixel share its NaN
            unfit[:] = status[:, 2].any()
        return _Counts(hist, totals.sum(0), np.asarray(unfit.any(0)), float(sums.sum()), kept)

    def gradient(self, found: _Tables, incoming: float, dtype: torch.dtype) -> Tensor:
        """Second pass: the gradient of the loss times what comes in, laid out as the input."""
        if dtype == torch.float64 and not 1e-20 < abs(incoming) < 1e20:  # the tables are float32
            return self.gradient(found, 1.0, dtype).mul_(incoming)
        if self.process_group is not None:
            incoming *= self.process_group.size()  # which averaging over the processes takes off again
        out = reused_empty_like(self.input, dtype)
        flat = layout.storage(out)
        units = self.images * self.pixels * (1 if self.softmax else self.classes)
        bounds = pieces(units, units * (self.classes if self.softmax else 1))
        scores = self.scores()
        factor = self.problem.scale * incoming
        lines = np.empty(found.weights.shape[:2], np.int64)
        parts = min(torch.get_num_threads(), self.classes)
        cuts = [self.classes * i // parts for i in range(parts + 1)]
        packed = found.lut, found.weights, np.float32(factor)
        in_threads(lambda i: tables.lines(*packed, cuts[i], cuts[i + 1], lines), parts)
        known = (found.lut, lines, found.shares != 0)
        exact = head_weights.for_gradient(found.head, factor, self.softmax)
        terms = (self.work.dtype.type(incoming), found.entropy)

        def run(i: int) -> None:
            part = (scores, bounds[i], bounds[i + 1])
            if self.softmax:
                softmax.gradient_softmax(*part, self.width, *known, *exact, *terms, flat, out.stride())
            else:
                elements.gradient_elements(self.mode, *part, *known, *exact, flat, out.stride())

        in_threads(run, len(bounds) - 1)
        return out
