"""When Lovász-Softmax is counted in the multiprocessors' shared memory (softmax.cu), and how those kernels are launched.

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
COUNT_THREADS, GRADIENT_THREADS = 768, 512  # of classes that are held
GROUP_THREADS, PLAIN_THREADS = 1024, 256
ENTRY_LIMIT = 1 << 11  # bins that 16 bits of an entry can tell apart
WASTE = 32  # bins of a class in shared memory for what is not counted

_SOURCE = Path(__file__).with_name("softmax.cu")
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


def layout(input: Tensor, target: Tensor) -> Layout | None:
    """How the tables of (N, C, S) logits are laid out; None where Triton's passes are to count in global memory."""
    images, classes, pixels = input.shape
    if input.dtype not in _TYPES or target.dtype not in _LABELS:
        return None
    if input.stride(2) != 1 or images * pixels < LEAST_PIXELS or pixels >= 1 << 30 or images * pixels >= 1 << 34:
        return None
    return of_classes(classes, _shared_memory(input.device))


def of_classes(classes: int, memory: int) -> Layout | None:
    """Tables of so many classes in ``memory`` bytes; None if one class does not fit."""
    least = bins.MIRRORED_CELLS + 8
    most = min(HELD_CLASSES, memory // _bytes(least))
    if most < 1 or classes >= 1 << 15:
        return None
    groups = -(-classes // most)
    group = -(-classes // groups)
    size = (memory // group - _bytes(0)) // 8 // 2 * 2
    return Layout(group, min(size, ENTRY_LIMIT - WASTE - 2))


def _bytes(size: int) -> int:
    """Of a class with ``size`` bins: entries, and counts of both kinds or lines of one."""
    return 2 * bins.MIRRORED_CELLS + 4 * WASTE + 8 * size


@torch.compiler.assume_constant_result
def _shared_memory(device: torch.device) -> int:
    return nvrtc.shared_memory(device)


class _Walk(ctypes.Structure):
    """As in softmax.cu."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("image", "channel", "out_image", "out_channel")),
        *((name, ctypes.c_int64) for name in ("target_image", "target_pixel", "part_size", "ignored")),
        *((name, ctypes.c_int32) for name in ("has_ignored", "pixels", "tiles", "all_tiles", "parts")),
    ]


class _Launcher:
    """The kernels for one input, and what all of them are told."""

    def __init__(self, input: Tensor, target: Tensor, out: Tensor | None, size: int, void: int, has_void: bool) -> None:
        images, classes, pixels = input.shape
        found = layout(input, target)
        assert found is not None and found.size == size
        self.device = input.device
        self.images, self.pixels, self.classes, self.group = images, pixels, classes, found.group
        self.held = classes <= found.group
        tensors = [input] if out is None else [input, out]
        pair = all(
            t.data_ptr() % (2 * t.element_size()) == 0 and t.stride(0) % 2 == 0 and t.stride(1) % 2 == 0
            for t in tensors
        )  # fmt: skip
        self.together = 2 if pair and pixels % 2 == 0 else 1
        self.threads = (COUNT_THREADS, GRADIENT_THREADS) if self.held else (GROUP_THREADS, GROUP_THREADS)
        self.memory = found.group * _bytes(size)
        self.walk = _Walk(
            *input.stride()[:2], *((0, 0) if out is None else out.stride()[:2]), *target.stride(), 0, void, has_void, pixels
        )
        names = ("count", "gradient")
        if not self.held:
            names = ("normalise", "count_group", "mean_group", "finish", "gradient_group")
        self.kernels = nvrtc.kernels(
            _source(), names, macros(classes, found, input.dtype, target.dtype, self.together, self.threads),
            self.memory, self.device,
        )  # fmt: skip

    def start(self, name: str, threads: int, arguments: list[Any], *, groups: int = 1, tables: bool = True) -> None:
        """Launch a kernel over all pixels."""
        tiles = -(-self.pixels // (threads * self.together))
        self.walk.tiles, self.walk.all_tiles = tiles, tiles * self.images
        side_by_side = nvrtc.multiprocessors(self.device) * (1 if tables else 2048 // threads)
        grid = max(1, min(self.walk.all_tiles, -(-side_by_side // groups) if tables else side_by_side)), groups
        nvrtc.launch(self.kernels[name], grid, threads, self.memory if tables else 0, [*arguments, self.walk])


def count(
    input: Tensor, target: Tensor, entries: Tensor, hist: Tensor, status: Tensor, void: int, has_void: bool
) -> None:
    """First pass: add the bins of all errors to ``hist`` (parts, C, 2, size), and raise ``status`` where one is not finite."""
    parts, classes, _, size = hist.shape
    it = _Launcher(input, target, None, size, void, has_void)
    it.walk.part_size, it.walk.parts = classes * 2 * size, parts
    if it.held:
        it.start("count", it.threads[0], [input, target, entries, hist, status])
        return
    planes = _normalised(it, input, target, entries, hist, status, True)
    it.start("count_group", it.threads[0], [input, entries, hist, planes[0], planes[2]], groups=-(-classes // it.group))


def gradient(
    factor: Tensor, input: Tensor, target: Tensor, entries: Tensor, table: Tensor, out: Tensor, void: int, has_void: bool
) -> None:
    """Second pass: write the gradient times ``factor`` into ``out``."""
    classes, _, size = table.shape
    it = _Launcher(input, target, out, size, void, has_void)
    factor = factor.to(torch.float32)
    if it.held:
        it.start("gradient", it.threads[1], [input, target, entries, table, factor, out])
        return
    denominator, wrongs, labels = _normalised(it, input, target, entries, table, table, False)
    means = torch.empty_like(denominator)
    for first in range(0, classes, it.group):
        it.start("mean_group", it.threads[1], [input, entries, table, factor, denominator, labels, means, first])
    it.start("finish", PLAIN_THREADS, [input, entries, table, factor, denominator, wrongs, labels, means], tables=False)
    it.start(
        "gradient_group", it.threads[1], [input, entries, table, factor, denominator, wrongs, labels, means, out],
        groups=-(-classes // it.group),
    )  # fmt: skip


def _normalised(
    it: _Launcher, input: Tensor, target: Tensor, entries: Tensor, hist: Tensor, status: Tensor, counting: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Denominator, error and label of each pixel."""
    denominator = torch.empty(it.images * it.pixels, dtype=torch.float32, device=input.device)
    wrongs, labels = torch.empty_like(denominator), torch.empty_like(denominator, dtype=torch.int16)
    planes = [denominator, wrongs, labels]
    it.start("normalise", PLAIN_THREADS, [input, target, entries, hist, status, *planes, int(counting)], tables=False)
    return denominator, wrongs, labels


def macros(
    classes: int, found: Layout, dtype: torch.dtype, labels: torch.dtype, together: int, threads: tuple[int, int]
) -> tuple[str, ...]:
    """What softmax.cu asks to be defined."""
    numbers = {
        "CLASSES": classes,
        "GROUP": found.group,
        "CELLS": bins.MIRRORED_CELLS,
        "SIZE": found.size,
        "TYPE": _TYPES[dtype],
        "LABEL": _LABELS[labels],
        "V": together,
        "THREADS": threads[0],
        "SLOPE_THREADS": threads[1],
        "PLAIN_THREADS": PLAIN_THREADS,
        "CELL_BITS": bins.CELL_BITS,
        "FLOOR": bins.FLOOR,
        "HALF_RANGE": bins.HALF_RANGE,
        "FRACTION_BITS": bins.FRACTION_BITS,
        "COUNT_BITS": COUNT_BITS,
    }
    return tuple(f"{name}={value}" for name, value in numbers.items())


@functools.cache
def _source() -> str:
    return _SOURCE.read_text()
