"""The losses as ``torch.nn.Module``: they keep the arguments and call ``lovasz.functional``, nothing more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lovasz import functional, validation
from lovasz.sharing import ProcessGroup
from lovasz.validation import Classes


def _as_buffer(weight: Tensor | Sequence[float] | None) -> Tensor | None:
    """Class weights as a module keeps them; raises ValueError where one is negative or not finite."""
    if weight is None:
        return None
    values = torch.as_tensor(weight, dtype=torch.float32)
    validation.check_weight(values)
    return values


class LovaszSoftmaxLoss(nn.Module):
    """Lovász-Softmax loss, see :func:`lovasz.functional.lovasz_softmax` for arguments, shapes and errors.

    Class weights are a buffer that moves with the module, as in ``nn.CrossEntropyLoss``.

    Example:
        >>> criterion = LovaszSoftmaxLoss(ignore_index=255)
        >>> loss = criterion(torch.randn(2, 5, 8, 8, requires_grad=True), torch.randint(0, 5, (2, 8, 8)))
        >>> loss.backward()
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        from_logits: bool = True,
        classes: Classes = "present",
        per_image: bool = False,
        ignore_index: int | None = None,
        weight: Tensor | Sequence[float] | None = None,
        method: str = "binned",
        impl: str = "auto",
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.from_logits = from_logits
        self.classes = classes
        self.per_image = per_image
        self.ignore_index = ignore_index
        self.register_buffer("weight", _as_buffer(weight))
        self.method = method
        self.impl = impl
        self.group = group

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of ``input`` (N, C, *spatial) or (P, C) against ``target`` (N, *spatial) or (P,)."""
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


class LovaszCrossEntropyLoss(nn.Module):
    """Cross-entropy and Lovász-Softmax loss together, see :func:`lovasz.functional.lovasz_cross_entropy`.

    Class weights are a buffer that moves with the module, as in ``nn.CrossEntropyLoss``.

    Example:
        >>> criterion = LovaszCrossEntropyLoss(lovasz_weight=1.0, cross_entropy_weight=0.5, ignore_index=255)
        >>> loss = criterion(torch.randn(2, 5, 8, 8, requires_grad=True), torch.randint(0, 5, (2, 8, 8)))
        >>> loss.backward()
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        lovasz_weight: float = 1.0,
        cross_entropy_weight: float = 1.0,
        label_smoothing: float = 0.0,
        classes: Classes = "present",
        per_image: bool = False,
        ignore_index: int | None = None,
        weight: Tensor | Sequence[float] | None = None,
        method: str = "binned",
        impl: str = "auto",
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.lovasz_weight = lovasz_weight
        self.cross_entropy_weight = cross_entropy_weight
        self.label_smoothing = label_smoothing
        self.classes = classes
        self.per_image = per_image
        self.ignore_index = ignore_index
        self.register_buffer("weight", _as_buffer(weight))
        self.method = method
        self.impl = impl
        self.group = group

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of ``input`` (N, C, *spatial) or (P, C) against ``target`` (N, *spatial) or (P,)."""
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


class LovaszHingeLoss(nn.Module):
    """Lovász hinge loss, see :func:`lovasz.functional.lovasz_hinge` for arguments, shapes and errors.

    Example:
        >>> LovaszHingeLoss()(torch.randn(2, 8, 8), torch.randint(0, 2, (2, 8, 8))).shape
        torch.Size([])
    """

    def __init__(
        self,
        *,
        per_image: bool = True,
        ignore_index: int | None = None,
        activation: str = "relu",
        method: str = "binned",
        impl: str = "auto",
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.per_image = per_image
        self.ignore_index = ignore_index
        self.activation = activation
        self.method = method
        self.impl = impl
        self.group = group

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of the scores ``input`` (N, *spatial), (N, 1, *spatial) or (P,) against 0/1 ``target``."""
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


class LovaszSigmoidLoss(nn.Module):
    """Lovász loss on sigmoid probabilities, binary or multi-label; see :func:`lovasz.functional.lovasz_sigmoid`.

    Example:
        >>> criterion = LovaszSigmoidLoss(multilabel=True, classes="all")
        >>> criterion(torch.randn(2, 3, 8, 8), torch.randint(0, 2, (2, 3, 8, 8))).shape
        torch.Size([])
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        from_logits: bool = True,
        multilabel: bool = False,
        classes: Classes = "present",
        per_image: bool = False,
        ignore_index: int | None = None,
        weight: Tensor | Sequence[float] | None = None,
        method: str = "binned",
        impl: str = "auto",
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.from_logits = from_logits
        self.multilabel = multilabel
        self.classes = classes
        self.per_image = per_image
        self.ignore_index = ignore_index
        self.register_buffer("weight", _as_buffer(weight))
        self.method = method
        self.impl = impl
        self.group = group

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of ``input`` against 0/1 ``target`` of the same shape."""
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
