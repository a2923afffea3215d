"""The losses as functions. Each checks its arguments, picks a kernel and averages; how is in ``lovasz.kernels``."""

from __future__ import annotations

from collections.abc import Callable
from typing import SupportsIndex

import torch
from torch import Tensor

from lovasz import multiclass, set_functions, validation
from lovasz.choices import ACTIVATIONS, Activation, Classes, Impl, Method, require_choice, resolve_classes
from lovasz.kernels import CHECK_LABELS, choose, exact, load
from lovasz.problem import Problem
from lovasz.sharing import ProcessGroup, is_shared
from lovasz.validation import ClassWeights


def lovasz_softmax(
    input: Tensor,
    target: Tensor,
    *,
    from_logits: bool = True,
    classes: Classes = "present",
    per_image: bool = False,
    ignore_index: SupportsIndex | None = None,
    weight: ClassWeights | None = None,
    method: Method = "binned",
    impl: Impl = "auto",
    group: ProcessGroup | None = None,
) -> Tensor:
    """Lovász-Softmax loss: the surrogate of one minus the mean IoU over classes.

    With p the softmax of the logits over classes, the errors of class c are (Eq. 11) ``m_i(c) = 1 - p_i(c)`` where the
    target is c and ``p_i(c)`` elsewhere, and the loss is (Eq. 12, 13)::

        loss = sum_c w_c Δ_c(m(c)) / sum_c w_c

    where Δ_c is the Lovász extension of the Jaccard loss of class c over all pixels of the batch.

    Args:
        input: (N, C, *spatial) or (P, C) logits, or probabilities if ``from_logits=False``; float16, bfloat16, float32
            or float64.
        target: (N, *spatial) or (P,) class indices of any integer dtype or bool.
        from_logits: whether the softmax over classes is still to be taken.
        classes: "present" averages over the classes that occur in the target, "all" over every class (an absent one
            pays for its largest probability), a list over exactly those.
        per_image: average the losses of single images instead of taking the batch as one set of pixels.
        ignore_index: label of void pixels, any integer, also a negative one; they have neither value nor gradient.
        weight: (C,) class weights w of the average; default 1.
        method: "exact" (sorted) or "binned" (linear time). With ``impl="auto"`` small inputs are sorted all the same:
            of at most 16,384 errors (pixels times classes), or, on the CPU with numba but for float64, 4 million of at
            most 65,536 pixels (with ``per_image`` of one image, and any number of images of at most 16,384).
        impl: "auto", "torch", "numba" or "triton". An explicit one never falls back: with ``method="exact"`` "triton"
            raises, and so does "numba" for float64 and inside torch.compile.
        group: a torch.distributed process group, of which every process calls this with its part of the batch: the
            loss is then that of the batch of all together, the same number in each process, for one small message of
            counts. Its gradient is multiplied by the number of processes; DistributedDataParallel divides by it, so the
            result is the gradient of the joint loss. It needs ``per_image=False`` and ``method="binned"``.

    Returns:
        A scalar in [0, 1], float64 for float64 input, else float32. It is 0, attached to the graph with zero gradient,
        if all pixels are void or no class to average over is present. A logit of NaN or +inf at a valid pixel
        makes the loss NaN, as with F.cross_entropy; one of -inf is a probability of 0.

    Raises:
        TypeError: dtypes that are not as above; ``from_logits`` or ``per_image`` that is no bool, ``classes`` or an
            ``ignore_index`` that are no integers, a ``weight`` that holds no numbers, a ``group`` of another type.
        ValueError: shapes that do not match, an empty input, one channel only; a label outside 0..C-1 that is not void,
            values outside [0, 1] with ``from_logits=False``; unknown ``classes``, ``method`` or ``impl``, an ``impl``
            that does not serve the device; ``weight`` of another shape, negative, not finite or requiring a gradient;
            ``group`` with ``per_image=True`` or ``method="exact"``. What is wrong in a tensor's values is a
            RuntimeError on an accelerator, when it gets there, and may be one inside torch.compile.
        ImportError: an ``impl`` whose package is not installed.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]], requires_grad=True)  # one image, two classes, two pixels
        >>> loss = lovasz_softmax(logits, torch.tensor([[0, 1]]))
        >>> loss.backward()
        >>> print(f"{loss.item():.4f}")
        0.2315
    """
    return multiclass.lovasz_softmax_and_cross_entropy(
        input, target, classes, per_image, ignore_index, weight, method, impl, group, from_logits=from_logits
    )


