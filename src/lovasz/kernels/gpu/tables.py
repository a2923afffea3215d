"""The small tables between the two GPU passes, as torch operators: bins dealt from a sample, then weights and losses.

Each operator launches one kernel of between.py, and none waits for the device.
"""

# What Triton compiles is not quite Python: its launches mean more.
# pyright: reportCallIssue=false

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor

from lovasz.kernels import bins
from lovasz.kernels.gpu import between
from lovasz.kernels.gpu.arithmetic import COUNT_BITS

MOST_BINS = 16384  # of each group: all tables together are to stay in the cache
MEMORY = 1 << 19  # bins of all groups together
FINENESS = 1.0  # by what to multiply the steps of bins.deal
# For tuning on a device: bins of a program that weighs them. The interpreter likes few large programs.
CHUNK, WARPS = (1024, 8) if os.environ.get("TRITON_INTERPRET") != "1" else (1 << 14, 8)

_COUNTS = (1 << (64 - COUNT_BITS)) - 1
_COUNTED = "Tensor? weight, Tensor? chosen, bool only_present, bool labelled, bool mirrored"
_SCHEMAS = {
    "deal": f"(Tensor sample, Tensor totals, Tensor? spacing, {_COUNTED}, bool tailed, int step, int pixels, int size)"
    " -> (Tensor, Tensor)",
    "weigh": f"(Tensor hist, Tensor present, Tensor status, Tensor entries, Tensor tail_error, {_COUNTED}, "
    "int processes) -> (Tensor, Tensor)",
}
_LIBRARY = torch.library.Library("lovasz", "FRAGMENT")
for _name, _schema in _SCHEMAS.items():
    _LIBRARY.define(_name + _schema)


