"""The GPU kernel's passes as torch operators, and the loss made of them.

Each operator launches the kernels of one step. torch.compile sees operators with shapes, streams see no wait, and CUDA
graphs capture all of it.
"""

# What Triton compiles is not quite Python: its loops, tuples and launches mean more.
# pyright: reportCallIssue=false

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import torch
import triton
from torch import Tensor

from lovasz import validation
from lovasz.kernels import bins
from lovasz.kernels.gpu import elements, shared_memory, softmax, tables
from lovasz.problem import ONCE, Problem
from lovasz.sharing import ProcessGroup, sum_over

# For tuning on a device: warps of a program, classes whose exponentials fit into registers, else classes at a time.
WARPS = 4
HELD_CLASSES = 24  # more compile for a minute
BLOCK_CLASSES = 8
LABELS = 4096  # of a program that only counts labels
# One pixel to a thread. The interpreter has no threads, and few large programs cost it less.
WIDTH = 32 * WARPS if os.environ.get("TRITON_INTERPRET") != "1" else 4096
SAMPLE_SHAPE = (32, 1) if os.environ.get("TRITON_INTERPRET") != "1" else (4096, WARPS)  # a sample has few pixels

# Declared plainly: torch.library.custom_op would load torch's compiler, seconds of it, at the first call.
_ASKED = "str errors, bool labelled, bool per_image, int void, bool has_void"
_TERMS = "Tensor? each, float lovasz"  # what a pixel of each class has of the cross-entropy, and times the loss itself
_TABLES = "Tensor input, Tensor target, Tensor entries, Tensor table, Tensor planes"
_SCHEMAS = {
    "count_labels": "(Tensor target, int classes, bool per_image, int void, bool has_void) -> Tensor",
    "count_errors": f"(Tensor input, Tensor target, Tensor entries, {_ASKED}, int step, int size, Tensor? each)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "gradient": f"(Tensor factor, {_TABLES}, {_TERMS}, {_ASKED}) -> Tensor",
    "attach_gradient": f"(Tensor value, {_TABLES}, {_TERMS}, {_ASKED}) -> Tensor",
}
_LIBRARY = torch.library.Library("lovasz", "FRAGMENT")
for _name, _schema in _SCHEMAS.items():
    _LIBRARY.define(_name + _schema)
_OPERATORS = torch.ops.lovasz

_PART = 1 << 25  # errors that a packed bin can take
_MODES = {"sigmoid": 0, "probability": 1, "hinge": 2, "elu": 3}
_LIMIT = (1 << 31) - 1


