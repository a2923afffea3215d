"""Every check of the losses' arguments and its message: what came, what was expected, and the remedy."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lovasz import hints
from lovasz.choices import Classes, unordered

ClassWeights = Tensor | np.ndarray | Sequence[float]


def shape(tensor: Tensor) -> str:
    """``(2, 21, 64, 64)``: a shape as people write it."""
    return str(tuple(tensor.shape))


def require_tensors(**named: Any) -> None:
    """Raise TypeError, by the name of the argument, for what is no tensor."""
    for name, value in named.items():
        if not isinstance(value, Tensor):
            hint = hints.of_no_tensor(name, value)
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}; {hint}")


def require_float(name: str, tensor: Any) -> None:
    """Raise TypeError unless ``tensor`` is a floating tensor."""
    require_tensors(**{name: tensor})
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating-point, got {tensor.dtype}; convert it with {name}.float()")
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):  # float8 and narrower
        raise TypeError(f"{name} is {tensor.dtype}, in which torch does not compute; convert it with {name}.float()")


def require_labels(name: str, tensor: Any) -> None:
    """Raise TypeError unless ``tensor`` holds integers or booleans."""
    require_tensors(**{name: tensor})
    if tensor.is_floating_point() or tensor.is_complex():
        hint = hints.of_float_labels(name, tensor)
        raise TypeError(f"{name} must hold integer labels, got {tensor.dtype}; {hint}")


def require_same_device(**named: Tensor) -> None:
    """Raise ValueError, by the names of the arguments, if two tensors lie on different devices."""
    (first, one), (second, other) = named.items()
    if one.device != other.device:
        raise ValueError(f"{first} is on {one.device} but {second} is on {other.device}; move one with .to(device)")


def require_not_empty(input: Tensor, name: str = "input") -> None:
    """Raise ValueError for a tensor without elements: there is no mean over nothing."""
    if input.numel() == 0:
        raise ValueError(f"{name} is empty, shape {shape(input)}: a loss needs at least one pixel; skip empty batches")


def check_multiclass_shapes(input: Tensor, target: Tensor, per_image: bool) -> None:
    """Check ``(N, C, *spatial)`` or ``(P, C)`` against ``(N, *spatial)`` or ``(P,)``, as in F.cross_entropy."""
    if input.dim() < 2:
        raise ValueError(f"input must be (N, C, *spatial) or (P, C), got shape {shape(input)}")
    require_not_empty(input)
    if input.shape[1] == 1:
        raise ValueError(
            f"input has one channel, shape {shape(input)}: a softmax over one class is constant; "
            "use lovasz_sigmoid or lovasz_hinge for foreground against background",
        )
    expected = (input.shape[0], *input.shape[2:])
    given = tuple(target.shape)
    if given != expected:
        hint = hints.of_shapes("input", input, target)
        raise ValueError(
            f"target must have shape {expected} to match input {shape(input)}, got {shape(target)}{hint}",
        )
    if per_image and input.dim() == 2:
        raise ValueError(f"per_image=True needs images, but input is a flat list of pixels {shape(input)}")


def check_binary_shapes(input: Tensor, target: Tensor, per_image: bool) -> None:
    """Check ``(P,)``, ``(N, *spatial)`` or ``(N, 1, *spatial)``; the target may drop or keep the single channel."""
    if input.dim() == 0:
        raise ValueError("input must be (N, *spatial), (N, 1, *spatial) or (P,), got a scalar")
    shapes = {tuple(input.shape)}
    if input.dim() > 2 and input.shape[1] == 1:
        shapes.add((input.shape[0], *input.shape[2:]))
    require_not_empty(input)
    if tuple(target.shape) not in shapes:
        channels = input.shape[1] if input.dim() > 3 else 1
        if channels > 1 and tuple(target.shape) in ((len(input), *input.shape[2:]), (len(input), 1, *input.shape[2:])):
            one = ", or their difference as one score, input[:, 1:] - input[:, :1]" if channels == 2 else ""
            raise ValueError(
                f"input {shape(input)} has {channels} channels, a binary loss takes one; use lovasz_softmax for the "
                f"{channels} classes{one}"
            )
        expected = " or ".join(str(s) for s in sorted(shapes, key=len))
        hint = hints.of_sizes("input", input, target) if channels == 1 and input.dim() > 3 else ""
        if input.dim() == 3 and input.shape[0] == 1 and tuple(target.shape) == tuple(input.shape[1:]):
            hint = "; of one image without a batch give target[None]"
        raise ValueError(f"target must have shape {expected} to match input {shape(input)}, got {shape(target)}{hint}")
    if per_image and input.dim() == 2 and input.shape[0] > 1 and input.shape[1] == 1:
        raise ValueError(
            f"input {shape(input)} with per_image=True would be {input.shape[0]} images of one pixel; for a flat list "
            "of pixels use input.squeeze(1) and target.squeeze(1), or per_image=False"
        )
    if input.dim() >= 4 and input.shape[1] > 1:
        raise ValueError(
            f"input {shape(input)} is ambiguous for a binary loss: for one label per channel use "
            "lovasz_sigmoid(..., multilabel=True), for volumes add a channel with input.unsqueeze(1)",
        )


def require_one_class(classes: Classes, weight: Any) -> None:
    """Raise TypeError for options of an average over classes, in a loss that has one class."""
    if weight is not None or not (isinstance(classes, str) and classes == "present"):
        raise TypeError("classes and weight belong to multilabel=True; a binary input has one class")


def check_multilabel_shapes(input: Tensor, target: Tensor, per_image: bool) -> None:
    """Check ``(N, C, *spatial)`` or ``(P, C)`` for both tensors."""
    if input.dim() < 2:
        raise ValueError(f"input must be (N, C, *spatial) or (P, C) for multilabel=True, got shape {shape(input)}")
    if target.shape != input.shape:
        raise ValueError(
            f"target must have the shape of input {shape(input)} for multilabel=True, got {shape(target)}; "
            "each channel is its own 0/1 mask",
        )
    require_not_empty(input)
    if per_image and input.dim() == 2:
        raise ValueError(f"per_image=True needs images, but input is a flat list of pixels {shape(input)}")


def resolve_weight(weight: ClassWeights | None, num_classes: int, like: Tensor) -> Tensor | None:
    """Class weights as a float tensor of length ``num_classes`` on the input's device; no accelerator is waited for,
    unless for a tensor that comes from the CPU.
    """
    if weight is None:
        return None
    require_weight(weight)
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    if isinstance(weight, Tensor) or like.device.type == "cpu":
        values = torch.as_tensor(weight, dtype=dtype, device=like.device)
    else:  # a copy of numbers would wait for the device and break a CUDA graph; filling cells does neither
        values = torch.zeros(len(weight), dtype=dtype, device=like.device)
        for c, number in enumerate(weight):
            values[c].fill_(float(number))
    if tuple(values.shape) != (num_classes,):
        raise ValueError(f"weight must have shape ({num_classes},), one weight per class, got {shape(values)}")
    check_weight(values)
    return values


def require_weight(weight: Any) -> None:
    """Raise TypeError unless it is a real tensor or a list of numbers."""
    if isinstance(weight, Tensor):
        numbers = not weight.is_complex()
    elif unordered(weight):
        numbers = False
    elif torch.compiler.is_compiling():
        return  # what is no list of numbers cannot be traced
    else:
        try:
            numbers = len([float(w) for w in weight if not isinstance(w, str)]) == len(weight)
        except (TypeError, ValueError):
            numbers = False
    if not numbers:
        raise TypeError(f"weight must be a list of numbers or a tensor of them, one per class, got {weight!r}")


def check_weight(weight: Tensor) -> None:
    """Raise ValueError for weights that are negative, not finite or to be learnt; an accelerator is not waited for."""
    if weight.requires_grad:
        raise ValueError("weight requires a gradient, which class weights do not get; pass weight.detach()")
    weight = _beneath(weight)
    wrong = ~(torch.isfinite(weight) & (weight >= 0))
    if _any(wrong, "weight holds a number that is negative or not finite"):
        raise ValueError(f"weight must be finite and not negative, got {weight.tolist()}")


def check_labels(target: Tensor, num_classes: int, ignore_index: int | None) -> None:
    """Raise ValueError naming a label outside ``0..num_classes-1``; an accelerator is not waited for."""
    if target.dtype == torch.bool:
        return
    target = _beneath(target)
    wrong = (target < 0) | (target >= num_classes)
    if ignore_index is not None:
        wrong = wrong & (target != ignore_index)
    if _any(wrong, f"target holds a label outside 0..{num_classes - 1}"):
        raise label_error(int(target[wrong][0]), num_classes)


def check_zero_or_one(name: str, tensor: Tensor) -> None:
    """Raise ValueError naming a value that is neither 0 nor 1; an accelerator is not waited for."""
    if tensor.dtype == torch.bool:
        return
    tensor = _beneath(tensor)
    wrong = (tensor != 0) & (tensor != 1)
    if _any(wrong, f"{name} holds a value that is neither 0 nor 1"):
        raise ValueError(
            f"{name} holds {int(tensor[wrong][0])}, expected 0 and 1, or bool; leave void pixels out of both tensors"
        )


def label_error(label: int, num_classes: int) -> ValueError:
    """The error for a label beyond the classes."""
    what = "0 or 1" if num_classes == 2 else f"0 to {num_classes - 1}"
    return ValueError(
        f"target holds the label {label}, but there are {num_classes} classes (labels {what}); "
        f"if {label} marks void pixels pass ignore_index={label}{hints.of_label(label, num_classes)}",
    )


def check_probabilities(input: Tensor, target: Tensor, ignore_index: int | None) -> None:
    """Raise ValueError if values lie outside [0, 1], up to rounding; NaN passes, an accelerator is not waited for.

    target: of the input's shape, or without its dimension 1; where it is ``ignore_index`` anything passes.
    """
    # Interpolated probabilities leave [0, 1] by a rounding or two.
    slack = 8 * torch.finfo(input.dtype).eps
    if ignore_index is not None:
        void = target.long() == ignore_index  # in uint8, -1 would equal 255
        input = input.detach().masked_fill(void if void.dim() == input.dim() else void.unsqueeze(1), 0)
    input = _beneath(input)
    wrong = (input < -slack) | (input > 1 + slack)
    if _any(wrong, "input holds values outside [0, 1] though from_logits=False"):
        value = float(input.detach()[wrong][0])
        raise ValueError(
            f"input holds {value:g} though from_logits=False promises probabilities in [0, 1]; "
            "pass logits with from_logits=True, or apply softmax or sigmoid first",
        )


def _beneath(tensor: Tensor) -> Tensor:
    """The values that torch.func's transforms have wrapped: all of them, where vmap shows one sample."""
    if not torch.compiler.is_compiling():
        functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
        while functorch.is_functorch_wrapped_tensor(tensor):
            tensor = functorch.get_unwrapped(tensor)
    return tensor


