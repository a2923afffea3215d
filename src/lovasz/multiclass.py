"""Classes that exclude one another: from the arguments of the losses to a kernel, alone or with a cross-entropy.

Apart from ``functional.py``, which says what the losses are, because two of them share it.
"""

from __future__ import annotations

from typing import SupportsIndex

import torch
import torch.nn.functional as F
from torch import Tensor

from lovasz import validation
from lovasz.choices import Classes, Impl, Method, resolve_classes
from lovasz.kernels import CHECK_LABELS, choose, load
from lovasz.problem import Problem
from lovasz.sharing import ProcessGroup, is_shared, loss_of_all, sum_over
from lovasz.validation import ClassWeights


def lovasz_softmax_and_cross_entropy(
    input: Tensor,
    target: Tensor,
    classes: Classes,
    per_image: bool,
    ignore_index: SupportsIndex | None,
    weight: ClassWeights | None,
    method: Method,
    impl: Impl,
    group: ProcessGroup | None,
    *,
    from_logits: bool = True,
    scale: float = 1.0,
    cross_entropy: tuple[float, float] | None = None,
) -> Tensor:
    """``scale`` times the Lovász-Softmax loss, and a cross-entropy of (weight, label smoothing). All else is as in
    :func:`lovasz.functional.lovasz_softmax`."""
    validation.require_float("input", input)
    validation.require_labels("target", target)
    validation.require_same_device(input=input, target=target)
    ignore_index = validation.void_label(ignore_index)
    from_logits, per_image = validation.flag("from_logits", from_logits), validation.flag("per_image", per_image)
    validation.check_multiclass_shapes(input, target, per_image)
    num_classes = input.shape[1]
    only_present, chosen = resolve_classes(classes, num_classes)
    weight = validation.resolve_weight(weight, num_classes, input)
    image = input[0, 0].numel() if per_image else None
    sizes = {"classes": num_classes, "image": image, "dtype": input.dtype}
    choice = choose(method, impl, input.device, input.numel(), **sizes, shared=is_shared(group, per_image))
    if choice.kernel not in CHECK_LABELS:
        target = target.long()  # in uint8, -1 would equal 255
        validation.check_labels(target, num_classes, ignore_index)
    if not from_logits:
        validation.check_probabilities(input, target, ignore_index)

    if input.dim() == 2:
        input, target = input.t().unsqueeze(0), target.unsqueeze(0)  # (1, C, P), (1, P)
    input, target = input.flatten(2), target.reshape(target.shape[0], -1)  # (N, C, S), (N, S)
    fused = choice.kernel in ("cpu", "operator", "sorted", "sorted_operator") and from_logits
    if choice.kernel == "gpu" and cross_entropy is not None:
        fused = load(choice).fuses(input, target, per_image, cross_entropy, group)
    problem = Problem(
        errors="softmax" if from_logits else "probability",
        labelled=True,
        per_image=per_image,
        ignore_index=ignore_index,
        only_present=only_present,
        chosen=chosen,
        scale=scale if fused else 1.0,
        cross_entropy=cross_entropy if fused else None,
    )
    loss = load(choice).loss(input, target, problem, weight, group)
    if fused:
        return loss
    if cross_entropy is None:
        return loss if scale == 1 else scale * loss
    return scale * loss + _cross_entropy(input, target.long(), cross_entropy, weight, ignore_index, group)


def _cross_entropy(
    input: Tensor,
    target: Tensor,
    terms: tuple[float, float],
    weight: Tensor | None,
    ignore_index: int | None,
    group: ProcessGroup | None,
) -> Tensor:
    """The cross-entropy for kernels that do not compute it themselves: (N, C, S) logits, (N, S) int64 labels."""
    logits = input if input.dtype == torch.float64 else input.float()
    class_weights = None if weight is None else weight.to(logits.dtype)
    void = -100 if ignore_index is None else ignore_index
    if ignore_index is not None:  # a void pixel may hold NaN, which its gradient of 0 would take up
        logits = logits.masked_fill((target == void).unsqueeze(1), 0.0)
    total = F.cross_entropy(logits, target, class_weights, ignore_index=void, label_smoothing=terms[1], reduction="sum")
    valid = target != void
    each = torch.ones_like(logits[0, :, 0]) if class_weights is None else class_weights
    pixels = (valid * each[target.where(valid, 0)]).sum()
    pixels = sum_over(group, pixels)
    # Without a pixel of weight above 0 there is no mean, though smoothing may have left a sum.
    return terms[0] * loss_of_all(total, group) / torch.where(pixels > 0, pixels, 1) * (pixels > 0)
