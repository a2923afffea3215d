"""The names and signatures of the authors' `lovasz_losses.py` (bermanmaxim/LovaszSoftmax on GitHub): a one-line switch.

Apart from `functional`, whose arguments follow `torch.nn.functional.cross_entropy`: these follow the authors' file.

    from lovasz import compat as L      # was: import lovasz_losses as L

Values are the authors', computed with ``method="exact"``. Mended: a batch that is all void is a scalar zero attached to
the graph (theirs is an empty tensor, or NaN for the cross-entropies), and so is an all-void image's part in a per-image
mean; one valid pixel works (theirs raises); float64 and half precision work; boolean labels, whole-numbered floating
labels and tensors that are not contiguous work wherever integer labels do; ``classes`` may be any string object that
equals a name (theirs asks ``is``); `xloss` honours `ignore`; `mean` does not write into its first element. Labels that
name no class and are not `ignore` raise (theirs takes them for background of every class), and so do probabilities
outside [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import filterfalse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lovasz import functional, validation
from lovasz.authors import in_their_names
from lovasz.kernels.exact import jaccard_weights

# The authors' names of arguments are kept as they are: EMPTY, C, l.
_hinge = in_their_names("logits", functional.lovasz_hinge, method="exact")
_softmax = in_their_names("probas", functional.lovasz_softmax, from_logits=False, method="exact")
_sigmoid = in_their_names("probas", functional.lovasz_sigmoid, from_logits=False, method="exact")
_check_labels = in_their_names("logits", validation.check_labels)


def lovasz_grad(gt_sorted: Tensor) -> Tensor:
    """Gradient of the Lovász extension of the Jaccard loss in the sorted errors (Algorithm 1 of the paper).

    Args:
        gt_sorted: (P,) 0/1 ground truth in the order of decreasing errors; integer, bool or floating.

    Returns:
        (P,) weights, float64 for a float64 argument, else float32; from integer counts: long vectors lose nothing.

    Raises:
        ValueError: values other than 0 and 1, or not one dimension.

    Example:
        >>> lovasz_grad(torch.tensor([1, 0, 1]))
        tensor([0.5000, 0.1667, 0.3333])
    """
    validation.require_tensors(gt_sorted=gt_sorted)
    if gt_sorted.dim() != 1:
        raise ValueError(f"gt_sorted must be (P,), got shape {tuple(gt_sorted.shape)}")
    foreground = gt_sorted == 1
    if not bool((foreground | (gt_sorted == 0)).all()):
        raise ValueError("gt_sorted must hold 0 and 1 only: it marks the foreground")
    dtype = torch.float64 if gt_sorted.dtype == torch.float64 else torch.float32
    return jaccard_weights(foreground.unsqueeze(0), dtype=dtype).squeeze(0)


def iou_binary(preds: Any, labels: Any, EMPTY: float = 1.0, ignore: int | None = None, per_image: bool = True) -> float:
    """IoU of the foreground (label 1), ``100 |truth & found| / |truth | found|`` over the pixels not void (Eq. 3).

    Args:
        preds, labels: (B, H, W) tensors or arrays of 0 and 1, and `ignore` in labels.
        EMPTY: what an image without foreground in either counts as, in [0, 1].
        ignore: void label.
        per_image: mean over the images, else all pixels together.

    Returns:
        A float from 0 to 100.

    Raises:
        ValueError: with per_image, preds and labels with different numbers of images.
    """
    pairs = zip(preds, labels, strict=True) if per_image else [(preds, labels)]
    return 100 * mean(_class_iou(pred, label, 1, EMPTY, ignore) for pred, label in pairs)


def iou(
    preds: Any, labels: Any, C: int, EMPTY: float = 1.0, ignore: int | None = None, per_image: bool = False
) -> np.ndarray:
    """IoU of each class in percent (Eq. 3): an array over the C classes without `ignore`, if that is one of them.

    Args:
        preds, labels: (B, H, W) tensors or arrays of class labels.
        C: number of classes.
        EMPTY: what a class that is in neither counts as, in [0, 1].
        ignore: void label.
        per_image: mean over the images for each class, else all pixels together.

    Returns:
        float64 (C,), or (C - 1,) without `ignore`, from 0 to 100.

    Raises:
        ValueError: with per_image, preds and labels with different numbers of images.
    """
    pairs = zip(preds, labels, strict=True) if per_image else [(preds, labels)]
    classes = [c for c in range(C) if c != ignore]
    scores = [[_class_iou(pred, label, c, EMPTY, ignore) for c in classes] for pred, label in pairs]
    return 100 * np.array([mean(of_class) for of_class in zip(*scores, strict=True)])


def _class_iou(pred: Any, label: Any, c: int, empty: float, ignore: int | None) -> float:
    # An array that was flipped has negative strides, which torch does not take.
    pred, label = (
        torch.as_tensor(x if isinstance(x, Tensor) else np.ascontiguousarray(x)).long() for x in (pred, label)
    )
    truth, found = label == c, pred == c
    if ignore is not None:
        found = found & (label != ignore)
    union = int((truth | found).sum())
    return int((truth & found).sum()) / union if union else empty


# ------------------------------------------------------------------ binary losses


def lovasz_hinge(logits: Tensor, labels: Tensor, per_image: bool = True, ignore: int | None = None) -> Tensor:
    """Binary Lovász hinge loss: the Lovász extension of the Jaccard loss at the hinge errors (Eq. 7, 8).

    Args:
        logits: (B, H, W) scores (or (B, 1, H, W)), positive for foreground; float16, bfloat16, float32 or float64.
        labels: same shape (a channel of size 1 may be there or not), 0 and 1, and `ignore`.
        per_image: mean of the losses of the images, else one loss of all pixels. Of (P,) logits each pixel is an image.
        ignore: void label.

    Returns:
        A scalar, float64 for float64 logits, else float32.

    Raises:
        TypeError, ValueError: as `lovasz.functional.lovasz_hinge`; ValueError also for labels that are fractions.
    """
    validation.require_tensors(logits=logits, labels=labels)
    labels = _shaped(_whole(labels), logits.shape)
    if logits.dim() and logits.shape == labels.shape:
        # Volumes too, as the authors' flattening takes them, and images of one pixel.
        logits, labels = (x.unsqueeze(-1).flatten(1).unsqueeze(1) for x in (logits, labels))  # (B, 1, S)
    return _hinge(logits, labels, per_image=bool(per_image), ignore_index=ignore)


def lovasz_hinge_flat(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary Lovász hinge loss of (P,) logits and (P,) labels 0 and 1.

    Returns:
        A scalar, float64 for float64 logits, else float32; 0, of the logits' own dtype, for P = 0.

    Raises:
        TypeError, ValueError: as `lovasz.functional.lovasz_hinge`; ValueError also for labels that are fractions.
    """
    validation.require_tensors(logits=logits, labels=labels)
    if labels.numel() == 0:
        return logits.sum() * 0.0
    return _hinge(logits, _whole(labels), per_image=False)


