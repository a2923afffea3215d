"""The same comparison along one quantity: pixels, classes, number formats, memory layouts, threads."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from benchmarks import contestants, inputs
from benchmarks.machine import memory_kib
from benchmarks.settings import Settings
from benchmarks.tables import table

SIDE = 256  # an image of the scaling table: 65,536 pixels
SCALING_IMAGES = (1, 4, 16, 64, 256, 1024)  # 64 k to 64 M pixels
SCALING_CLASSES = (21, 5)  # at 64 M pixels logits and gradient of 21 take half of a 24 GiB machine, of 5 an eighth
CLASSES = (2, 19, 21, 150, 1000)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def scaling(settings: Settings) -> dict[str, Any]:
    """Pixels from 64 k to 64 M: the same 16 images over and over, so that only their number changes."""
    found = [_scaling(classes, settings) for classes in SCALING_CLASSES]
    notes = [_growth(tables, classes) for tables, classes in zip(found, SCALING_CLASSES, strict=True)]
    return {"tables": [table for tables in found for table in tables], "note": " ".join(filter(None, notes))}


def _scaling(classes: int, settings: Settings) -> list[dict[str, Any]]:
    counts = SCALING_IMAGES[:2] if settings.quick else SCALING_IMAGES
    block, labels = inputs.multiclass(min(16, counts[-1]), classes, settings.size(SIDE))
    tables = []
    for images in counts:
        who, why_not = _fits(images * block[0].numel() * block.element_size())
        label = f"{images} x {classes} x {block.shape[-1]} x {block.shape[-1]} float32"
        known = {"pixels": images * block[0, 0].numel(), "classes": classes}
        if not who:
            tables.append({"input": label, "rows": [], "note": why_not} | known)
            continue
        scores, target = _repeat(block.detach(), images).requires_grad_(), _repeat(labels, images)
        first = [contestants.cross_entropy()] if who == "both" else []
        result = table(label, [*first, contestants.softmax()], scores, target, settings)
        if why_not:
            result["note"] = why_not
            for row in result["rows"]:
                row["ratio"] = None
        tables.append(result | known)
    for result in tables:
        for row in result["rows"]:
            row["ns_per_pixel"] = row["median"] / result["pixels"] * 1e9
    return tables


def classes(settings: Settings) -> dict[str, Any]:
    """Classes from 2 to 1,000 on one image of 512 x 512."""
    tables = []
    for count in CLASSES:
        scores, target = inputs.multiclass(1, count, settings.size(512))
        fast = [contestants.cross_entropy(), contestants.softmax()]
        tables.append(table(inputs.shape(scores), fast, scores, target, settings) | {"classes": count})
    return {"tables": tables}


def dtypes(settings: Settings) -> dict[str, Any]:
    """Number formats of the logits, each against cross-entropy in the same format."""
    wide, target = inputs.multiclass(settings.size(4, 2), 21, settings.size(512))
    tables = []
    for dtype in DTYPES:
        scores = wide.detach().to(dtype).requires_grad_()
        fast = [contestants.cross_entropy(), contestants.softmax()]
        tables.append(table(inputs.shape(scores), fast, scores, target, settings))
    return {"tables": tables}


def layouts(settings: Settings) -> dict[str, Any]:
    """The same logits contiguous, channels_last, and as (P, C), each against cross-entropy in the same layout."""
    plain, target = inputs.multiclass(settings.size(4, 2), 21, settings.size(512))
    plain = plain.detach()
    forms: dict[str, tuple[Tensor, Tensor]] = {
        "contiguous": (plain, target),
        "channels_last": (plain.contiguous(memory_format=torch.channels_last), target),
        "(P, C)": (plain.permute(0, 2, 3, 1).reshape(-1, plain.shape[1]), target.flatten()),
    }
    tables = []
    for name, (scores, labels) in forms.items():
        fast = [contestants.cross_entropy(), contestants.softmax()]
        label = f"{inputs.shape(scores)}, {name}"
        tables.append(table(label, fast, scores.requires_grad_(), labels, settings))
    return {"tables": tables}


def threads(settings: Settings) -> dict[str, Any]:
    """One thread, two, and on until every core has one."""
    scores, target = inputs.multiclass(settings.size(4, 2), 21, settings.size(512))
    most = max(settings.threads, os.cpu_count() or 1)
    counts = sorted({1, settings.threads, *(2**i for i in range(most.bit_length()) if 2**i <= most)})
    tables = []
    try:
        for count in counts:
            torch.set_num_threads(count)
            label = f"{inputs.shape(scores)}, {count} thread{'s' if count > 1 else ''}"
            fast = [contestants.cross_entropy(), contestants.softmax()]
            tables.append(table(label, fast, scores, target, settings) | {"threads": count})
    finally:
        torch.set_num_threads(settings.threads)
    return {"tables": tables}


def _fits(logits_bytes: int) -> tuple[str, str]:
    """Who fits into memory, "both", "ours" or nobody (""), and a sentence if not both."""
    free = (memory_kib("MemAvailable") << 10) or 4 * logits_bytes + 1
    if 4.2 * logits_bytes < free:  # the logits, and cross-entropy's up to three arrays of their size
        return "both", ""
    if 2.2 * logits_bytes < free:
        return "ours", "F.cross_entropy is left out: its forward and backward would not fit into memory here."
    return "", "Left out: logits and gradient would not fit into memory here."


def _repeat(block: Tensor, images: int) -> Tensor:
    if images <= len(block):
        return block[:images].clone()
    whole = block.new_empty(images, *block.shape[1:])
    for start in range(0, images, len(block)):
        whole[start : start + len(block)] = block
    return whole


def _growth(tables: list[dict[str, Any]], classes: int) -> str:
    """One sentence: time per pixel at the largest size measured against that at 1 M pixels."""
    ours = {t["pixels"]: row["ns_per_pixel"] for t in tables for row in t["rows"] if row["name"] == "lovasz_softmax"}
    start, end = 16 * SIDE * SIDE, max(ours, default=0)
    if start not in ours or end <= start:
        return ""
    change = ours[end] / ours[start] - 1
    return (
        f"From {start / 2**20:.0f} M to {end / 2**20:.0f} M pixels of {classes} classes the time per pixel of ours "
        f"changes by {change:+.0%}."
    )