def lovasz_cross_entropy(
    input: Tensor,
    target: Tensor,
    *,
    lovasz_weight: float = 1.0,
    cross_entropy_weight: float = 1.0,
    label_smoothing: float = 0.0,
    classes: Classes = "present",
    per_image: bool = False,
    ignore_index: SupportsIndex | None = None,
    weight: ClassWeights | None = None,
    method: Method = "binned",
    impl: Impl = "auto",
    group: ProcessGroup | None = None,
) -> Tensor:
    """Cross-entropy and Lovász-Softmax loss together, where it can be in the same two passes over the logits.

    ::

        lovasz_weight * lovasz_softmax(input, target, ...) + cross_entropy_weight * F.cross_entropy(input, target, ...)

    The passes are shared on the CPU (numba), and on NVIDIA GPUs where the batch has 131,072 pixels or more, without
    label smoothing, ``per_image`` and ``group``.

    Args:
        input: (N, C, *spatial) or (P, C) logits; float16, bfloat16, float32 or float64.
        target: (N, *spatial) or (P,) class indices of any integer dtype or bool.
        lovasz_weight, cross_entropy_weight: weights of the two terms, not negative.
        label_smoothing: of the cross-entropy, from 0 to 1.
        classes, per_image: of the Lovász-Softmax loss.
        ignore_index: label of void pixels, for both terms.
        weight: (C,) class weights, as each of the two functions takes them: of the pixels' mean in the cross-entropy,
            and of the classes' mean in the Lovász-Softmax loss.
        method, impl, group: as in :func:`lovasz_softmax`; with ``group`` the cross-entropy too is that of all
            processes' pixels.

    Returns:
        A scalar, float64 for float64 input, else float32; 0 with zero gradient if all pixels are void, where
        F.cross_entropy is NaN. A logit of NaN or +inf at a valid pixel makes the loss NaN.

    Raises:
        TypeError, ValueError, ImportError: as :func:`lovasz_softmax`; TypeError also for a weight of a term or a
            label_smoothing that is no number, such as a tensor; ValueError for a negative one or one beyond 1.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]], requires_grad=True)  # one image, two classes, two pixels
        >>> print(f"{lovasz_cross_entropy(logits, torch.tensor([[0, 1]])).item():.4f}")
        0.4516
    """
    validation.check_not_negative(lovasz_weight=lovasz_weight, cross_entropy_weight=cross_entropy_weight)
    validation.check_label_smoothing(label_smoothing)
    # Of weight 0 it is left out: 0 times the infinite cross-entropy of a logit of -inf would be NaN.
    terms = (cross_entropy_weight, label_smoothing) if cross_entropy_weight else None
    how = input, target, classes, per_image, ignore_index, weight, method, impl, group
    return multiclass.lovasz_softmax_and_cross_entropy(*how, scale=lovasz_weight, cross_entropy=terms)


