"""One input as the CPU kernel takes it: how it lies in memory, its labels counted, each group's share in the average.

Apart because bins and sort share it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lovasz import openmp, validation
from lovasz.kernels.cpu import elements, layout, softmax
from lovasz.kernels.cpu.arithmetic import Scores
from lovasz.kernels.cpu.entropy import Entropy
from lovasz.kernels.cpu.parts import pieces
from lovasz.loops import in_threads
from lovasz.problem import Problem

_MODES = {
    "sigmoid": elements.MODE_SIGMOID,
    "probability": elements.MODE_PROBABILITY,
    "hinge": elements.MODE_HINGE,
    "elu": elements.MODE_ELU,
}
_TILE = 65536  # bytes of a tile of pixels with all their classes
# Pixels of a tile, which may have more bytes then: with fewer, a class's tables would come into the cache for too few
# look-ups (150 classes took a tenth longer with 256).
_LEAST, _MOST = 512, 1024
_NO_LOGITS = np.empty(0, np.float32)  # where labels alone are read: compiled once for logits of every type


class Inputs:
    """(N, C, S) scores and their target for one problem. ``groups`` of errors have a loss of their own each: the
    classes, or those of each image in turn."""

    def __init__(self, input: Tensor, target: Tensor, problem: Problem) -> None:
        self.input = input
        self.problem = problem
        self.images, self.classes, self.pixels = input.shape
        self.groups = self.classes * (self.images if problem.per_image else 1)
        self.x = layout.storage(input)
        self.work = np.empty(0, np.float64 if input.dtype == torch.float64 else np.float32)
        self.target = target.view(-1).numpy()
        self.mirrored = problem.errors not in ("hinge", "elu")
        self.softmax = problem.errors == "softmax"
        self.mode = _MODES.get(problem.errors, -1)
        self.width = min(_MOST, max(_LEAST, _TILE // (4 * self.classes) // 32 * 32))
        if len(pieces(input.numel(), input.numel())) > 2:  # several threads will work, until the loss is there
            openmp.rest()

    def shares(self, totals: np.ndarray | None, weight: Tensor | None) -> np.ndarray:
        """Each group's share in the average; before its foreground is known, as if it had some."""
        problem = self.problem
        if weight is None and problem.chosen is None and not problem.only_present:
            return np.full(self.groups, 1 / self.groups)
        foreground = np.ones(self.groups, np.int64) if totals is None else totals
        return self.problem.shares(torch.from_numpy(foreground).view(-1, self.classes), weight).view(-1).numpy()

    def entropy(self, totals: np.ndarray | None, weight: Tensor | None) -> Entropy | None:
        """The cross-entropy that goes with the loss, if one does, as the loops take it."""
        if not self.softmax or self.problem.cross_entropy is None:
            return None
        assert totals is not None
        factor, smoothing = self.problem.cross_entropy
        each = np.ones(self.classes) if weight is None else weight.detach().double().cpu().numpy()
        pixels = totals.reshape(-1, self.classes).sum(0)
        whole = float((each * pixels).sum())
        each = each * (factor / whole if whole > 0 else 0.0)
        return Entropy(each, float(each.sum()), smoothing)

    def count_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of each group (G,), and those with the void ones of its image (G,)."""
        bounds = pieces(self.images * self.pixels, self.images * self.pixels)
        parts = len(bounds) - 1
        totals = np.zeros((parts, self.groups), np.int64)
        surplus = np.zeros((parts, self.groups), np.int64)
        status = np.zeros((parts, 3), np.int64)
        labels = self.labels()

        def run(i: int) -> None:
            softmax.count_labels(labels, bounds[i], bounds[i + 1], totals[i], surplus[i], status[i])

        in_threads(run, parts)
        self.raise_for_labels(status)
        return totals.sum(0), surplus.sum(0)

    def raise_for_labels(self, status: np.ndarray) -> None:
        """What the threads say of labels that are not allowed: (R, 3), first whether one was met, then which."""
        if status[:, 0].any():
            label = int(status[status[:, 0].argmax(), 1])
            raise validation.label_error(label, self.classes if self.problem.labelled else 2)

    def labels(self) -> Scores:
        """The target alone, as the loops read it."""
        return self.scores()._replace(x=_NO_LOGITS, work=_NO_LOGITS)

    def scores(self, step: int = 1, per_image: bool | None = None) -> Scores:
        """Every ``step``-th pixel of the input, as the loops read it."""
        image, channel, pixel = self.input.stride()
        if self.problem.labelled:
            target_strides = (self.pixels, 0, step)
        else:
            target_strides = (self.classes * self.pixels, self.pixels, step)
        return Scores(
            x=self.x,
            work=self.work,
            strides=(image, channel, pixel * step),
            shape=(self.images, self.classes, -(-self.pixels // step)),
            target=self.target,
            target_strides=target_strides,
            labelled=self.problem.labelled,
            void=self.problem.ignore_index or 0,
            has_void=self.problem.ignore_index is not None,
            per_image=self.problem.per_image if per_image is None else per_image,
        )
