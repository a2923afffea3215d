"""The losses that the paper compares its own with: the hinge loss and the soft Jaccard loss of Rahman & Wang (2016).

Apart from `functional`, because these are sums over pixels in plain torch: no sort, no kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lovasz import validation
from lovasz.choices import Classes, plain_classes, resolve_classes


def hinge_loss(input: Tensor, target: Tensor, *, per_image: bool = False, ignore_index: int | None = None) -> Tensor:
    """Hinge loss of every pixel, averaged; the convex surrogate of pixel accuracy.

    With scores F and labels y in {-1, 1}, for foreground against background::

        loss = mean over pixels i of max(0, 1 - F_i y_i)

    It is the Lovász extension of the Hamming loss at the same errors as those of the Lovász hinge. The paper has it for
    binary segmentation only (section 4). For C classes it is taken here one class against the rest, as Lovász-Softmax
    takes the Jaccard loss: y_i(c) = 1 where the target is c, else -1, and the mean goes over pixels and classes.

    Args:
        input: scores, float16, bfloat16, float32 or float64. Binary: (N, *spatial), (N, 1, *spatial) or (P,), positive
            for foreground, with a target of 1 and 0 of the same shape (the single channel may be left out).
            C >= 2 classes: (N, C, *spatial) or (P, C), with a target (N, *spatial) or (P,) of 0..C-1.
        target: integers or bool; the shapes of both decide between the two forms.
        per_image: average over the images, each with its own mean, instead of over all valid pixels of the batch.
        ignore_index: label of void pixels, any integer; they have neither value nor gradient.

    Returns:
        A scalar, float64 for float64 input, else float32; 0, attached to the graph with zero gradient, if all pixels
        are void (an image that is all void counts as 0 with per_image). NaN scores of valid pixels propagate.

    Raises:
        TypeError: dtypes that are not as above; a ``per_image`` that is no bool, an ``ignore_index`` that is no
            integer.
        ValueError: shapes that do not match, an empty input, a label out of range that is not void.

    Example:
        >>> print(f"{hinge_loss(torch.tensor([[2.0, -0.5, -3.0]]), torch.tensor([[1, 1, 0]])):.4f}")
        0.5000
    """
    per_image = validation.flag("per_image", per_image)
    scores, foreground, valid, _ = _masks(input, target, per_image, ignore_index)
    hinge = torch.relu(1 - torch.where(foreground, scores, -scores))  # (N, C, S)
    hinge = hinge.masked_fill(~valid, 0).mean(1)  # (N, S)
    if not per_image:
        hinge, valid = hinge.reshape(1, -1), valid.reshape(1, 1, -1)
    return (hinge.sum(-1) / valid[:, 0].sum(-1).clamp(min=1)).mean()


def soft_jaccard_loss(
    input: Tensor,
    target: Tensor,
    *,
    from_logits: bool = True,
    classes: Classes = "present",
    per_image: bool = False,
    ignore_index: int | None = None,
) -> Tensor:
    """Soft Jaccard (soft IoU) loss of Rahman & Wang (ISVC 2016): probabilities in place of set membership.

    With probabilities p and ground truth y in {0, 1}, sums over pixels::

        loss = 1 - sum_i p_i y_i / sum_i (p_i + y_i - p_i y_i)

    and 0 for 0/0. For C >= 2 classes p is the softmax and the loss is the mean over classes. Not convex in p, and not a
    surrogate in the paper's sense: it equals one minus the IoU at hard predictions, but its gradient fades where p
    is near 0 or 1. A class without a true pixel costs 1 with zero gradient.

    Args:
        input: logits, or probabilities if ``from_logits=False``, float16, bfloat16, float32 or float64. Binary:
            (N, *spatial), (N, 1, *spatial) or (P,), with a target of 1 and 0 of the same shape (the single channel may
            be left out).
            C >= 2 classes: (N, C, *spatial) or (P, C), with a target (N, *spatial) or (P,) of 0..C-1.
        target: integers or bool; the shapes of both decide between the two forms.
        from_logits: whether the sigmoid (binary) or the softmax is still to be taken.
        classes: "present" averages over the classes that occur in the target (in the image, with per_image), "all" over
            every class, a list over exactly those. A binary input is one class, which always counts.
        per_image: average over the images, instead of taking the batch as one set of pixels.
        ignore_index: label of void pixels, any integer; they have neither value nor gradient.

    Returns:
        A scalar in [0, 1], float64 for float64 input, else float32; 0, attached to the graph with zero gradient, if all
        pixels are void or no class to average over is present (such an image counts as 0 with per_image). NaN
        propagates.

    Raises:
        TypeError: dtypes that are not as above; ``classes`` with a binary input, or not of integers; a ``from_logits``
            or ``per_image`` that is no bool, an ``ignore_index`` that is no integer.
        ValueError: shapes that do not match, an empty input, a label out of range that is not void, values outside
            [0, 1] with ``from_logits=False``, unknown ``classes``.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.5, 0.2]])
        >>> print(f"{soft_jaccard_loss(probabilities, torch.tensor([[1, 1, 0]]), from_logits=False):.4f}")
        0.3636
    """
    from_logits, per_image = validation.flag("from_logits", from_logits), validation.flag("per_image", per_image)
    scores, foreground, valid, binary = _masks(input, target, per_image, ignore_index)
    if not from_logits:
        # Before it is widened: its own type decides what is rounding.
        validation.check_probabilities(input, target, ignore_index)
    if binary and not (isinstance(classes, str) and classes == "present"):
        raise TypeError(
            "classes belongs to input with a channel per class; a binary input has one class, the foreground"
        )
    only_present, chosen = resolve_classes(classes, scores.shape[1])
    probabilities = scores
    if from_logits:
        probabilities = scores.sigmoid() if binary else scores.softmax(1)
    if chosen is not None:
        probabilities, foreground = probabilities[:, list(chosen)], foreground[:, list(chosen)]
    probabilities = probabilities.masked_fill(~valid, 0)
    pixels = (2,) if per_image else (0, 2)
    intersection = probabilities.masked_fill(~foreground, 0).sum(pixels)  # (N, C), or (C,) of the whole batch
    truth = foreground.sum(pixels)
    union = probabilities.sum(pixels) + truth - intersection
    defined = union != 0  # also where it is NaN
    losses = torch.where(defined, 1 - intersection / union.where(defined, torch.ones_like(union)), intersection * 0)
    counted = truth > 0 if only_present and not binary else torch.ones_like(defined)
    losses = losses.masked_fill(~counted, 0)
    return (losses.sum(-1) / counted.sum(-1).clamp(min=1)).mean()


class HingeLoss(nn.Module):
    """Hinge loss, see :func:`hinge_loss` for arguments, shapes and errors.

    Example:
        >>> HingeLoss(ignore_index=255)(torch.randn(2, 8, 8), torch.randint(0, 2, (2, 8, 8))).shape
        torch.Size([])
    """

    def __init__(self, *, per_image: bool = False, ignore_index: int | None = None) -> None:
        super().__init__()
        self.per_image = validation.flag("per_image", per_image)
        self.ignore_index = validation.void_label(ignore_index)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of the scores ``input`` against ``target``."""
        return hinge_loss(input, target, per_image=self.per_image, ignore_index=self.ignore_index)

    def extra_repr(self) -> str:
        return f"per_image={self.per_image}, ignore_index={self.ignore_index}"


