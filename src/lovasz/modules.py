"""The losses as ``torch.nn.Module``: they keep the arguments and call ``lovasz.functional``, nothing more."""

from __future__ import annotations

import copy
from typing import Any, Self, SupportsIndex

import torch
from torch import Tensor, nn

from lovasz import functional, sharing, validation
from lovasz.choices import ACTIVATIONS, METHODS, Activation, Classes, Impl, Method, plain_classes, require_choice
from lovasz.kernels import IMPLS
from lovasz.sharing import ProcessGroup
from lovasz.validation import ClassWeights


def _as_buffer(weight: ClassWeights | None) -> Tensor | None:
    """Class weights as a module keeps them: a tensor in its own floating dtype, numbers and arrays in torch's default.

    Raises TypeError for what holds no numbers, ValueError where one is negative or not finite.
    """
    if weight is None:
        return None
    validation.require_weight(weight)
    kept = isinstance(weight, Tensor) and weight.is_floating_point()
    values = torch.as_tensor(weight, dtype=None if kept else torch.get_default_dtype())
    validation.check_weight(values)
    return values


class _Loss(nn.Module):
    """A loss with its options. A copy shares the process group, which cannot be copied and need not be."""

    method: Method
    impl: Impl
    group: ProcessGroup | None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self.group)] = self.group
        memo[id(self)] = copied = self.__new__(type(self))
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied


class LovaszSoftmaxLoss(_Loss):
    """Lovász-Softmax loss: :func:`lovasz.functional.lovasz_softmax`, which has the formula, with its options kept.

    Args:
        from_logits: whether the softmax over classes is still to be taken; default True.
        classes: "present" (default), "all" or a list of class indices to average over.
        per_image: average the losses of single images; default False, the batch is one set of pixels.
        ignore_index: label of void pixels; default None, no label is void.
        weight: (C,) class weights of the average; default None, all 1. Kept as a buffer ``weight``, which moves with
            the module and is in its ``state_dict`` as in ``nn.CrossEntropyLoss``: a tensor in its own floating dtype,
            numbers and arrays in torch's default one.
        method: "binned" (default) or "exact".
        impl: "auto" (default), "torch", "numba" or "triton".
        group: a torch.distributed process group, for the loss of all its processes' pixels; default None.

    Raises:
        TypeError: from the constructor, ``from_logits`` or ``per_image`` that is no bool, an ``ignore_index`` that is
            no integer, ``classes`` that are neither text nor integers, a ``group`` of another type.
        ValueError: from the constructor, unknown ``classes``, ``method`` or ``impl``, a weight that is negative or not
            finite, ``group`` with ``per_image=True`` or ``method="exact"``.
        TypeError, ValueError, ImportError: from a call, as the function.

    Example:
        >>> criterion = LovaszSoftmaxLoss(ignore_index=255)
        >>> loss = criterion(torch.randn(2, 5, 8, 8, requires_grad=True), torch.randint(0, 5, (2, 8, 8)))
        >>> loss.backward()
    """

    classes: Classes
    weight: Tensor | None

    def __init__(
        self,
        *,
        from_logits: bool = True,
        classes: Classes = "present",
        per_image: bool = False,
        ignore_index: SupportsIndex | None = None,
        weight: ClassWeights | None = None,
        method: Method = "binned",
        impl: Impl = "auto",
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.from_logits = validation.flag("from_logits", from_logits)
        self.classes = plain_classes(classes)
        self.per_image = validation.flag("per_image", per_image)
        self.ignore_index = validation.void_label(ignore_index)
        self.register_buffer("weight", _as_buffer(weight))
        self.method = require_choice("method", method, METHODS)
        self.impl = require_choice("impl", impl, IMPLS)
        self.group = sharing.kept(group, self.per_image, method)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of ``input`` (N, C, *spatial) or (P, C) against ``target`` (N, *spatial) or (P,), a scalar."""
        return functional.lovasz_softmax(
            input,
            target,
            from_logits=self.from_logits,
            classes=self.classes,
            per_image=self.per_image,
            ignore_index=self.ignore_index,
            weight=self.weight,
            method=self.method,
            impl=self.impl,
            group=self.group,
        )

    def extra_repr(self) -> str:
        return (
            f"from_logits={self.from_logits}, classes={self.classes!r}, per_image={self.per_image}, "
            f"ignore_index={self.ignore_index}, method={self.method!r}, impl={self.impl!r}"
        )


class LovaszCrossEntropyLoss(_Loss):
    """Cross-entropy and Lovász-Softmax loss together: :func:`lovasz.functional.lovasz_cross_entropy`, options kept.

    Args:
        lovasz_weight, cross_entropy_weight: weights of the two terms, not negative; default 1.
        label_smoothing: of the cross-entropy, from 0 to 1; default 0.
        classes, per_image: of the Lovász-Softmax loss; default "present" and False.
        ignore_index: label of void pixels, for both terms; default None, no label is void.
        weight: (C,) class weights, for both terms; default None, all 1. A buffer, as in :class:`LovaszSoftmaxLoss`.
        method, impl, group: as in :class:`LovaszSoftmaxLoss`.

    Raises:
        TypeError: from the constructor, options of types that no call would take, such as a tensor for the weight of
            a term.
        ValueError: from the constructor, unknown ``classes``, ``method`` or ``impl``, a weight of a class or of a term
            that is negative or not finite, a label_smoothing outside [0, 1], ``group`` with ``per_image=True`` or
            ``method="exact"``.
        TypeError, ValueError, ImportError: from a call, as the function.

    Example:
        >>> criterion = LovaszCrossEntropyLoss(lovasz_weight=1.0, cross_entropy_weight=0.5, ignore_index=255)
        >>> loss = criterion(torch.randn(2, 5, 8, 8, requires_grad=True), torch.randint(0, 5, (2, 8, 8)))
        >>> loss.backward()
    """

    classes: Classes
    weight: Tensor | None

    def __init__(
        self,
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
    ) -> None:
        super().__init__()
        validation.check_not_negative(lovasz_weight=lovasz_weight, cross_entropy_weight=cross_entropy_weight)
        validation.check_label_smoothing(label_smoothing)
        self.lovasz_weight = lovasz_weight
        self.cross_entropy_weight = cross_entropy_weight
        self.label_smoothing = label_smoothing
        self.classes = plain_classes(classes)
        self.per_image = validation.flag("per_image", per_image)
        self.ignore_index = validation.void_label(ignore_index)
        self.register_buffer("weight", _as_buffer(weight))
        self.method = require_choice("method", method, METHODS)
        self.impl = require_choice("impl", impl, IMPLS)
        self.group = sharing.kept(group, self.per_image, method)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of ``input`` (N, C, *spatial) or (P, C) against ``target`` (N, *spatial) or (P,), a scalar."""
        return functional.lovasz_cross_entropy(
            input,
            target,
            lovasz_weight=self.lovasz_weight,
            cross_entropy_weight=self.cross_entropy_weight,
            label_smoothing=self.label_smoothing,
            classes=self.classes,
            per_image=self.per_image,
            ignore_index=self.ignore_index,
            weight=self.weight,
            method=self.method,
            impl=self.impl,
            group=self.group,
        )

    def extra_repr(self) -> str:
        return (
            f"lovasz_weight={self.lovasz_weight}, cross_entropy_weight={self.cross_entropy_weight}, "
            f"label_smoothing={self.label_smoothing}, classes={self.classes!r}, per_image={self.per_image}, "
            f"ignore_index={self.ignore_index}, method={self.method!r}, impl={self.impl!r}"
        )


class LovaszHingeLoss(_Loss):
    """Lovász hinge loss, foreground against background: :func:`lovasz.functional.lovasz_hinge`, options kept.

    Args:
        per_image: average the losses of single images. True is the default here, as in the function and in the paper,
            where the other losses have False: say False to take the batch as one set of pixels.
        ignore_index: label of void pixels; default None, no label is void.
        activation: "relu" (default, the paper's hinge) or "elu".
        method, impl: as in :class:`LovaszSoftmaxLoss`.
        group: as in :class:`LovaszSoftmaxLoss`; it needs ``per_image=False``.

    Raises:
        TypeError: from the constructor, a ``per_image`` that is no bool, an ``ignore_index`` that is no integer, a
            ``group`` of another type.
        ValueError: from the constructor, unknown ``activation``, ``method`` or ``impl``, ``group`` with
            ``per_image=True`` or ``method="exact"``.
        TypeError, ValueError, ImportError: from a call, as the function.

    Example:
        >>> LovaszHingeLoss()(torch.randn(2, 8, 8), torch.randint(0, 2, (2, 8, 8))).shape
        torch.Size([])
    """

    activation: Activation

    def __init__(
        self,
        *,
        per_image: bool = True,
        ignore_index: SupportsIndex | None = None,
        activation: Activation = "relu",
        method: Method = "binned",
        impl: Impl = "auto",
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.per_image = validation.flag("per_image", per_image)
        self.ignore_index = validation.void_label(ignore_index)
        self.activation = require_choice("activation", activation, ACTIVATIONS)
        self.method = require_choice("method", method, METHODS)
        self.impl = require_choice("impl", impl, IMPLS)
        self.group = sharing.kept(group, self.per_image, method)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of scores ``input`` against 0/1 ``target``, a scalar.

        Shapes: (N, *spatial), (N, 1, *spatial) or (P,) for both; ``target`` may lack the single channel.
        """
        return functional.lovasz_hinge(
            input,
            target,
            per_image=self.per_image,
            ignore_index=self.ignore_index,
            activation=self.activation,
            method=self.method,
            impl=self.impl,
            group=self.group,
        )

    def extra_repr(self) -> str:
        return (
            f"per_image={self.per_image}, ignore_index={self.ignore_index}, activation={self.activation!r}, "
            f"method={self.method!r}, impl={self.impl!r}"
        )


class LovaszSigmoidLoss(_Loss):
    """Lovász loss on sigmoid probabilities, binary or multi-label: :func:`lovasz.functional.lovasz_sigmoid`.

    Args:
        from_logits: whether the sigmoid is still to be taken; default True.
        multilabel: dimension 1 holds labels that do not exclude one another; default False, one foreground class.
        classes: for multi-label: "present" (default), "all" or a list of labels to average over.
        per_image: average the losses of single images; default False, the batch is one set of pixels.
        ignore_index: value of void elements in the target; default None, none is void.
        weight: for multi-label: (C,) weights of the labels in the average; default None, all 1. A buffer, as in
            :class:`LovaszSoftmaxLoss`.
        method, impl, group: as in :class:`LovaszSoftmaxLoss`.

    Raises:
        TypeError: from the constructor, ``from_logits``, ``multilabel`` or ``per_image`` that is no bool, an
            ``ignore_index`` that is no integer, ``classes`` that are neither text nor integers, ``classes`` or
            ``weight`` without ``multilabel``, a ``group`` of another type.
        ValueError: from the constructor, unknown ``classes``, ``method`` or ``impl``, a weight that is negative or not
            finite, ``group`` with ``per_image=True`` or ``method="exact"``.
        TypeError, ValueError, ImportError: from a call, as the function.

    Example:
        >>> criterion = LovaszSigmoidLoss(multilabel=True, classes="all")
        >>> criterion(torch.randn(2, 3, 8, 8), torch.randint(0, 2, (2, 3, 8, 8))).shape
        torch.Size([])
    """

    classes: Classes
    weight: Tensor | None

    def __init__(
        self,
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
    ) -> None:
        super().__init__()
        self.from_logits = validation.flag("from_logits", from_logits)
        self.multilabel = validation.flag("multilabel", multilabel)
        self.classes = plain_classes(classes)
        if not self.multilabel:
            validation.require_one_class(self.classes, weight)
        self.per_image = validation.flag("per_image", per_image)
        self.ignore_index = validation.void_label(ignore_index)
        self.register_buffer("weight", _as_buffer(weight))
        self.method = require_choice("method", method, METHODS)
        self.impl = require_choice("impl", impl, IMPLS)
        self.group = sharing.kept(group, self.per_image, method)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of ``input`` against 0/1 ``target``, a scalar.

        Shapes: binary (N, *spatial), (N, 1, *spatial) or (P,), where ``target`` may lack the single channel;
        multi-label (N, C, *spatial) or (P, C) for both.
        """
        return functional.lovasz_sigmoid(
            input,
            target,
            from_logits=self.from_logits,
            multilabel=self.multilabel,
            classes=self.classes,
            per_image=self.per_image,
            ignore_index=self.ignore_index,
            weight=self.weight,
            method=self.method,
            impl=self.impl,
            group=self.group,
        )

    def extra_repr(self) -> str:
        return (
            f"from_logits={self.from_logits}, multilabel={self.multilabel}, classes={self.classes!r}, "
            f"per_image={self.per_image}, ignore_index={self.ignore_index}, method={self.method!r}, impl={self.impl!r}"
        )