def lovasz_hinge(
    input: Tensor,
    target: Tensor,
    *,
    per_image: bool = True,
    ignore_index: SupportsIndex | None = None,
    activation: Activation = "relu",
    method: Method = "binned",
    impl: Impl = "auto",
    group: ProcessGroup | None = None,
) -> Tensor:
    """Lovász hinge loss for foreground against background: the surrogate of one minus the IoU of the foreground.

    With scores F and labels y in {-1, 1} the errors are the hinge losses ``m_i = max(0, 1 - F_i y_i)`` (Eq. 7), and the
    loss is the Lovász extension of the Jaccard loss at m (Eq. 8), per image and averaged, or over the whole batch.

    Args:
        input: (N, *spatial), (N, 1, *spatial) or (P,) scores, positive for foreground; float16, bfloat16, float32 or
            float64.
        target: same shape (the single channel may be left out), 1 for foreground, 0 for background; integers or bool.
        per_image: average over images (a flat (P,) input is one image), else the batch is one set of pixels.
        ignore_index: label of void pixels, any integer.
        activation: "relu" is the paper's hinge; "elu" uses ``elu(1 - F y) + 1``, a variant in use whose gradient does
            not vanish beyond the margin.
        method, impl: as in :func:`lovasz_softmax`.
        group: as in :func:`lovasz_softmax`. It needs ``per_image=False``, which is not the default here.

    Returns:
        A scalar, float64 for float64 input, else float32; 0 with zero gradient if all pixels are void. NaN at a valid
        pixel propagates; a wrong score that is infinite in float32 makes the loss infinite or NaN, by kernel.

    Raises:
        TypeError: dtypes that are not as above; a ``per_image`` that is no bool, an ``ignore_index`` that is no
            integer, a ``group`` of another type.
        ValueError: shapes that do not match or are ambiguous, an empty input, labels other than 0, 1 and void; unknown
            ``activation``, ``method`` or ``impl``; ``group`` with ``per_image=True`` or ``method="exact"``.
        ImportError: an ``impl`` whose package is not installed.

    Example:
        >>> scores = torch.tensor([[2.0, -0.5, -3.0]])
        >>> print(f"{lovasz_hinge(scores, torch.tensor([[1, 1, 0]])):.4f}")
        0.7500
    """
    require_choice("activation", activation, ACTIVATIONS)
    per_image, ignore_index = validation.flag("per_image", per_image), validation.void_label(ignore_index)
    input, target = _binary(input, target, per_image)
    sizes = {"classes": input.shape[1], "image": input.shape[2] if per_image else None, "dtype": input.dtype}
    choice = choose(method, impl, input.device, input.numel(), **sizes, shared=is_shared(group, per_image))
    if choice.kernel not in CHECK_LABELS:
        target = target.long()
        validation.check_labels(target, 2, ignore_index)
    problem = Problem(
        errors="hinge" if activation == "relu" else "elu",
        labelled=False,
        per_image=per_image,
        ignore_index=ignore_index,
    )
    return load(choice).loss(input, target, problem, None, group)


def lovasz_sigmoid(
    input: Tensor,
    target: Tensor,
    *,
    from_logits: bool = True,
    multilabel: bool = False,
    classes: Classes = "present",
    per_image: bool = False,
    ignore_index: SupportsIndex | None = None,
    weight: ClassWeights | None = None,
    method: Method = "binned",
    impl: Impl = "auto",
    group: ProcessGroup | None = None,
) -> Tensor:
    """Lovász extension of the Jaccard loss on sigmoid probabilities: binary, or one independent mask per channel.

    With ``p = sigmoid(input)`` the errors are ``m_i = 1 - p_i`` on foreground and ``p_i`` elsewhere (Eq. 11 with one
    class); the loss is their Lovász extension; with ``multilabel=True`` the (weighted) mean of those of the channels.

    Args:
        input: binary: (N, *spatial), (N, 1, *spatial) or (P,); multi-label: (N, C, *spatial) or (P, C). Logits, or
            probabilities if ``from_logits=False``; float16, bfloat16, float32 or float64.
        target: 1 for foreground, 0 for background, integers or bool; shape of the input (a single channel may be
            dropped).
        from_logits: whether the sigmoid is still to be taken.
        multilabel: treat dimension 1 as labels that do not exclude one another.
        classes: for multi-label: "present" averages over the labels with foreground, "all" over each, or a list.
            A binary input is one class, which always counts: without foreground the loss is its largest error.
        per_image: average over images, else the batch is one set of pixels.
        ignore_index: value of void elements in the target, any integer.
        weight: (C,) weights of the labels in the average, for multi-label.
        method, impl, group: as in :func:`lovasz_softmax`.

    Returns:
        A scalar in [0, 1], float64 for float64 input, else float32; 0 with zero gradient if all is void. NaN in a
        channel that counts propagates; in another it can spoil no gradient but its own.

    Raises:
        TypeError: dtypes that are not as above; ``classes`` or ``weight`` without ``multilabel``, and what
            :func:`lovasz_softmax` names.
        ValueError: shapes that do not match or are ambiguous, an empty input, labels other than 0, 1 and void, values
            outside [0, 1] with ``from_logits=False``, and what :func:`lovasz_softmax` names of the options.
        ImportError: an ``impl`` whose package is not installed.

    Example:
        >>> logits = torch.tensor([[3.0, -2.0, -2.0]])
        >>> print(f"{lovasz_sigmoid(logits, torch.tensor([[1, 0, 0]])):.4f}")
        0.0953
    """
    from_logits, per_image = validation.flag("from_logits", from_logits), validation.flag("per_image", per_image)
    ignore_index = validation.void_label(ignore_index)
    if validation.flag("multilabel", multilabel):
        validation.require_float("input", input)
        validation.require_labels("target", target)
        validation.require_same_device(input=input, target=target)
        validation.check_multilabel_shapes(input, target, per_image)
        only_present, chosen = resolve_classes(classes, input.shape[1])
        weight = validation.resolve_weight(weight, input.shape[1], input)
        if input.dim() == 2:
            input, target = input.t().unsqueeze(0), target.t().unsqueeze(0)  # (1, C, P)
        input, target = input.flatten(2), target.flatten(2)  # (N, C, S)
    else:
        validation.require_one_class(classes, weight)
        only_present, chosen = False, None
        input, target = _binary(input, target, per_image)
    sizes = {"classes": input.shape[1], "image": input.shape[2] if per_image else None, "dtype": input.dtype}
    choice = choose(method, impl, input.device, input.numel(), **sizes, shared=is_shared(group, per_image))
    if choice.kernel not in CHECK_LABELS:
        target = target.long()
        validation.check_labels(target, 2, ignore_index)
    if not from_logits:
        validation.check_probabilities(input, target, ignore_index)
    problem = Problem(
        errors="sigmoid" if from_logits else "probability",
        labelled=False,
        per_image=per_image,
        ignore_index=ignore_index,
        only_present=only_present,
        chosen=chosen,
    )
    return load(choice).loss(input, target, problem, weight, group)