class SoftJaccardLoss(nn.Module):
    """Soft Jaccard loss, see :func:`soft_jaccard_loss` for arguments, shapes and errors.

    Example:
        >>> SoftJaccardLoss(classes="all")(torch.randn(2, 5, 8, 8), torch.randint(0, 5, (2, 8, 8))).shape
        torch.Size([])
    """

    def __init__(
        self,
        *,
        from_logits: bool = True,
        classes: Classes = "present",
        per_image: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.from_logits = validation.flag("from_logits", from_logits)
        self.classes: Classes = plain_classes(classes)
        self.per_image = validation.flag("per_image", per_image)
        self.ignore_index = validation.void_label(ignore_index)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of ``input`` against ``target``."""
        return soft_jaccard_loss(
            input,
            target,
            from_logits=self.from_logits,
            classes=self.classes,
            per_image=self.per_image,
            ignore_index=self.ignore_index,
        )

    def extra_repr(self) -> str:
        return (
            f"from_logits={self.from_logits}, classes={self.classes!r}, per_image={self.per_image}, "
            f"ignore_index={self.ignore_index}"
        )


def _masks(
    input: Tensor, target: Tensor, per_image: bool, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Check the tensors; give scores and foreground (N, C, S), valid (N, 1, S), and whether it is binary (C = 1).

    Scores of void pixels are set to 0: they may hold NaN.
    """
    validation.require_float("input", input)
    validation.require_labels("target", target)
    validation.require_same_device(input=input, target=target)
    ignore_index = validation.void_label(ignore_index)
    channels = input.shape[1] if input.dim() > 1 else 1
    binary = channels == 1 or (input.dim() <= 3 and input.dim() == target.dim())
    target = target.long()  # a uint8 mask would take ignore_index=-1 for 255
    if binary:
        validation.check_binary_shapes(input, target, per_image)
        validation.check_labels(target, 2, ignore_index)
        images = 1 if input.dim() == 1 else input.shape[0]
        scores = input.reshape(images, 1, -1)  # (N, 1, S)
    else:
        validation.check_multiclass_shapes(input, target, per_image)
        validation.check_labels(target, channels, ignore_index)
        scores = input.flatten(2) if input.dim() > 2 else input.t().unsqueeze(0)  # (N, C, S)
    labels = target.reshape(scores.shape[0], 1, -1)  # (N, 1, S)
    valid = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
    index = torch.arange(1, 2, device=input.device) if binary else torch.arange(channels, device=input.device)
    foreground = (labels == index.view(1, -1, 1)) & valid  # (N, C, S)
    scores = scores if scores.dtype == torch.float64 else scores.float()
    return scores.masked_fill(~valid, 0), foreground, valid, binary
