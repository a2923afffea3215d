"""What one call asks of a kernel, the same for all kernels: which errors, which groups of pixels, which average."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lovasz.devices import widest

# What every binned kernel says of a second derivative.
ONCE = "the binned loss is differentiable once; for second derivatives use method='exact'"


@dataclass(frozen=True)
class Problem:
    """One loss, apart from its tensors.

    Attributes:
        errors: "softmax" (from logits), "sigmoid" (from logits), "probability", "hinge" or "elu".
        labelled: the target holds class indices (N, S), else 0 and 1 per score (N, C, S).
        per_image: groups are (image, class), else classes.
        ignore_index: void label or None.
        only_present: average over groups with foreground.
        chosen: average over these classes, None for all.
        scale: what the result is to be multiplied by.
        cross_entropy: (weight, label smoothing) of a cross-entropy to add, with softmax errors; kernels without passes
            of their own leave both to their caller.
    """

    errors: str
    labelled: bool
    per_image: bool
    ignore_index: int | None
    only_present: bool = False
    chosen: tuple[int, ...] | None = None
    scale: float = 1.0
    cross_entropy: tuple[float, float] | None = None

    def shares(self, foreground: Tensor, weight: Tensor | None) -> Tensor:
        """Share of each group's loss in the result: the weighted mean over the counted classes (Eq. 13) of its image,
        then the mean over images; an image without any counts as 0.

        Args:
            foreground: (images or 1, C) numbers of foreground pixels.
            weight: (C,) class weights or None.

        Returns:
            Tensor of the same shape, float64 where the device has it.
        """
        dtype = widest(foreground.device)
        counted = foreground > 0 if self.only_present else torch.ones_like(foreground, dtype=torch.bool)
        if self.chosen is not None:
            chosen = torch.zeros(foreground.shape[1], dtype=torch.bool, device=foreground.device)
            for c in self.chosen:  # a list as an index would wait for the device
                chosen[c] = True
            counted = counted & chosen
        share = counted.to(dtype) if weight is None else counted * weight.detach().to(dtype)
        total = share.sum(1, keepdim=True)
        return share / torch.where(total > 0, total, 1) / foreground.shape[0]


def raw_errors(scores: Tensor, foreground: Tensor, kind: str) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
    """The errors of (N, C, S) scores as a sort takes them, and the activation to apply to them once they are in order:
    it may make different ones equal."""
    if kind == "sigmoid":
        return torch.where(foreground, -scores, scores).sigmoid(), None
    if kind in ("hinge", "elu"):
        activation = torch.relu if kind == "hinge" else _shifted_elu
        return 1 - torch.where(foreground, scores, -scores), activation
    probabilities = scores.softmax(1) if kind == "softmax" else scores
    return torch.where(foreground, 1 - probabilities, probabilities), None


def _shifted_elu(margins: Tensor) -> Tensor:
    return torch.nn.functional.elu(margins) + 1