def lovasz_extension(
    errors: Tensor,
    foreground: Tensor,
    *,
    set_function: str | Callable[[Tensor, Tensor, Tensor], Tensor] = "jaccard",
) -> Tensor:
    """The Lovász extension of a loss on sets of mispredicted pixels, at a vector of errors (Definition 2, Eq. 8 and 9).

    With the pixels in decreasing order of their errors and M_i the first i of them::

        value = sum_i m_i (Δ(M_i) - Δ(M_{i-1}))

    It is convex in m exactly if Δ is submodular; :func:`lovasz.set_functions.find_violation` tries that.

    Args:
        errors: (..., P), one ground set of P pixels per row; floating, of any sign.
        foreground: (..., P) bool or 0/1 integers, the ground truth of each pixel.
        set_function: "jaccard" (Eq. 6), "hamming" (the extension is the mean error: with hinge errors, the plain hinge
            loss), or a function ``f(false_negatives, false_positives, foreground) -> value`` of counts given as float64
            tensors, elementwise, with ``f(0, 0, n) = 0``. "hamming" needs the size of the ground set and is therefore
            given by name.

    Returns:
        (...) one value per row, float64 for float64 errors, else float32; differentiable in ``errors``.

    Raises:
        TypeError: errors that are not floating, a foreground of neither integers nor bool, a set function that is no
            name and not callable, or whose result has another shape.
        ValueError: shapes that differ, no pixel, a foreground of other values than 0 and 1, an unknown name, a set
            function that is not 0 without errors.

    Example:
        >>> errors = torch.tensor([0.9, 0.2, 0.4])
        >>> foreground = torch.tensor([True, True, False])
        >>> print(f"{lovasz_extension(errors, foreground):.4f}")
        0.5833
        >>> print(f"{lovasz_extension(errors, foreground, set_function='hamming'):.4f}")
        0.5000
    """
    validation.require_float("errors", errors)
    validation.require_labels("foreground", foreground)
    validation.require_same_device(errors=errors, foreground=foreground)
    if errors.shape != foreground.shape:
        expected, given = validation.shape(errors), validation.shape(foreground)
        raise ValueError(f"foreground must have the shape of errors {expected}, got {given}")
    if errors.dim() == 0:
        raise ValueError("errors must be (..., P), got a scalar")
    validation.require_not_empty(errors, "errors")
    validation.check_zero_or_one("foreground", foreground)
    function = set_functions.resolve(set_function, errors.shape[-1])
    rows = (errors if errors.dtype == torch.float64 else errors.float()).reshape(-1, errors.shape[-1])
    mask = (foreground != 0).reshape(rows.shape)
    return exact.extension(rows, mask, set_function=function).reshape(errors.shape[:-1])


def _binary(input: Tensor, target: Tensor, per_image: bool) -> tuple[Tensor, Tensor]:
    """Check a binary loss's tensors and bring them to (N, 1, S)."""
    validation.require_float("input", input)
    validation.require_labels("target", target)
    validation.require_same_device(input=input, target=target)
    validation.check_binary_shapes(input, target, per_image)
    images = 1 if input.dim() == 1 else input.shape[0]
    return input.reshape(images, 1, -1), target.reshape(images, 1, -1)
