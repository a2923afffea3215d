"""Peak memory beyond the input: what a fresh process adds to its resident set, numpy's and scratch memory included.

A process per contestant loads and warms up on a small input, resets the kernel's high-water mark of resident memory
(``/proc/self/clear_refs``), and runs once on the large input. The system counts resident
pages in batches: figures hold to within a megabyte.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import lovasz
from benchmarks import contestants, inputs, libraries
from benchmarks.checks import both_passes
from benchmarks.children import ask
from benchmarks.contestants import Contestant
from benchmarks.machine import memory_kib
from benchmarks.settings import Settings

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SHAPES = ((4, 21), (4, 19), (1, 150))


def run(settings: Settings) -> dict[str, Any]:
    """Everybody at 4 x 21 x 512 x 512, cross-entropy and ours at the other shapes."""
    if not (STATUS.is_file() and RESET.is_file()):
        return {"tables": [], "note": "Not measured: it needs Linux, /proc/self/status and /proc/self/clear_refs."}
    few = [contestants.cross_entropy().name, *(c.name for c in _ours())]
    tables = []
    for images, classes in SHAPES[:1] if settings.quick else SHAPES:
        names = list(_everybody()) if (images, classes) == SHAPES[0] else few
        if settings.quick:
            names = few[:2]
        size = settings.size(512, 64)
        rows = [_row(name, images, classes, size, settings) for name in names]
        yardstick = rows[0]["both"]
        for row in rows:
            if "both" in row:
                row["ratio"] = row["both"] / yardstick
        tables.append({"input": f"{images} x {classes} x {size} x {size} float32", "rows": rows})
    return {"tables": tables}


def _ours() -> list[Contestant]:
    return [contestants.softmax(), *contestants.with_cross_entropy()[:1]]


def _everybody() -> dict[str, Callable[[], Contestant]]:
    """By name; what has to be imported is built only in the process that measures it."""
    own = [contestants.cross_entropy(), *_ours(), *contestants.softmax_ways(), contestants.authors_softmax()]
    named: dict[str, Callable[[], Contestant]] = {c.name: (lambda c=c: c) for c in own}
    for library in libraries.MULTICLASS:
        named[library.title] = lambda library=library: Contestant(library.title, library.build(), library.formula)
    return named


def _row(name: str, images: int, classes: int, size: int, settings: Settings) -> dict[str, Any]:
    for library in libraries.MULTICLASS:
        if library.title == name and not library.version():
            return {"name": name, "note": f"{library.package} is not installed"}
    arguments = [name, *map(str, (images, classes, size, settings.threads))]
    return {"name": name, **ask("benchmarks.memory", arguments)}


def measure(contestant: Contestant, images: int, classes: int, size: int) -> dict[str, int]:
    """Bytes added at the peak by forward alone and by forward and backward; the gradient counts, the input does not."""
    scores, target = inputs.multiclass(images, classes, size)
    corner, labels = inputs.piece(scores, target)
    corner.requires_grad_()
    for _ in range(2):
        both_passes(contestant.loss, corner, labels)
    with torch.no_grad():
        contestant.loss(corner, labels)

    def forward() -> None:
        with torch.no_grad():
            contestant.loss(scores, target)

    return {"forward": _peak(forward), "both": _peak(lambda: both_passes(contestant.loss, scores, target))}


def _peak(call: Callable[[], Any]) -> int:
    gc.collect()
    lovasz.release_memory()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # freed memory still held would hide what the call needs
        trim(0)
    RESET.write_text("5")
    before = memory_kib("VmRSS", STATUS)
    call()
    return (memory_kib("VmHWM", STATUS) - before) << 10


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    images, classes, size, threads = map(int, numbers)
    torch.set_num_threads(threads)
    print(json.dumps(measure(_everybody()[name](), images, classes, size)))