def loss(
    input: Tensor, target: Tensor, problem: Problem, weight: Tensor | None, group: ProcessGroup | None = None
) -> Tensor:
    """The loss of (N, C, S) scores, any strides, against (N, S) labels or (N, C, S) masks."""
    operators = _operators(input)
    images, classes, pixels = input.shape
    if target.dtype == torch.bool:
        target = target.view(torch.uint8)
    if input.device.type == "cpu":  # under Triton's interpreter
        validation.check_labels(target, classes if problem.labelled else 2, problem.ignore_index)
    mirrored = problem.errors not in ("hinge", "elu")
    cells = bins.MIRRORED_CELLS if mirrored else bins.UNBOUNDED_CELLS
    void, has_void = problem.ignore_index or 0, problem.ignore_index is not None
    asked = problem.errors, problem.labelled, problem.per_image, void, has_void
    rows = images if problem.per_image else 1
    with torch.no_grad():
        present = torch.empty(1, 1, dtype=torch.int64, device=input.device)
        if problem.labelled:
            present = operators.count_labels(target, classes, problem.per_image, void, has_void)  # (rows, C + 1)
            _check(present[:, -1], f"target holds a label outside 0..{classes - 1}")
            if group is not None:
                present = sum_over(group, present[:, :-1])
        # Deal the bins, from a sample of the pixels.
        processes = 0 if group is None else group.size()
        large = shared_memory.bins_of(input, target, *asked[:3], processes)
        step = max(1, images * pixels // bins.SAMPLE) | 1
        if large is not None and group is None:
            step = bins.spacing(images * pixels, classes)
        entries = tables.one_bin_per_cell(classes, cells, input.device)
        sampled = problem.errors, problem.labelled, False, void, has_void
        sample, *_ = operators.count_errors(input, target, entries, *sampled, step, cells, None)
        spacing: Tensor | None = None
        size = tables.capacity(classes * rows, cells, images * pixels) if large is None else large
        if group is not None:
            # The same bins for all, whatever their sizes; and no number is fetched from the device.
            known = tables.unpacked(sample)[0] * step  # (C, 2, cells)
            known = torch.cat([known.flatten(), torch.full_like(known[0, 0, :1], images * pixels)])
            known = sum_over(group, known)
            sample, spacing = known[:-1].view(classes, 2, cells), (known[-1] / bins.SAMPLE).clamp(min=3)
            size = max(bins.SHARED_BINS, 2 * cells) if large is None else large
        tailed = problem.errors in ("softmax", "sigmoid", "elu") and not problem.per_image
        weight = None if weight is None else weight.detach().contiguous()
        counted = weight, tables.bits_of(problem.chosen, classes, input.device), problem.only_present
        counted = *counted, problem.labelled, mirrored
        entries, tail_error = operators.deal(sample, present, spacing, *counted, tailed, step, images * pixels, size)

        # First pass.
        each = (
            None
            if problem.cross_entropy is None
            else shared_memory.each_class(present[:, :classes], weight, problem.cross_entropy[0])
        )
        counts = operators.count_errors(input, target, entries, *asked, 1, size, each)
        hist, status, seen, planes, entropy = counts
        if not problem.labelled:
            _check(seen[:, 1], "target holds a label outside 0..1")
            present = seen
        if group is not None:
            hist = sum_over(group, torch.stack(tables.unpacked(hist)))
            status = sum_over(group, status)
            if not problem.labelled:
                background, foreground = seen[:, 0] & 0xFFFFFFFF, seen[:, 0] >> 32 & 0xFFFFFFFF
                present = sum_over(group, torch.stack([background + foreground, foreground], 1))
        # Averaged over the processes, as DistributedDataParallel does, the gradient is that of the loss of all.
        losses, table = operators.weigh(hist, present, status, entries, tail_error, *counted, processes)
        value = losses.sum() if each is None else problem.scale * losses.sum() + entropy
        value = value.to(torch.promote_types(input.dtype, torch.float32))
    return operators.attach_gradient(value, input, target, entries, table, planes, each, problem.scale, *asked)


def _check(wrong: Tensor, message: str) -> None:
    """Let the device itself raise, when it gets there."""
    torch._assert_async((wrong == 0).all(), message)  # pyright: ignore[reportPrivateImportUsage]


@torch.library.impl(_LIBRARY, "count_labels", "CompositeExplicitAutograd")
def count_labels(target: Tensor, classes: int, per_image: bool, void: int, has_void: bool) -> Tensor:
    """Pixels of each class, and wrong labels, of (N, S) labels: (N or 1, C + 1) int64."""
    images, pixels = target.shape
    totals = torch.zeros(images if per_image else 1, classes + 1, dtype=torch.int64, device=target.device)
    tiles = triton.cdiv(pixels, LABELS)
    with torch.cuda.device_of(target):
        softmax.count_labels[(tiles * images,)](
            target, totals, *target.stride(), pixels, tiles, void, HAS_VOID=has_void, PER_IMAGE=per_image,
            CLASSES=classes, SLOTS=triton.next_power_of_2(classes + 2), WIDTH=LABELS,
        )  # fmt: skip
    return totals


@torch.library.register_fake("lovasz::count_labels")
def _(target: Tensor, classes: int, per_image: bool, void: int, has_void: bool) -> Tensor:
    return target.new_empty(target.shape[0] if per_image else 1, classes + 1, dtype=torch.int64)


@torch.library.impl(_LIBRARY, "count_errors", "CompositeExplicitAutograd")
def count_errors(
    input: Tensor, target: Tensor, entries: Tensor, errors: str, labelled: bool, per_image: bool,
    void: int, has_void: bool, step: int, size: int, each: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """First pass, over every ``step``-th pixel.

    Returns:
        packed bins (parts, G, 2, size); status (1 or C,) int32, not 0 where an error is not finite; for masks (G, 2)
        numbers of elements, foreground << 32 | background, and of wrong labels (for labels, (0, 2)); what the second
        pass needs to know again, see shared_memory.py; and the cross-entropy, float64, if ``each`` is given.
    """
    images, classes, _ = input.shape
    pixels, (image, channel, pixel) = _walk_of(input, step)
    groups = classes * (images if per_image else 1)
    width, warps = (WIDTH, WARPS) if step == 1 else SAMPLE_SHAPE
    tiles = -(-pixels // width)
    parts = -(-tiles * images * width // _PART)
    hist = torch.zeros(parts, groups, 2, size, dtype=torch.int64, device=input.device)
    status = torch.zeros(1 if errors == "softmax" else classes, dtype=torch.int32, device=input.device)
    seen = torch.zeros(0 if labelled else groups, 2, dtype=torch.int64, device=input.device)
    here = step == 1 and shared_memory.takes(input, target, errors, labelled, per_image, size)
    planes = shared_memory.planes(input, target, size, here)
    if here:
        with torch.cuda.device_of(input):
            entropy = shared_memory.count(
                input, target, entries, hist, status, planes, each, void if has_void else None
            )
        return hist, status, seen, planes, planes.new_empty(()) if entropy is None else entropy
    assert each is None, "the cross-entropy is summed in shared memory alone"
    strides = image, channel, pixel, *_target_strides(target, labelled, step, errors == "softmax")
    walk = *strides, pixels, tiles, void, parts, groups * 2 * size, size
    how = _how((input, target), entries, per_image, has_void)
    with torch.cuda.device_of(input):
        if errors == "softmax":
            softmax.count_softmax[(tiles * images,)](
                input, target, entries, hist, status, *walk, **how, **_softmax_shape(classes, width, warps)
            )
        else:
            elements.count_elements[(tiles * classes * images,)](
                input, target, entries, hist, status, seen, *walk, **how, LABELLED=labelled,
                MODE=_MODES[errors], WIDTH=width, num_warps=warps,
            )  # fmt: skip
    return hist, status, seen, planes, planes.new_empty(())


@torch.library.register_fake("lovasz::count_errors")
def _(
    input: Tensor, target: Tensor, entries: Tensor, errors: str, labelled: bool, per_image: bool,
    void: int, has_void: bool, step: int, size: int, each: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    images, classes, pixels = input.shape
    pixels = (pixels + step - 1) // step
    groups = classes * (images if per_image else 1)
    width = WIDTH if step == 1 else SAMPLE_SHAPE[0]
    parts = ((pixels + width - 1) // width * images * width + _PART - 1) // _PART
    hist = input.new_empty(parts, groups, 2, size, dtype=torch.int64)
    status = input.new_empty(1 if errors == "softmax" else classes, dtype=torch.int32)
    seen = input.new_empty(0 if labelled else groups, 2, dtype=torch.int64)
    here = step == 1 and shared_memory.takes(input, target, errors, labelled, per_image, size)
    planes = shared_memory.planes(input, target, size, here)
    return hist, status, seen, planes, planes.new_empty((), dtype=torch.float32 if each is None else torch.float64)


@torch.library.impl(_LIBRARY, "gradient", "CompositeExplicitAutograd")
def gradient(
    factor: Tensor, input: Tensor, target: Tensor, entries: Tensor, table: Tensor, planes: Tensor,
    each: Tensor | None, lovasz: float, errors: str, labelled: bool, per_image: bool, void: int, has_void: bool,
) -> Tensor:  # fmt: skip
    """Second pass: the gradient at the scores times ``factor``, laid out as they are."""
    images, classes, _ = input.shape
    out = torch.empty_like(input)
    if shared_memory.takes(input, target, errors, labelled, per_image, table.shape[-1]):
        with torch.cuda.device_of(input):
            ignored = void if has_void else None
            shared_memory.gradient(factor, input, target, entries, table, planes, each, out, lovasz, ignored)
        return out
    assert (each, lovasz) == (None, 1), "the cross-entropy is added in shared memory alone"
    pixels, strides = _walk_of(input, 1)
    walk = *strides, *out.stride(), *_target_strides(target, labelled, 1, errors == "softmax")
    tiles = triton.cdiv(pixels, WIDTH)
    how = _how((input, target, out), entries, per_image, has_void)
    walk = *walk, pixels, tiles, void, table.shape[-1]
    with torch.cuda.device_of(input):
        if errors == "softmax":
            softmax.gradient_softmax[(tiles * images,)](
                input, target, entries, table, factor, out, *walk, **how, **_softmax_shape(classes, WIDTH, WARPS)
            )
        else:
            elements.gradient_elements[(tiles * classes * images,)](
                input, target, entries, table, factor, out, *walk, **how, LABELLED=labelled,
                MODE=_MODES[errors], WIDTH=WIDTH, num_warps=WARPS,
            )  # fmt: skip
    return out


@torch.library.register_fake("lovasz::gradient")
def _(factor: Tensor, input: Tensor, *_rest: Any) -> Tensor:
    return torch.empty_like(input)


@torch.library.impl(_LIBRARY, "attach_gradient", "CompositeExplicitAutograd")
def attach_gradient(
    value: Tensor, input: Tensor, target: Tensor, entries: Tensor, table: Tensor, planes: Tensor,
    each: Tensor | None, lovasz: float, errors: str, labelled: bool, per_image: bool, void: int, has_void: bool,
) -> Tensor:  # fmt: skip
    """The value, with the second pass as its gradient at ``input``."""
    return value.clone()


@torch.library.register_fake("lovasz::attach_gradient")
def _(value: Tensor, *_rest: Any) -> Tensor:
    return torch.empty_like(value)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:7])
    ctx.asked = inputs[7:]


def _backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
    # A gradient that is to have one itself comes from the operator, which refuses that.
    operators = _OPERATORS if torch.is_grad_enabled() else _operators(factor)
    at_input = operators.gradient(factor, *ctx.saved_tensors, *ctx.asked)
    return (None, at_input, *[None] * 11)


def _no_second_backward(ctx: Any, *_gradients: Tensor) -> tuple[Tensor | None, ...]:
    raise RuntimeError(ONCE)


torch.library.register_autograd("lovasz::attach_gradient", _backward, setup_context=_save)
torch.library.register_autograd("lovasz::gradient", _no_second_backward)


def _walk_of(input: Tensor, step: int) -> tuple[int, tuple[int, int, int]]:
    """How many pixels of an image are looked at, and the strides to walk them."""
    image, channel, pixel = input.stride()
    return (input.shape[2] + step - 1) // step, (image, channel, pixel * step)


def _target_strides(target: Tensor, labelled: bool, step: int, softmax_: bool) -> tuple[int, ...]:
    """Strides of the target by image, class (not for the softmax's loops) and pixel."""
    if labelled:
        image, pixel = target.stride()
        return (image, pixel * step) if softmax_ else (image, 0, pixel * step)
    image, channel, pixel = target.stride()
    return image, channel, pixel * step


def _softmax_shape(classes: int, width: int, warps: int) -> dict[str, Any]:
    held = classes <= HELD_CLASSES
    return {"HELD": held, "BLOCK": classes if held else BLOCK_CLASSES, "WIDTH": width, "num_warps": warps}


def _how(tensors: tuple[Tensor, ...], entries: Tensor, per_image: bool, has_void: bool) -> dict[str, Any]:
    """What every pass is compiled for; offsets inside one image take 64 bits where any tensor needs them."""
    classes = entries.shape[0]
    return {
        "HAS_VOID": has_void,
        "PER_IMAGE": per_image,
        "LARGE": max(map(_reach, tensors)) > _LIMIT,
        "CLASSES": classes,
        "CELLS": entries.shape[1],
    }


def _reach(tensor: Tensor) -> int:
    """The farthest that a pass steps inside one image of (N, C, S) or (N, S), some pixels beyond the last included."""
    _, *channel, pixel = tensor.stride()
    classes = tensor.shape[1] if channel else 1
    return sum((classes - 1) * abs(stride) for stride in channel) + (tensor.shape[-1] + 4096) * max(abs(pixel), 1)


class _Attached(torch.autograd.Function):
    """The operator attach_gradient, at less cost to the CPU that calls it."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _save(ctx, inputs, inputs[0])
        return inputs[0].clone()

    @staticmethod
    def backward(ctx: Any, *factors: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, *factors)


_PLAIN = SimpleNamespace(
    count_labels=count_labels, count_errors=count_errors, attach_gradient=_Attached.apply, gradient=gradient,
    deal=tables.deal, weigh=tables.weigh,
)  # fmt: skip


def _operators(input: Tensor) -> Any:
    """The operators where something must see them, torch.compile or a tensor of another kind; else what they call."""
    return _OPERATORS if torch.compiler.is_compiling() or type(input) is not Tensor else _PLAIN
