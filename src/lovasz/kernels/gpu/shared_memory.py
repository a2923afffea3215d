"""When Lovász-Softmax is counted in the multiprocessors' shared memory (cuda/), and how those kernels are launched.

Apart from passes.py, whose operators call it: there all is Triton, here it is CUDA C++ for many pixels.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lovasz.kernels import bins
from lovasz.kernels.gpu import nvrtc
from lovasz.kernels.gpu.arithmetic import COUNT_BITS

# For tuning on a device.
LEAST_PIXELS = 1 << 17  # fewer have not enough errors for the tables to be worth their filling
HELD_CLASSES = 23  # whose logits fit in registers
GROUP_CLASSES = 16  # of a group where there are more: fewer leave each class more bins
HELD_THREADS = 768, 512  # of a block that counts, and of one that writes the gradient
GROUP_THREADS = 1024, 1024
PLAIN_THREADS = 256  # of a block without tables
COMMON_MEMORY = 166912  # bytes of shared memory that A100s and all later ones of their kind have
ENTRY_LIMIT = 1 << 11  # bins that 16 bits of an entry can tell apart
WASTE = 32  # bins of a class in shared memory for what is not counted
PLANES = 3  # denominator of the softmax, error and label (int32) of each pixel

_SOURCES = Path(__file__).with_name("cuda")
_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_LABELS = {
    torch.int64: "long long",
    torch.int32: "int",
    torch.int16: "short",
    torch.int8: "signed char",
    torch.uint8: "unsigned char",
}


class Layout(NamedTuple):
    """Classes whose tables a multiprocessor holds at a time, and bins of each."""

    group: int
    size: int


def layout(input: Tensor, target: Tensor, size: int | None = None) -> Layout | None:
    """How the tables of (N, C, S) logits are laid out; None where Triton's passes are to count in global memory.

    size: bins of each class, where they are settled already.
    """
    images, classes, pixels = input.shape
    if input.dtype not in _TYPES or target.dtype not in _LABELS:
        return None
    if images * pixels < LEAST_PIXELS or pixels >= 1 << 30 or images * pixels >= 1 << 34:
        return None
    memory = _shared_memory(input.device)
    found = of_classes(classes, memory)
    if size is not None and (found is None or found.size != size):
        found = of_classes(classes, COMMON_MEMORY) if memory >= COMMON_MEMORY else None
        return None if found is None or found.size != size else found
    return found


def of_classes(classes: int, memory: int) -> Layout | None:
    """Tables of so many classes in ``memory`` bytes, all at once or in groups; None if one class does not fit."""
    most = min(HELD_CLASSES, memory // _bytes(bins.MIRRORED_CELLS + 8))
    if most < 1:
        return None
    if classes > most:
        most = min(most, GROUP_CLASSES)
    group = -(-classes // -(-classes // most))
    size = (memory // group - _bytes(0)) // 8 // 2 * 2
    return Layout(group, min(size, ENTRY_LIMIT - WASTE - 2))


def _bytes(size: int) -> int:
    """Of a class with ``size`` bins: entries, and counts of both kinds or lines of one."""
    return 2 * bins.MIRRORED_CELLS + 4 * WASTE + 8 * size


@torch.compiler.assume_constant_result
def _shared_memory(device: torch.device) -> int:
    return nvrtc.shared_memory(device)


def bins_of(input: Tensor, target: Tensor, errors: str, labelled: bool, per_image: bool, processes: int) -> int | None:
    """Bins of a class where the kernels here do the two passes of a loss, else None.

    processes: that share the batch, if not 0: all must have as many bins, whatever their GPUs and images, and those
        whose images are few have Triton's passes fill them.
    """
    if errors != "softmax" or not labelled or per_image:
        return None
    found = of_classes(input.shape[1], COMMON_MEMORY) if processes else layout(input, target)
    return None if found is None else found.size


def takes(input: Tensor, target: Tensor, errors: str, labelled: bool, per_image: bool, size: int) -> bool:
    """Whether the kernels here do the passes with so many bins of each class."""
    return errors == "softmax" and labelled and not per_image and layout(input, target, size) is not None


def planes(input: Tensor, target: Tensor, size: int, here: bool) -> Tensor:
    """Room for the numbers of each pixel that the first pass leaves to the second: where classes come in groups."""
    found = layout(input, target, size) if here else None
    number = 0 if found is None or found.group == input.shape[1] else PLANES
    return input.new_empty(number, input.shape[0] * input.shape[2], dtype=torch.float32)


def fuses(input: Tensor, target: Tensor, per_image: bool, terms: tuple[float, float], group: Any) -> bool:
    """Whether a cross-entropy of (weight, label smoothing) ``terms`` is computed here, beside the loss of (N, C, S)."""
    return group is None and not terms[1] and bins_of(input, target, "softmax", True, per_image, 0) is not None


def each_class(present: Tensor, weight: Tensor | None, factor: float) -> Tensor:
    """What the cross-entropy of a pixel of each class has to be multiplied by for the weighted mean over the pixels.

    present: (rows, C) pixels of each class. factor: times that mean.
    """
    pixels = present.sum(0).double()
    each = torch.ones_like(pixels) if weight is None else weight.double()
    whole = (each * pixels).sum()
    return (each * (factor / torch.where(whole > 0, whole, 1) * (whole > 0))).float()


class _Walk(ctypes.Structure):
    """As in cuda/common.cu."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("image", "channel", "pixel", "out_image", "out_channel", "out_pixel")),
        *((name, ctypes.c_int64) for name in ("target_image", "target_pixel", "part_size", "ignored")),
        *((name, ctypes.c_int32) for name in ("has_ignored", "pixels", "tiles", "all_tiles", "parts", "zero")),
    ]