def flatten_binary_scores(scores: Tensor, labels: Tensor, ignore: int | None = None) -> tuple[Tensor, Tensor]:
    """Scores and labels of one shape as (P,) vectors, without the pixels labelled `ignore`; no fractions with that."""
    validation.require_tensors(scores=scores, labels=labels)
    scores, labels = scores.reshape(-1), labels.reshape(-1)
    if ignore is None:
        return scores, labels
    valid = _whole(labels) != ignore
    return scores[valid], labels[valid]


class StableBCELoss(nn.Module):
    """Binary cross-entropy of logits, averaged, float64 for float64 input, else float32; 0 for empty input.

    Input and target of any shapes that broadcast against each other; the target is 0 and 1, or between.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Mean over all elements of -log sigmoid(input) where target is 1 and -log sigmoid(-input) where it is 0."""
        if input.numel() == 0:
            return input.sum() * 0.0
        wide = input if input.dtype == torch.float64 else input.float()
        wide, target = torch.broadcast_tensors(wide, target.to(wide.dtype))
        return F.binary_cross_entropy_with_logits(wide, target)


def binary_xloss(logits: Tensor, labels: Tensor, ignore: int | None = None) -> Tensor:
    """`StableBCELoss` of (B, H, W) logits and labels 0 and 1, averaged over the pixels that are not `ignore`.

    Returns:
        A scalar, float64 for float64 logits, else float32; 0, of the logits' own dtype, if all pixels are void.

    Raises:
        ValueError: a label other than 0, 1 and `ignore`.
    """
    validation.require_tensors(logits=logits, labels=labels)
    logits, labels = flatten_binary_scores(logits, labels, ignore)
    _check_labels(_whole(labels), 2, None)
    return StableBCELoss()(logits, labels)