def capacity(groups: int, cells: int, pixels: int) -> int:
    """Bins of each group: those of the other kernels where the sample is the whole input, fewer beyond."""
    if pixels < 2 * bins.SAMPLE:
        return bins.capacity(groups, 1, cells, pixels)[0]
    return max(min(MOST_BINS, MEMORY // groups), 2 * cells)


def one_bin_per_cell(classes: int, cells: int, device: torch.device) -> Tensor:
    """The entries (C, cells) with which the sample is counted."""
    # What a CUDA graph makes is its own; torch.compile folds it by itself; and a mode may make no real tensor.
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return _one_bin_per_cell(classes, cells, device)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return _one_bin_per_cell(classes, cells, device)
    return _kept(classes, cells, device)


def _one_bin_per_cell(classes: int, cells: int, device: torch.device) -> Tensor:
    entries = torch.arange(bins.CELL_BITS, cells << 5, 32, dtype=torch.int32, device=device)
    return entries.repeat(classes, 1)


@functools.lru_cache(maxsize=16)
def _kept(classes: int, cells: int, device: torch.device) -> Tensor:
    entries = _one_bin_per_cell(classes, cells, device)
    if device.type == "cuda":  # once: other streams will read it, too
        torch.cuda.current_stream(device).synchronize()
    return entries


def unpacked(hist: Tensor) -> tuple[Tensor, Tensor]:
    """Counts and sums of fractions (G, 2, bins) of packed parts (parts, G, 2, bins)."""
    return (hist >> COUNT_BITS & _COUNTS).sum(0), (hist & ((1 << COUNT_BITS) - 1)).sum(0)


def bits_of(chosen: Sequence[int] | None, classes: int, device: torch.device) -> Tensor | None:
    """The chosen classes as bits of numbers, which a device can be told without waiting for it."""
    if chosen is None:
        return None
    words = [0] * -(-classes // between.WORD)
    for c in chosen:
        words[c // between.WORD] |= 1 << c % between.WORD
    filled = [torch.full((1,), word, dtype=torch.int64, device=device) for word in words]
    return filled[0] if len(filled) == 1 else torch.cat(filled)


@torch.library.impl(_LIBRARY, "deal", "CompositeExplicitAutograd")
def deal(
    sample: Tensor, totals: Tensor, spacing: Tensor | None, weight: Tensor | None, chosen: Tensor | None,
    only_present: bool, labelled: bool, mirrored: bool, tailed: bool, step: int, pixels: int, size: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Deal the bins of each class, and cut off its tail.

    Args:
        sample: packed counts (parts, C, 2, cells) of every ``step``-th pixel; if processes share the batch, with
            ``spacing``, plain ones (C, 2, cells) times the step.
        totals: (rows, C or more) pixels of each class, if ``labelled``.
        spacing: the step of processes that share the batch, a number on the device.
        weight, chosen, only_present: which classes count; ``chosen`` from :func:`bits_of`.
        mirrored: whether errors end at 1. tailed: whether the gradient fades with the error.
        pixels: of the input. size: bins of each class.

    Returns:
        entries (C, cells) int32, and the mean error in each class's tail, (C,) float64.
    """
    classes, _, cells = sample.shape[-3:]
    entries = torch.empty(classes, cells, dtype=torch.int32, device=sample.device)
    tail_error = torch.empty(classes, dtype=torch.float64, device=sample.device)
    shared = spacing is not None
    finer = FINENESS * (1.0 if shared else bins.fineness(pixels))
    with torch.cuda.device_of(sample):
        between.deal_bins[(classes,)](
            sample, *_given(totals, weight, chosen, spacing), entries, tail_error,
            totals.shape[0], totals.stride(0), 1 if shared else sample.shape[0], step, size, float(np.float32(finer)),
            **_averaged(labelled, only_present, weight, chosen), SHARED=shared, WHOLE=step == 1 and not shared,
            MIRRORED=mirrored, TAILED=tailed, CLASSES=classes, CELLS=cells, SLOTS=triton.next_power_of_2(cells),
            num_warps=WARPS,
        )  # fmt: skip
    return entries, tail_error


@torch.library.register_fake("lovasz::deal")
def _(sample: Tensor, *_rest: Any) -> tuple[Tensor, Tensor]:
    classes, _, cells = sample.shape[-3:]
    return sample.new_empty(classes, cells, dtype=torch.int32), sample.new_empty(classes, dtype=torch.float64)


@torch.library.impl(_LIBRARY, "weigh", "CompositeExplicitAutograd")
def weigh(
    hist: Tensor, present: Tensor, status: Tensor, entries: Tensor, tail_error: Tensor, weight: Tensor | None,
    chosen: Tensor | None, only_present: bool, labelled: bool, mirrored: bool, processes: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Weights and losses of each group from its counts; G is C, or images times C.

    Args:
        hist: packed counts (parts, G, 2, bins); of several ``processes`` (2, G, 2, bins) counts and sums of fractions.
        present: (rows, C or more) pixels of each class, if ``labelled``; else (G, 2) as the first pass has it, or, of
            several processes, valid and foreground pixels.
        status: (1 or C,) not 0 where an error is not finite.
        entries, tail_error: from :func:`deal`.
        weight, chosen, only_present: as there.
        processes: that share the batch; 0 for one that is alone.

    Returns:
        parts of the loss, whose sum it is, and the table (G, 2, bins) for the second pass.
    """
    parts, groups, _, size = hist.shape
    classes, cells = entries.shape
    losses, table = _results(hist)
    with torch.cuda.device_of(hist):
        between.weigh_bins[(groups, losses.shape[1])](
            hist, present, status, entries, tail_error, *_given(weight, chosen, none=hist), losses, table,
            groups // classes, present.stride(0), parts, groups * 2 * size, size, max(processes, 1),
            **_averaged(labelled, only_present, weight, chosen), SHARED=processes > 0, MIRRORED=mirrored,
            STATUS_OF_CLASS=status.shape[0] > 1, CLASSES=classes, CLASS_SLOTS=triton.next_power_of_2(classes),
            CELLS=cells, STEPS=(cells - 1).bit_length(), CHUNK=CHUNK, num_warps=WARPS,
        )  # fmt: skip
    return losses, table


@torch.library.register_fake("lovasz::weigh")
def _(hist: Tensor, *_rest: Any) -> tuple[Tensor, Tensor]:
    return _results(hist)


def _results(hist: Tensor) -> tuple[Tensor, Tensor]:
    _, groups, _, size = hist.shape
    losses = hist.new_empty(groups, (size + CHUNK - 1) // CHUNK, dtype=torch.float64)
    return losses, hist.new_empty(groups, 2, size, dtype=torch.int64)


def _given(*tensors: Tensor | None, none: Tensor | None = None) -> list[Tensor]:
    """What a kernel reads, side by side; another tensor, which it does not read, in the place of one that is not."""
    stand_in = next(t for t in (none, *tensors) if t is not None)
    return [stand_in if t is None else t for t in tensors]


def _averaged(labelled: bool, only_present: bool, weight: Tensor | None, chosen: Tensor | None) -> dict[str, bool]:
    return {
        "LABELLED": labelled,
        "ONLY_PRESENT": only_present,
        "HAS_WEIGHT": weight is not None,
        "HAS_CHOSEN": chosen is not None,
    }