class _Launcher:
    """The kernels for inputs that lie alike, and what all of them are told."""

    def __init__(
        self, found: Layout, shape: tuple[int, ...], strides: tuple[int, ...], types: tuple[torch.dtype, torch.dtype],
        together: int, ignored: int | None, device: torch.device,
    ) -> None:  # fmt: skip
        self.images, classes, self.pixels = shape
        self.device, self.layout, self.together = device, found, together
        self.groups = -(-classes // found.group)
        self.held = self.groups == 1
        self.threads = HELD_THREADS if self.held else GROUP_THREADS
        self.memory = nvrtc.shared_memory(device)
        self.walk = _Walk(*strides, 0, ignored or 0, ignored is not None, self.pixels)
        names = ("count", "gradient")
        if not self.held:
            names = ("normalise", "count_group", "mean_group", "finish", "gradient_group")
        defined = macros(classes, found, *types, together, self.threads)
        self.kernels = nvrtc.kernels(_source(self.held), names, defined, self.memory, device)

    def walked(self, threads: int, groups: int, tables: bool) -> tuple[int, int]:
        """Blocks of a kernel, and tiles of an image, a pixel or two to a thread."""
        tiles = -(-self.pixels // (threads * self.together))
        # Tables fill a multiprocessor: no block of them is to wait for another to end.
        most = nvrtc.multiprocessors(self.device) // groups if tables else tiles * self.images
        return max(1, min(tiles * self.images, most)), tiles

    def start(
        self, name: str, threads: int, arguments: list[Any], *, groups: int = 1, tables: bool = True,
        parts: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        """Launch a kernel over all pixels; ``parts``: bins of a part of the counts, and how many parts there are."""
        walk = _Walk.from_buffer_copy(self.walk)  # other threads may launch with the same
        blocks, walk.tiles = self.walked(threads, groups, tables)
        walk.all_tiles = walk.tiles * self.images
        walk.part_size, walk.parts = parts
        memory = self.memory if tables else 8 * threads  # a number of each, to be summed
        nvrtc.launch(self.kernels[name], (blocks, groups), threads, memory, [*arguments, walk])


_launcher = functools.lru_cache(maxsize=64)(_Launcher)


def _launcher_of(input: Tensor, target: Tensor, out: Tensor | None, size: int, ignored: int | None) -> _Launcher:
    found = layout(input, target, size)
    assert found is not None
    image, channel, pixel = input.stride()
    to = (0, 0, 1) if out is None else out.stride()
    addresses = input.data_ptr() | (0 if out is None else out.data_ptr())
    apart = addresses % (2 * input.element_size()) or (image | channel | to[0] | to[1] | input.shape[2]) % 2
    together = 2 if pixel == to[2] == 1 and not apart else 1
    return _launcher(
        found, tuple(input.shape), (image, channel, pixel, *to, *target.stride()), (input.dtype, target.dtype),
        together, ignored, input.device,
    )  # fmt: skip


def count(
    input: Tensor, target: Tensor, entries: Tensor, hist: Tensor, status: Tensor, planes: Tensor, each: Tensor | None,
    ignored: int | None,
) -> Tensor | None:  # fmt: skip
    """First pass.

    Args:
        hist: (parts, C, 2, size), to which the bins of all errors are added.
        status: (1,), 1 afterwards where an error is not finite.
        planes: from :func:`planes`, which receives what the second pass needs again.
        each: (C,) float32, what the cross-entropy of a pixel of each class is to be multiplied by, or None.
        ignored: label of pixels that do not count.

    Returns:
        The sum of the cross-entropies, float64, or None.
    """
    parts, classes, _, size = hist.shape
    it = _launcher_of(input, target, None, size, ignored)
    layers = classes * 2 * size, parts
    threads = it.threads[0] if it.held else PLAIN_THREADS
    entropy = None
    if each is not None:
        blocks, _ = it.walked(threads, 1, it.held)
        entropy = torch.empty(blocks, dtype=torch.float64, device=input.device)
    if it.held:
        it.start("count", threads, [input, target, entries, hist, status, each, entropy], parts=layers)
    else:
        denominator, wrongs, labels = planes
        given = [input, target, entries, hist, status, denominator, wrongs, labels, each, entropy]
        it.start("normalise", threads, given, tables=False, parts=layers)
        given = [input, entries, hist, denominator, labels]
        it.start("count_group", it.threads[0], given, groups=it.groups, parts=layers)
    return None if entropy is None else entropy.sum()


def gradient(
    factor: Tensor, input: Tensor, target: Tensor, entries: Tensor, table: Tensor, planes: Tensor, each: Tensor | None,
    out: Tensor, lovasz: float, ignored: int | None,
) -> None:  # fmt: skip
    """Second pass: write the gradient times ``factor`` into ``out``; the loss counts ``lovasz`` times."""
    it = _launcher_of(input, target, out, table.shape[2], ignored)
    factor, times = factor.to(torch.float32), ctypes.c_float(lovasz)
    if it.held:
        it.start("gradient", it.threads[1], [input, target, entries, table, factor, each, out, times])
        return
    denominator, wrongs, labels = planes
    means = torch.empty(it.groups, planes.shape[1], dtype=torch.float32, device=input.device)
    at_labels = torch.empty_like(wrongs)
    plane = ctypes.c_int64(planes.shape[1])
    read = [input, entries, table, factor, denominator]
    it.start("mean_group", it.threads[1], [*read, labels, means, plane, times], groups=it.groups)
    it.start("finish", PLAIN_THREADS, [*read, wrongs, labels, means, at_labels, plane, each, times], tables=False)
    it.start("gradient_group", it.threads[1], [*read, at_labels, labels, means, out, times], groups=it.groups)


def macros(
    classes: int, found: Layout, dtype: torch.dtype, labels: torch.dtype, together: int, threads: tuple[int, int]
) -> tuple[str, ...]:
    """What cuda/common.cu asks to be defined."""
    numbers = {
        "CLASSES": classes,
        "GROUP": found.group,
        "CELLS": bins.MIRRORED_CELLS,
        "SIZE": found.size,
        "TYPE": _TYPES[dtype],
        "LABEL": _LABELS[labels],
        "V": together,
        "COUNT_THREADS": threads[0],
        "GRADIENT_THREADS": threads[1],
        "PLAIN_THREADS": PLAIN_THREADS,
        "CELL_BITS": bins.CELL_BITS,
        "FLOOR": bins.FLOOR,
        "HALF_RANGE": bins.HALF_RANGE,
        "FRACTION_BITS": bins.FRACTION_BITS,
        "COUNT_BITS": COUNT_BITS,
    }
    return tuple(f"{name}={value}" for name, value in numbers.items())


@functools.cache
def _source(held: bool) -> str:
    return "".join((_SOURCES / n).read_text("utf-8") for n in ("common.cu", "held.cu" if held else "groups.cu"))