# ------------------------------------------------------------------ multi-class losses


def lovasz_softmax(
    probas: Tensor,
    labels: Tensor,
    classes: str | Sequence[int] = "present",
    per_image: bool = False,
    ignore: int | None = None,
) -> Tensor:
    """Multi-class Lovász-Softmax loss of probabilities p (Eq. 11 to 13).

    The mean over `classes` of each one's Jaccard loss, extended to the errors 1 - p on its pixels and p elsewhere.

    Args:
        probas: (B, C, H, W) class probabilities; or (B, H, W), also (B, 1, H, W), the sigmoid output for the one class
            that `classes` names, such as [1].
        labels: (B, H, W) or (B, 1, H, W), 0..C-1 and `ignore`.
        classes: "all", "present" for those that occur in labels, or a list of classes to average.
        per_image: mean of the losses of the images, else one loss of all pixels.
        ignore: void label.

    Returns:
        A scalar in [0, 1], float64 for float64 probabilities, else float32.

    Raises:
        TypeError, ValueError: as `lovasz.functional.lovasz_softmax`; ValueError also for labels that are fractions, and
            for a sigmoid output without exactly one class in `classes`.
    """
    validation.require_tensors(probas=probas, labels=labels)
    labels = _whole(labels)
    if probas.dim() == 3 or (probas.dim() > 3 and probas.shape[1] == 1):
        labels = _shaped(labels, probas.shape)
        foreground, void = _foreground(labels, classes, ignore), None if ignore is None else -1
        return _sigmoid(probas, foreground, per_image=bool(per_image), ignore_index=void)
    labels = _shaped(labels, probas.shape[:1] + probas.shape[2:])
    return _softmax(probas, labels, classes=classes, per_image=bool(per_image), ignore_index=ignore)


def lovasz_softmax_flat(probas: Tensor, labels: Tensor, classes: str | Sequence[int] = "present") -> Tensor:
    """Lovász-Softmax loss of (P, C) probabilities and (P,) labels. C = 1 is a sigmoid's one class.

    Returns:
        A scalar, float64 for float64 probabilities, else float32; 0, of their own dtype, for P = 0.

    Raises:
        TypeError, ValueError: as `lovasz.functional.lovasz_softmax`; ValueError also for labels that are fractions, and
            for C = 1 without exactly one class in `classes`.
    """
    validation.require_tensors(probas=probas, labels=labels)
    if probas.numel() == 0:
        return probas.sum() * 0.0
    labels = _whole(labels)
    if probas.shape[1] == 1:
        return _sigmoid(probas[:, 0], _foreground(labels, classes, None))
    return _softmax(probas, labels, classes=classes)


