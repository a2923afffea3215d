"""Which labels to answer when the IoU is what counts: the decision rule of Nowozin (CVPR 2014) beside arg max, and that
of the package rankseg (Wang and Dai, NeurIPS 2025).

Apart from the losses: it changes the answer of a trained network, not its training.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from lovasz.lab.errors import LabError

MOST_ROUNDS = 100


def expected_iou(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean over classes of E[intersection] / E[union] of `labels`, where pixels are independent with `probabilities`.

    Nowozin's approximation of the expected IoU (Eq. 8 and 10 there), on all pixels given as one set::

        I_c = sum over pixels labelled c of p_c        U_c = sum of p_c + sum over pixels labelled c of (1 - p_c)

    Shapes: probabilities (P, C), labels (P,) of 0..C-1; returns a scalar. A class with U_c = 0 is left out.
    """
    intersection, union = _counts(probabilities, labels)
    return (intersection / union)[union > 0].mean()


def decide(probabilities: Tensor) -> Tensor:
    """Labels (P,) with a large `expected_iou`; never less than that of the arg max, from which the search starts.

    The gain of a pixel that joins class c is, to first order, (p_c - J_c (1 - p_c)) / U_c, J_c = I_c / U_c. Each round
    gives every pixel to the class where it gains most, or, where so many at once bring nothing, the half that gains
    most, and so on; then it computes J and U anew. It ends when not even one pixel brings anything.
    With two classes of which one is scored this is Dinkelbach's method, which finds the optimum of the ratio.

    probabilities: (P, C), of all images that are scored together: a batch in which every class is present, as the
    paper's comparison to prior work has it. Raises LabError for another shape, or values that are no probabilities.
    """
    if probabilities.ndim != 2 or not probabilities.is_floating_point() or not probabilities.numel():
        raise LabError(
            f"probabilities: got {probabilities.dtype} of shape {tuple(probabilities.shape)}; expected floating (P, C)."
        )
    low, high = (float(value) for value in torch.aminmax(probabilities))
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise LabError(f"probabilities: values from {low:g} to {high:g}; expected 0 to 1. Take the softmax first.")
    p = probabilities.double()
    best = p.argmax(1)
    best_value = expected_iou(p, best)
    for _ in range(MOST_ROUNDS):
        intersection, union = _counts(p, best)
        union = union.clamp_min(torch.finfo(torch.float64).tiny)
        gain = (p - intersection / union * (1 - p)) / union
        most, proposed = gain.max(1)
        order = (most - gain.gather(1, best[:, None])[:, 0]).argsort(descending=True)
        movers = int((proposed != best).sum())
        while movers:
            labels = best.clone()
            labels[order[:movers]] = proposed[order[:movers]]
            value = expected_iou(p, labels)
            if value > best_value:
                best, best_value = labels, value
                break
            movers //= 2
        else:
            break
    return best


def rank(probabilities: Tensor) -> Tensor:
    """Labels (N, ...) of probabilities (N, C, ...) by rankseg's rule for the IoU of each image alone.

    Reciprocal moment approximation, classes not overlapping. Raises LabError where rankseg is not installed.
    """
    try:
        rankseg = importlib.import_module("rankseg")
    except ImportError as error:
        raise LabError(
            "this decision rule needs rankseg, which is not installed. Run: pip install 'lovasz[paper]', or leave the "
            "rule out."
        ) from error
    return rankseg.RankSEG(metric="IoU", output_mode="multiclass", solver="RMA")(probabilities)


def _counts(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Expected intersection and union of each class, float64 (C,)."""
    p = probabilities.double()
    classes = p.shape[1]
    chosen = p.gather(1, labels[:, None])[:, 0]  # (P,)
    intersection = torch.zeros(classes, dtype=torch.float64, device=p.device).scatter_add(0, labels, chosen)
    size = torch.bincount(labels, minlength=classes)
    return intersection, p.sum(0) + size - intersection
