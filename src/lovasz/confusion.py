"""Integer confusion counts of labels or scores, which the metrics add up; plain torch, without torchmetrics."""

from __future__ import annotations

import torch
from torch import Tensor

from lovasz import hints
from lovasz.validation import counting, require_tensors


def confusion_counts(
    preds: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    ignore_index: int | None = None,
    threshold: float | None = None,
    per_image: bool = False,
) -> Tensor:
    """Count the pixels of every pair (true class, predicted class), in one pass.

    Args:
        preds: one of
            (N, num_classes, *spatial) floating: logits or probabilities; the class of the largest score is predicted
            (the first one in a tie);
            the shape of target, integer or boolean: predicted labels (at void pixels they may be anything);
            the shape of target, or (N, 1, *spatial), floating, with num_classes=2: scores of the foreground, which is
            predicted where score > threshold. Give threshold=0.0 for logits and threshold=0.5 for probabilities.
        target: (N, *spatial), integer or boolean class labels 0..num_classes-1, or ignore_index.
        num_classes: C, rows and columns of the result.
        ignore_index: label of void pixels, which are in no cell; None: no label is void.
        threshold: of the scores of a single foreground class, and needed for these alone; see preds.
        per_image: count each image of the first dimension apart; target is then (N, H, W) or has more dimensions.

    Returns:
        int64 (num_classes, num_classes), rows = truth, columns = prediction; (N, num_classes, num_classes) with
        per_image.

    Raises:
        TypeError: what is no tensor, or of a dtype that cannot be meant; an ignore_index that is no integer.
        ValueError: num_classes or a threshold without a meaning, wrong shapes, empty input, NaN scores of a valid
            pixel, labels out of range (the message names label and classes).
    """
    num_classes, ignore_index, threshold = counting(num_classes, ignore_index, threshold)
    require_tensors(preds=preds, target=target)
    if target.is_floating_point() or target.is_complex():
        hint = hints.of_float_labels("target", target)
        raise TypeError(f"target must hold integer class labels, got dtype {target.dtype}; {hint}.")
    if target.numel() == 0 or target.ndim == 0:
        raise ValueError(f"target must hold pixels in the shape (N, *spatial), got shape {tuple(target.shape)}.")
    if per_image and target.ndim < 3:
        raise ValueError(
            f"a per-image metric needs target (N, H, W), with the images in the first dimension, got {_shape(target)}. "
            "For one image add the batch dimension, target[None]; for points (N, P) a last one, target[..., None]."
        )
    truth = target.long()
    void = torch.zeros_like(truth, dtype=torch.bool) if ignore_index is None else truth == ignore_index
    labels = _predicted_labels(preds, target, void, num_classes, threshold)  # (N, *spatial) int64
    truth, labels = truth.masked_fill(void, 0), labels.masked_fill(void, 0)
    _check_range("target", truth, num_classes, ignore_index)
    _check_range("preds", labels, num_classes, ignore_index)

    cells = num_classes * num_classes
    pairs = (
        truth.mul_(num_classes).add_(labels).masked_fill_(void, cells)
    )  # void pixels go to one bucket behind the last
    if not per_image:
        return torch.bincount(pairs.flatten(), minlength=cells + 1)[:cells].view(num_classes, num_classes)
    counts = []
    for part in pairs.flatten(1).split(max(1, 2**22 // cells)):  # few images at a time where classes are many
        offsets = torch.arange(len(part), device=part.device).unsqueeze(1) * (cells + 1)  # (n, 1)
        flat = torch.bincount((part + offsets).flatten(), minlength=len(part) * (cells + 1))
        counts.append(flat.view(len(part), cells + 1)[:, :cells])
    return torch.cat(counts).view(-1, num_classes, num_classes)  # (N, C, C)


def _predicted_labels(preds: Tensor, target: Tensor, void: Tensor, num_classes: int, threshold: float | None) -> Tensor:
    if preds.is_complex():
        raise TypeError(f"preds must be real scores or integer labels, got dtype {preds.dtype}.")
    scores_of_all = preds.shape == (target.shape[0], num_classes, *target.shape[1:])
    if threshold is not None and (scores_of_all or not preds.is_floating_point()):
        what = "scores of both classes: give those of the foreground, preds[:, 1], or" if scores_of_all else "labels:"
        raise ValueError(f"threshold={threshold} has no meaning for preds {_shape(preds)}, {what} leave it out.")
    if not preds.is_floating_point():
        if preds.shape != target.shape:
            raise ValueError(
                f"preds of dtype {preds.dtype} are labels and must have target's shape {_shape(target)}, "
                f"got {_shape(preds)}{_channel(preds, target)}. Scores of the classes must be floating."
            )
        if _is_one_hot(preds, num_classes) and _is_one_hot(target, num_classes):
            raise ValueError(
                f"preds and target {_shape(target)} look one-hot, where labels are expected: use .argmax(1) on both."
            )
        return preds.long()
    foreground = (target.shape[0], 1, *target.shape[1:])
    if preds.shape == target.shape or preds.shape == foreground:
        if num_classes != 2 or threshold is None:
            raise ValueError(
                f"preds {_shape(preds)} for target {_shape(target)} are scores of a single foreground class: these "
                f"need num_classes=2 and a threshold (0.0 for logits, 0.5 for probabilities), got "
                f"num_classes={num_classes} and threshold={threshold}. "
                f"Scores of all classes have the shape {_scores_shape(target, num_classes)}."
            )
        if (torch.isnan(preds.reshape(target.shape)) & ~void).any():
            raise ValueError("preds holds NaN: the network's output is not usable, look for divergence in training.")
        wide = preds.float() if preds.itemsize == 2 else preds  # else torch would round the threshold to half precision
        return (wide > threshold).reshape(target.shape).long()
    if not scores_of_all:
        raise ValueError(
            f"preds must be scores {_scores_shape(target, num_classes)} or labels {_shape(target)} "
            f"for target {_shape(target)} and num_classes={num_classes}, got {_shape(preds)}"
            f"{_of_scores(preds, target, num_classes)}."
        )
    scores, labels = preds.max(dim=1)  # NaN wins every comparison, so one look at the maxima finds it
    if (torch.isnan(scores) & ~void).any():
        raise ValueError("preds holds NaN: the network's output is not usable, look for divergence in training.")
    return labels


def _channel(preds: Tensor, target: Tensor) -> str:
    """For labels of which one tensor has a channel of size 1 that the other has not."""
    for name, one, other in (("preds", preds, target), ("target", target, preds)):
        if one.ndim > 2 and one.shape[1] == 1 and one.shape == other.unsqueeze(1).shape:
            return f"; drop the channel with {name}.squeeze(1)"
    return ""


def _of_scores(preds: Tensor, target: Tensor, num_classes: int) -> str:
    """For scores that do not fit the labels, or that are of other classes."""
    if preds.ndim == target.ndim + 1 and preds.shape == (len(target), preds.shape[1], *target.shape[1:]):
        return f"; these are scores of {preds.shape[1]} classes, not of {num_classes}"
    return hints.of_shapes("preds", preds, target) if preds.ndim > 1 else ""


def _is_one_hot(labels: Tensor, num_classes: int) -> bool:
    """Whether there is exactly one 1 along dimension 1, and nothing else but 0."""
    if labels.ndim < 4 or labels.shape[1] != num_classes:
        return False
    lowest, highest = torch.aminmax(labels.long())
    return bool(lowest >= 0) and bool(highest <= 1) and bool((labels.long().sum(1) == 1).all())


def _check_range(name: str, labels: Tensor, num_classes: int, ignore_index: int | None) -> None:
    lowest, highest = (int(value) for value in torch.aminmax(labels))
    if lowest < 0 or highest >= num_classes:
        wrong = lowest if lowest < 0 else highest
        where = "" if name == "target" else " at a pixel that is not void"
        raise ValueError(
            f"{name} holds the label {wrong}{where}, but num_classes={num_classes} allows 0..{num_classes - 1} "
            f"(ignore_index={ignore_index}). Give the void label as ignore_index, or map the labels first"
            f"{hints.of_label(wrong, num_classes) if name == 'target' else ''}."
        )


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _scores_shape(target: Tensor, num_classes: int) -> str:
    return str((target.shape[0], num_classes, *target.shape[1:]))