def _any(wrong: Tensor, message: str) -> bool:
    """Whether anything is wrong, where that is known now; else the device itself raises, when it gets there."""
    if not torch.compiler.is_compiling() and isinstance(wrong, torch._subclasses.FakeTensor):
        return False  # it has no values, now or later
    if torch.compiler.is_compiling() or wrong.device.type != "cpu":
        torch._assert_async(~wrong.any(), message)  # pyright: ignore[reportPrivateImportUsage]
        return False
    return bool(wrong.any())


def flag(name: str, value: Any) -> bool:
    """``value`` as a bool; raise TypeError unless it is a bool or numpy.bool_: the text "no" is true in Python."""
    if isinstance(value, bool):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {value!r}")


def void_label(ignore_index: Any) -> int | None:
    """``ignore_index`` as an int or None; NumPy's integers are taken too. Raise TypeError for anything else, ValueError
    beyond 64 bits."""
    if ignore_index is None:
        return None
    try:
        label = None if isinstance(ignore_index, (bool, np.bool_, Tensor)) else operator.index(ignore_index)
    except TypeError:
        label = None
    if label is None:
        raise TypeError(f"ignore_index must be an integer or None, got {ignore_index!r}")
    if not -(2**63) <= label < 2**63:
        raise ValueError(f"ignore_index must fit into 64 bits, as labels do; got {label}")
    return label


