"""The binned losses in plain torch operations, for every device that torch has and where Numba is missing.

Errors are computed as usual and weighed by bins instead of by a sort; autograd does the rest. Nothing waits for the
device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lovasz.kernels import bins
from lovasz.problem import Problem


def loss(input: Tensor, target: Tensor, problem: Problem, weight: Tensor | None) -> Tensor:
    """The loss of (N, C, S) scores against (N, S) labels or (N, C, S) masks; see ``lovasz.functional``."""
    images, classes, pixels = input.shape
    valid = torch.ones_like(target, dtype=torch.bool)
    if problem.ignore_index is not None:
        valid = target != problem.ignore_index
    if problem.labelled:
        foreground = target.unsqueeze(1) == torch.arange(classes, device=input.device).view(1, -1, 1)  # (N, C, S)
        valid = valid.unsqueeze(1).expand_as(foreground)
    else:
        foreground = target == 1
    foreground = foreground & valid
    scores = input if input.dtype in (torch.float32, torch.float64) else input.float()
    scores = scores.masked_fill(~valid, 0)  # void pixels are not even read: they may hold NaN
    errors, place, cells = _errors_and_places(scores, foreground, problem.errors)

    with torch.no_grad():
        lut, size = _deal(place, foreground, valid, images * pixels, cells, problem.per_image)
        cell = place >> bins.CELL_BITS
        entry = lut[torch.arange(classes, device=input.device).view(1, -1, 1), cell]  # (N, C, S)
        key = (entry >> 5) + ((place & ((1 << bins.CELL_BITS) - 1)) >> (entry & 31))
        group = torch.arange(classes, device=input.device).view(1, -1, 1)
        if problem.per_image:
            group = group + classes * torch.arange(images, device=input.device).view(-1, 1, 1)
        groups = classes * (images if problem.per_image else 1)
        slot = ((group * 2 + foreground) * size + key).where(valid, groups * 2 * size)  # void pixels beside all bins
        counts = _histogram(slot, groups * 2 * size + 1)[:-1].view(groups, 2, size)
        foreground_pixels = counts[:, 1].sum(-1)  # (G,)
        shares = problem.shares(foreground_pixels.view(-1, classes), weight).flatten()  # (G,)
        weights = bins.weights(counts[:, 0], counts[:, 1]) * shares.view(-1, 1, 1)  # (G, 2, K)
        table = torch.cat([weights.flatten(), weights.new_zeros(1)]).to(errors.dtype)
        slopes = table[slot]  # (N, C, S)
        # A class left out must not turn the sum into NaN: 0 * NaN is NaN.
        counted = valid & (shares > 0)[group]
    total = (errors.masked_fill(~counted, 0) * slopes).sum(dtype=shares.dtype)
    return total.to(torch.promote_types(input.dtype, torch.float32))


def _errors_and_places(scores: Tensor, foreground: Tensor, kind: str) -> tuple[Tensor, Tensor, int]:
    """Errors, their places among the cells (int64), and the number of cells."""
    if kind in ("hinge", "elu"):
        margins = 1 - torch.where(foreground, scores, -scores)
        errors = torch.relu(margins) if kind == "hinge" else torch.nn.functional.elu(margins) + 1
        return errors, bins.unbounded_place(errors.detach()), bins.UNBOUNDED_CELLS
    if kind == "sigmoid":
        signed = torch.where(foreground, scores, -scores)
        errors, complement = (-signed).sigmoid(), signed.detach().sigmoid()
    else:
        probabilities = scores.softmax(1) if kind == "softmax" else scores
        errors = torch.where(foreground, 1 - probabilities, probabilities)
        complement = torch.where(foreground, probabilities, 1 - probabilities).detach()
    return errors, bins.mirrored_place(errors.detach(), complement), bins.MIRRORED_CELLS


def _deal(
    place: Tensor, foreground: Tensor, valid: Tensor, pixels: int, cells: int, per_image: bool
) -> tuple[Tensor, int]:
    """The cells' entries (C, cells), dealt from a sample of the pixels, and the bins that each group may have."""
    images, classes, _ = place.shape
    groups = classes * (images if per_image else 1)
    most, least = bins.capacity(groups, cells, pixels)
    step = max(1, pixels // bins.SAMPLE) | 1
    some, is_foreground, counts = (t[..., ::step] for t in (place, foreground, valid))
    label = torch.arange(classes, device=place.device).view(1, -1, 1)
    slot = ((label * 2 + is_foreground) * cells + (some >> bins.CELL_BITS)).where(counts, classes * 2 * cells)
    sample = _histogram(slot, classes * 2 * cells + 1)[:-1].view(classes, 2, cells)
    totals = foreground.sum((0, 2))
    resolution = bins.resolution(pixels)
    return bins.deal(sample[:, 0], sample[:, 1], totals, step, resolution, most, least), most


def _histogram(slot: Tensor, size: int) -> Tensor:
    """How often each of ``size`` slots occurs; torch.bincount would wait for the device."""
    counts = torch.zeros(size, dtype=torch.int64, device=slot.device)
    return counts.scatter_add_(0, slot.flatten(), torch.ones_like(slot).flatten())
