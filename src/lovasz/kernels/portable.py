"""The binned losses in plain torch operations, for every device that torch has and where Numba is missing.

Errors are computed as usual and weighed by bins instead of by a sort; autograd does the rest. Nothing waits for the
device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lovasz.kernels import bins
from lovasz.problem import Problem
from lovasz.sharing import ProcessGroup, loss_of_all, sum_over

_PACKED = 1 << 25  # from so many errors of one class on, a packed bin of one process may overflow


def loss(
    input: Tensor, target: Tensor, problem: Problem, weight: Tensor | None, group: ProcessGroup | None = None
) -> Tensor:
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
        lut, size = _deal(place, foreground, valid, images * pixels, cells, problem.per_image, group)
        class_ = torch.arange(classes, device=input.device).view(1, -1, 1)
        entry = lut[class_, place >> bins.CELL_BITS]  # (N, C, S)
        dropped_bits = entry & 31
        within = place & ((1 << bins.CELL_BITS) - 1)
        key = (entry >> 5) + (within >> dropped_bits)
        fraction = ((within & ((1 << dropped_bits) - 1)) << bins.FRACTION_BITS) >> dropped_bits
        of = class_
        if problem.per_image:
            of = class_ + classes * torch.arange(images, device=input.device).view(-1, 1, 1)
        groups = classes * (images if problem.per_image else 1)
        slot = ((of * 2 + foreground) * size + key).where(valid, groups * 2 * size)  # void pixels beside all bins
        counts, fractions = _bins(slot, fraction, images * pixels, groups * 2 * size, group)
        counts, fractions = counts.view(groups, 2, size), fractions.view(groups, 2, size)
        foreground_pixels = counts[:, 1].sum(-1)  # (G,)
        shares = problem.shares(foreground_pixels.view(-1, classes), weight).flatten()  # (G,)
        mean, fall = bins.weights(counts[:, 0], counts[:, 1])  # (G, 2, K)
        offset, rise = bins.lines(mean, fall, counts, fractions)
        table = torch.stack([offset, rise / 2**bins.FRACTION_BITS], -1) * shares.view(-1, 1, 1, 1)  # (G, 2, K, 2)
        table = torch.cat([table.view(-1, 2), table.new_zeros(1, 2)]).to(errors.dtype)
        slopes = table[:, 0][slot] + table[:, 1][slot] * (fraction + 0.5)  # (N, C, S)
        # Classes of a softmax share a NaN; of others, one left out must not spoil the sum: 0 * NaN is NaN.
        counted = valid if problem.errors == "softmax" else valid & (shares > 0)[of]
    total = (errors.masked_fill(~counted, 0) * slopes).sum(dtype=shares.dtype)
    return loss_of_all(total, group).to(torch.promote_types(input.dtype, torch.float32))


def _errors_and_places(scores: Tensor, foreground: Tensor, kind: str) -> tuple[Tensor, Tensor, int]:
    """Errors, their places among the cells (int64), and the number of cells."""
    if kind in ("hinge", "elu"):
        margins = 1 - torch.where(foreground, scores, -scores)
        errors = torch.relu(margins) if kind == "hinge" else torch.nn.functional.elu(margins) + 1
        if errors.dtype == torch.float64:  # places are float32: beyond it all errors would be taken for equal
            errors = errors.masked_fill(errors > torch.finfo(torch.float32).max, torch.inf)
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
    place: Tensor,
    foreground: Tensor,
    valid: Tensor,
    pixels: int,
    cells: int,
    per_image: bool,
    group: ProcessGroup | None,
) -> tuple[Tensor, int]:
    """The cells' entries (C, cells), dealt from a sample of the pixels, and the bins that each group may have."""
    images, classes, _ = place.shape
    step = bins.spacing(pixels, classes)
    some, is_foreground, counts = (t[..., ::step] for t in (place, foreground, valid))
    label = torch.arange(classes, device=place.device).view(1, -1, 1)
    slot = ((label * 2 + is_foreground) * cells + (some >> bins.CELL_BITS)).where(counts, classes * 2 * cells)
    sample = _histogram(slot, torch.full_like(slot, step), classes * 2 * cells + 1)[:-1]
    known = [sample, foreground.sum((0, 2))]
    if group is None:
        most, least = bins.capacity(classes, images if per_image else 1, cells, pixels)
        return bins.deal(*_split(known, classes), step, bins.fineness(pixels), most, least), most
    # The same bins for all, whatever their sizes; and no number is fetched from the device.
    known = sum_over(group, torch.cat([*known, torch.full_like(known[1][:1], pixels)]))
    spacing = (known[-1] / bins.SAMPLE).clamp(min=3)
    lut = bins.deal(
        *_split([known[: -classes - 1], known[-classes - 1 : -1]], classes), spacing, 1.0, bins.SHARED_BINS, 1
    )
    return lut, bins.SHARED_BINS


def _bins(slot: Tensor, fraction: Tensor, pixels: int, size: int, group: ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """Number of pixels in each of ``size`` slots and sum of their fractions; a slot behind the last is left out.

    Of one process both are packed into one integer, for speed, while all its pixels would fit into one bin.
    """
    if pixels >= _PACKED:
        parts = [_histogram(slot, torch.ones_like(slot), size + 1)[:-1], _histogram(slot, fraction, size + 1)[:-1]]
    else:
        unit = 1 << (bins.FRACTION_BITS + (63 - bins.FRACTION_BITS) // 2)
        packed = _histogram(slot, unit + fraction, size + 1)[:-1]
        parts = [packed // unit, packed % unit]
    counts, fractions = sum_over(group, torch.stack(parts))
    return counts, fractions


def _split(known: list[Tensor], classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Background and foreground counts (C, cells) and totals (C,)."""
    sample = known[0].view(classes, 2, -1)
    return sample[:, 0], sample[:, 1], known[1]


def _histogram(slot: Tensor, values: Tensor, size: int) -> Tensor:
    """The sum of the values in each of ``size`` slots; torch.bincount would wait for the device."""
    sums = torch.zeros(size, dtype=torch.int64, device=slot.device)
    return sums.scatter_add_(0, slot.flatten(), values.flatten())
