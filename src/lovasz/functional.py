"""The losses as functions. Each checks its arguments, picks a kernel and averages; how is in ``lovasz.kernels``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lovasz import set_functions, validation
from lovasz.kernels import choose, exact
from lovasz.validation import Classes

ACTIVATIONS = ("relu", "elu")


def lovasz_softmax(
    input: Tensor,
    target: Tensor,
    *,
    from_logits: bool = True,
    classes: Classes = "present",
    per_image: bool = False,
    ignore_index: int | None = None,
    weight: Tensor | Sequence[float] | None = None,
    method: str = "binned",
    impl: str = "auto",
) -> Tensor:
    """Lovász-Softmax loss: the surrogate of one minus the mean IoU over classes.

    With p the softmax of the logits over classes, the errors of class c are (Eq. 11) ``m_i(c) = 1 - p_i(c)`` where the
    target is c and ``p_i(c)`` elsewhere, and the loss is (Eq. 12, 13)::

        loss = sum_c w_c Δ_c(m(c)) / sum_c w_c

    where Δ_c is the Lovász extension of the Jaccard loss of class c over all pixels of the batch.

    Args:
        input: (N, C, *spatial) or (P, C) logits, or probabilities if ``from_logits=False``; any floating dtype.
        target: (N, *spatial) or (P,) class indices of any integer dtype or bool.
        from_logits: whether the softmax over classes is still to be taken.
        classes: "present" averages over the classes that occur in the target, "all" over every class (an absent class then
            pays for its largest probability), a list over exactly those.
        per_image: average the losses of single images instead of taking the batch as one set of pixels.
        ignore_index: label of void pixels, any integer, also a negative one; they have neither value nor gradient.
        weight: (C,) class weights w of the average; default 1.
        method: "binned" (linear time; small inputs are sorted) or "exact" (sorted).
        impl: "auto", "torch" or "numba"; an explicit one never falls back.

    Returns:
        A scalar in [0, 1], float64 for float64 input, else float32. It is 0, attached to the graph with zero gradient, if all
        pixels are void or no class to average over is present. NaN or infinite logits of a valid pixel propagate: the loss is
        NaN, as with F.cross_entropy.

    Raises:
        TypeError: dtypes that are not as above.
        ValueError: shapes that do not match, an empty input, a label outside 0..C-1 that is not void, one channel only,
            values outside [0, 1] with ``from_logits=False``, unknown ``classes``, ``method`` or ``impl``.
        ImportError: an ``impl`` whose package is not installed.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]], requires_grad=True)  # one image, two classes, two pixels
        >>> loss = lovasz_softmax(logits, torch.tensor([[0, 1]]))
        >>> loss.backward()
        >>> print(f"{loss.item():.4f}")
        0.2315
    """
    validation.require_float("input", input)
    validation.require_labels("target", target)
    validation.require_same_device(input, target)
    validation.check_ignore_index(ignore_index)
    validation.check_multiclass_shapes(input, target, per_image)
    num_classes = input.shape[1]
    only_present, chosen = validation.resolve_classes(classes, num_classes)
    weight = validation.resolve_weight(weight, num_classes, input)
    choice = choose(method, impl, input.device, input.numel())
    validation.check_labels(target, num_classes, ignore_index)
    if not from_logits:
        validation.check_probabilities(input)

    if input.dim() == 2:
        input, target = input.t().unsqueeze(0), target.unsqueeze(0)  # (1, C, P), (1, P)
    input = input.flatten(2)  # (N, C, S)
    target = target.reshape(target.shape[0], -1)  # (N, S)
    return _exact_softmax(input, target, from_logits, only_present, chosen, per_image, ignore_index, weight)


def _exact_softmax(
    input: Tensor,
    target: Tensor,
    from_logits: bool,
    only_present: bool,
    chosen: tuple[int, ...] | None,
    per_image: bool,
    ignore_index: int | None,
    weight: Tensor | None,
) -> Tensor:
    """Lovász-Softmax of (N, C, S) and (N, S) by sorting."""
    num_classes = input.shape[1]
    valid = None if ignore_index is None else target != ignore_index  # (N, S)
    scores = _at_least_float32(input)
    if valid is not None:
        scores = scores.masked_fill(~valid.unsqueeze(1), 0)  # void pixels are not even read: they may hold NaN
    probabilities = scores.softmax(1) if from_logits else scores
    foreground = target.unsqueeze(1) == torch.arange(num_classes, device=input.device).view(1, -1, 1)  # (N, C, S)
    if from_logits:
        # 1 - p as the sum of the other probabilities: neither it nor its gradient cancels where p is near 1.
        wrong = probabilities.masked_fill(foreground, 0).sum(1, keepdim=True)  # (N, 1, S)
    else:
        wrong = 1 - probabilities
    if chosen is not None:
        probabilities, foreground = probabilities[:, list(chosen)], foreground[:, list(chosen)]
        wrong = wrong if from_logits else wrong[:, list(chosen)]
        weight = None if weight is None else weight[list(chosen)]
    errors = torch.where(foreground, wrong, probabilities)
    losses, present = _extension_per_group(errors, foreground, valid, per_image, None)
    counted = present if only_present else torch.ones_like(present)
    return _average(losses, counted, weight)


def lovasz_hinge(
    input: Tensor,
    target: Tensor,
    *,
    per_image: bool = True,
    ignore_index: int | None = None,
    activation: str = "relu",
    method: str = "binned",
    impl: str = "auto",
) -> Tensor:
    """Lovász hinge loss for foreground against background: the surrogate of one minus the IoU of the foreground.

    With scores F and labels y in {-1, 1} the errors are the hinge losses ``m_i = max(0, 1 - F_i y_i)`` (Eq. 7), and the loss
    is the Lovász extension of the Jaccard loss at m (Eq. 8), per image and averaged, or over the whole batch.

    Args:
        input: (N, *spatial), (N, 1, *spatial) or (P,) scores, positive for foreground; any floating dtype.
        target: same shape (the single channel may be left out), 1 for foreground, 0 for background; integers or bool.
        per_image: average over images (a flat (P,) input is one image), else the batch is one set of pixels.
        ignore_index: label of void pixels, any integer.
        activation: "relu" is the paper's hinge; "elu" uses ``elu(1 - F y) + 1``, whose gradient does not vanish beyond the
            margin (as proposed in the forum discussions of the authors' code).
        method: "binned" or "exact", as in :func:`lovasz_softmax`.
        impl: as in :func:`lovasz_softmax`.

    Returns:
        A scalar, float64 for float64 input, else float32; 0 with zero gradient if all pixels are void. NaN propagates.

    Raises:
        TypeError: dtypes that are not as above.
        ValueError: shapes that do not match or are ambiguous, an empty input, labels other than 0, 1 and void.
        ImportError: an ``impl`` whose package is not installed.

    Example:
        >>> scores = torch.tensor([[2.0, -0.5, -3.0]])
        >>> print(f"{lovasz_hinge(scores, torch.tensor([[1, 1, 0]])):.4f}")
        0.7500
    """
    validation.require_choice("activation", activation, ACTIVATIONS)
    input, target = _binary(input, target, ignore_index)
    choose(method, impl, input.device, input.numel())
    valid = None if ignore_index is None else target != ignore_index  # (N, S)
    scores = _at_least_float32(input)
    if valid is not None:
        scores = scores.masked_fill(~valid, 0)
    foreground = target == 1
    margins = 1 - torch.where(foreground, scores, -scores)  # (N, S)
    function = torch.relu if activation == "relu" else _shifted_elu
    losses, present = _extension_per_group(margins.unsqueeze(1), foreground.unsqueeze(1), valid, per_image, function)
    return _average(losses, torch.ones_like(present), None)


def lovasz_sigmoid(
    input: Tensor,
    target: Tensor,
    *,
    from_logits: bool = True,
    multilabel: bool = False,
    classes: Classes = "present",
    per_image: bool = False,
    ignore_index: int | None = None,
    weight: Tensor | Sequence[float] | None = None,
    method: str = "binned",
    impl: str = "auto",
) -> Tensor:
    """Lovász extension of the Jaccard loss on sigmoid probabilities: binary, or one independent mask per channel.

    With ``p = sigmoid(input)`` the errors are ``m_i = 1 - p_i`` on foreground and ``p_i`` elsewhere (Eq. 11 with one class);
    the loss is their Lovász extension; with ``multilabel=True`` the (weighted) mean of those of the channels.

    Args:
        input: binary: (N, *spatial), (N, 1, *spatial) or (P,); multi-label: (N, C, *spatial) or (P, C). Logits, or
            probabilities if ``from_logits=False``; any floating dtype.
        target: 1 for foreground, 0 for background, integers or bool; shape of the input (binary: the channel may be dropped).
        from_logits: whether the sigmoid is still to be taken.
        multilabel: treat dimension 1 as labels that do not exclude one another.
        classes: for multi-label: "present" averages over the labels with foreground, "all" over each, or a list. A binary
            input is one class, which always counts: without foreground the loss is its largest error.
        per_image: average over images, else the batch is one set of pixels.
        ignore_index: value of void elements in the target, any integer.
        weight: (C,) weights of the labels in the average, for multi-label.
        method: "binned" or "exact", as in :func:`lovasz_softmax`.
        impl: as in :func:`lovasz_softmax`.

    Returns:
        A scalar in [0, 1], float64 for float64 input, else float32; 0 with zero gradient if all is void. NaN propagates.

    Raises:
        TypeError: dtypes that are not as above, or ``weight`` without ``multilabel``.
        ValueError: shapes that do not match or are ambiguous, an empty input, labels other than 0, 1 and void.
        ImportError: an ``impl`` whose package is not installed.

    Example:
        >>> logits = torch.tensor([[3.0, -2.0, -2.0]])
        >>> print(f"{lovasz_sigmoid(logits, torch.tensor([[1, 0, 0]])):.4f}")
        0.0953
    """
    if multilabel:
        validation.require_float("input", input)
        validation.require_labels("target", target)
        validation.require_same_device(input, target)
        validation.check_ignore_index(ignore_index)
        validation.check_multilabel_shapes(input, target)
        validation.check_labels(target, 2, ignore_index)
        only_present, chosen = validation.resolve_classes(classes, input.shape[1])
        weight = validation.resolve_weight(weight, input.shape[1], input)
        if per_image and input.dim() == 2:
            raise ValueError(
                f"per_image=True needs images, but input is a flat list of pixels {validation.shape(input)}"
            )
        if input.dim() == 2:
            input, target = input.t().unsqueeze(0), target.t().unsqueeze(0)
        input, target = input.flatten(2), target.flatten(2)  # (N, C, S)
    else:
        if weight is not None or classes != "present":
            raise TypeError("classes and weight belong to multilabel=True; a binary input has one class")
        only_present, chosen = False, None
        input, target = _binary(input, target, ignore_index)
        input, target = input.unsqueeze(1), target.unsqueeze(1)  # (N, 1, S)
    choose(method, impl, input.device, input.numel())
    if not from_logits:
        validation.check_probabilities(input)
    if chosen is not None:
        input, target = input[:, list(chosen)], target[:, list(chosen)]
        weight = None if weight is None else weight[list(chosen)]
    valid = None if ignore_index is None else target != ignore_index  # (N, C, S)
    scores = _at_least_float32(input)
    if valid is not None:
        scores = scores.masked_fill(~valid, 0)
    foreground = target == 1
    if from_logits:
        errors = torch.where(foreground, -scores, scores).sigmoid()
    else:
        errors = torch.where(foreground, 1 - scores, scores)
    losses, present = _extension_per_group(errors, foreground, valid, per_image, None)
    counted = present if only_present else torch.ones_like(present)
    return _average(losses, counted, weight)


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
        errors: (..., P), one ground set of P pixels per row; floating. Any sign: the extension is defined on all of R^P.
        foreground: (..., P) bool or 0/1 integers, the ground truth of each pixel.
        set_function: "jaccard" (Eq. 6), "hamming" (the extension is the mean error: with hinge errors, the plain hinge loss),
            or a function ``f(false_negatives, false_positives, foreground) -> value`` of counts given as float64 tensors,
            elementwise, with ``f(0, 0, n) = 0``. "hamming" needs the size of the ground set and is therefore given by name.

    Returns:
        (...) one value per row; differentiable in ``errors``.

    Raises:
        TypeError, ValueError: dtypes or shapes that do not match, an unknown name, a set function that is not 0 at no error.

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
    validation.require_same_device(errors, foreground)
    if errors.shape != foreground.shape:
        raise ValueError(
            f"foreground must have the shape of errors {validation.shape(errors)}, got {validation.shape(foreground)}"
        )
    if errors.dim() == 0:
        raise ValueError("errors must be (..., P), got a scalar")
    validation.require_not_empty(errors)
    function = set_functions.resolve(set_function, errors.shape[-1])
    rows = _at_least_float32(errors).reshape(-1, errors.shape[-1])
    mask = (foreground != 0).reshape(rows.shape)
    return exact.extension(rows, mask, set_function=function).reshape(errors.shape[:-1])


def _binary(input: Tensor, target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Check a binary loss's tensors and bring them to (N, S)."""
    validation.require_float("input", input)
    validation.require_labels("target", target)
    validation.require_same_device(input, target)
    validation.check_ignore_index(ignore_index)
    validation.check_binary_shapes(input, target)
    validation.check_labels(target, 2, ignore_index)
    images = 1 if input.dim() == 1 else input.shape[0]
    return input.reshape(images, -1), target.reshape(images, -1)


def _at_least_float32(input: Tensor) -> Tensor:
    return input if input.dtype == torch.float64 else input.float()


def _shifted_elu(margins: Tensor) -> Tensor:
    return torch.nn.functional.elu(margins) + 1


def _extension_per_group(
    errors: Tensor,
    foreground: Tensor,
    valid: Tensor | None,
    per_image: bool,
    activation: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Extensions of (N, C, S) errors: (N or 1, C) values, and whether each has foreground. ``valid`` is (N, S) or (N, C, S)."""
    images, classes, _ = errors.shape
    if valid is not None and valid.dim() == 2:
        valid = valid.unsqueeze(1).expand_as(errors)
    if not per_image:
        errors, foreground = (t.transpose(0, 1).flatten(1).unsqueeze(0) for t in (errors, foreground))  # (1, C, P)
        valid = None if valid is None else valid.transpose(0, 1).flatten(1).unsqueeze(0)
        images = 1
    errors, foreground = errors.flatten(0, 1), foreground.flatten(0, 1)  # (N C, P)
    valid = None if valid is None else valid.flatten(0, 1)
    values = exact.extension(errors, foreground, valid, activation=activation)
    present = (foreground if valid is None else foreground & valid).any(-1)
    return values.view(images, classes), present.view(images, classes)


def _average(losses: Tensor, counted: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over images of the weighted mean over the counted classes; a row without any counts as 0."""
    share = counted.to(losses.dtype) if weight is None else counted * weight.to(losses.dtype)
    total = share.sum(-1, keepdim=True)
    share = torch.where(total > 0, share / total.clamp(min=torch.finfo(losses.dtype).tiny), torch.zeros_like(share))
    # A class left out must not turn the sum into NaN: 0 * NaN is NaN.
    return (torch.where(share > 0, losses, torch.zeros_like(losses)) * share).sum(-1).mean()