def check_not_negative(**numbers: float) -> None:
    """Raise ValueError for a number that is negative, infinite or NaN, by its argument's name."""
    for name, number in numbers.items():
        _require_number(name, number)
        if not 0 <= number < float("inf"):
            raise ValueError(f"{name} must be a finite number, at least 0; got {number}")


def _require_number(name: str, number: Any) -> None:
    """Raise TypeError unless it is a number: a tensor would ask for a gradient that it does not get."""
    if isinstance(number, Tensor):
        raise TypeError(
            f"{name} must be a number, got a tensor; to learn the weights of two losses, take the losses apart: "
            "a * lovasz_softmax(...) + b * F.cross_entropy(...)"
        )
    if not isinstance(number, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {number!r}")


def check_label_smoothing(label_smoothing: float) -> None:
    """Raise ValueError unless it is in [0, 1]."""
    _require_number("label_smoothing", label_smoothing)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be from 0 to 1; got {label_smoothing}")


def counting(num_classes: Any, ignore_index: Any, threshold: Any) -> tuple[int, int | None, float | None]:
    """What decides how pixels are counted, checked, as Python's own numbers; for `lovasz.confusion` and the metrics."""
    num_classes = int(num_classes) if isinstance(num_classes, np.integer) else num_classes
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(
            f"num_classes must be an integer of at least 2, got {num_classes!r}. For one foreground class give "
            "num_classes=2 (background is class 0), and to the metrics classes=[1]."
        )
    if threshold is not None and num_classes != 2:
        raise ValueError(
            f"threshold={threshold} is for scores of a single foreground class, with num_classes=2; of "
            f"num_classes={num_classes} the largest score is predicted, so leave threshold out."
        )
    if threshold is not None:
        if not isinstance(threshold, int | float | np.number) or not math.isfinite(threshold):
            raise ValueError(f"threshold must be a finite number (0.0 for logits), got {threshold!r}.")
        threshold = float(threshold) + 0.0  # of one type and without -0: equal ones are the same setting
    return num_classes, void_label(ignore_index), threshold