def flatten_probas(probas: Tensor, labels: Tensor, ignore: int | None = None) -> tuple[Tensor, Tensor]:
    """Probabilities (B, C, H, W), or (B, H, W) of a sigmoid, as (P, C), and labels as (P,), without `ignore` pixels.

    Raises ValueError for probabilities of fewer dimensions and, with `ignore`, for labels that are fractions.
    """
    validation.require_tensors(probas=probas, labels=labels)
    if probas.dim() == 3:
        probas = probas.unsqueeze(1)  # (B, 1, H, W)
    if probas.dim() < 3:
        raise ValueError(f"probas must be (B, C, H, W) or (B, H, W), got shape {tuple(probas.shape)}")
    probas = probas.movedim(1, -1).reshape(-1, probas.shape[1])  # (P, C)
    labels = labels.reshape(-1)  # (P,)
    if ignore is None:
        return probas, labels
    valid = _whole(labels) != ignore
    return probas[valid], labels[valid]


def xloss(logits: Tensor, labels: Tensor, ignore: int | None = None) -> Tensor:
    """Cross-entropy of (B, C, H, W) logits and (B, H, W) labels, averaged over the pixels that are not void.

    The mean of ``-log softmax(logits)[label]``. The void label is `ignore`; without one it is 255, which the authors
    have fixed whatever `ignore` says.

    Returns:
        A scalar, float64 for float64 logits, else float32; 0 if all pixels are void.

    Raises:
        ValueError: labels that are fractions. IndexError: a label beyond the classes, from F.cross_entropy.
    """
    validation.require_tensors(logits=logits, labels=labels)
    labels = _whole(labels)
    void = 255 if ignore is None else ignore
    wide = logits if logits.dtype == torch.float64 else logits.float()
    total = F.cross_entropy(wide, labels, ignore_index=void, reduction="sum")
    return total / (labels != void).sum().clamp(min=1)


# ------------------------------------------------------------------ means


def isnan(x: Any) -> Any:
    """Whether a number is NaN; elementwise for a tensor or an array."""
    return x != x


def mean(l: Iterable[Any], ignore_nan: bool = False, empty: Any = 0) -> Any:  # noqa: E741 - the authors' name
    """Mean of numbers or tensors in any iterable.

    Args:
        l: the values; a generator is fine.
        ignore_nan: leave NaN out.
        empty: result if nothing is there; "raise" raises ValueError instead.

    Returns:
        Their sum over their number, of the values' own type; the only value itself.
    """
    values: Iterator[Any] = filterfalse(isnan, l) if ignore_nan else iter(l)
    count, total = 0, empty
    for value in values:
        total = value if count == 0 else total + value  # never in place: the first value belongs to the caller
        count += 1
    if count == 0:
        if isinstance(empty, str) and empty == "raise":
            raise ValueError("mean of nothing: no values came, or all were NaN; give empty= a number to return")
        return empty
    return total if count == 1 else total / count


def _whole(labels: Tensor) -> Tensor:
    """Labels as int64. Floating labels are taken, as the authors take them, if they are whole numbers."""
    if not labels.is_floating_point():
        return labels.long()
    whole = labels.long()
    if not bool((whole == labels).all()):
        raise ValueError("labels must be whole numbers (class labels), got fractions: soft labels have no IoU")
    return whole


def _shaped(labels: Tensor, shape: torch.Size) -> Tensor:
    """Labels in that shape where only channels of size 1 differ: the authors flatten whatever comes."""
    return labels.reshape(shape) if [n for n in labels.shape if n > 1] == [n for n in shape if n > 1] else labels


def _foreground(labels: Tensor, classes: str | Sequence[int], ignore: int | None) -> Tensor:
    """1 where the one class of a sigmoid output is true, 0 elsewhere, -1 at void pixels."""
    if isinstance(classes, str | bool) or len(classes) != 1:
        raise ValueError(f"a sigmoid output, probas (B, H, W), is one class: name it, classes=[1]; got {classes!r}")
    foreground = (labels == classes[0]).long()
    return foreground if ignore is None else foreground.masked_fill(labels == ignore, -1)
