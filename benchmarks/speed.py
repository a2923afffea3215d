"""Time of forward and backward against cross-entropy, the authors' formula, and every way in which ours computes."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from benchmarks import contestants, inputs
from benchmarks.children import ask
from benchmarks.settings import Settings
from benchmarks.tables import table

# glibc gives large blocks back to the system, and every new one costs page faults; with these it keeps them.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "8589934592", "MALLOC_TRIM_THRESHOLD_": "17179869184"}


def run(settings: Settings) -> dict[str, Any]:
    """Tables of multi-class and binary losses over shapes and over the state of the network."""
    tables = [_main(settings), _kept(settings)]
    for images, classes in ((4, 19), (1, 150)):
        tables.append(_multiclass(images, classes, settings))
    for kind in ("trained", "untrained", "confident"):
        tables.append(_multiclass(4, 21, settings, kind))
    tables.append(_binary(settings))
    tables.append(_small(settings))
    return {"tables": tables}


def _main(settings: Settings) -> dict[str, Any]:
    scores, target = inputs.multiclass(settings.size(4, 2), 21, settings.size(512))
    ours = contestants.softmax()
    fast = [contestants.cross_entropy(), ours, *contestants.with_cross_entropy()]
    slow = [contestants.authors_softmax()]
    compiled, why_not = contestants.authors_compiled()
    if compiled is not None and not settings.quick:
        slow.append(compiled)
    slow += contestants.softmax_ways()
    result = table(
        inputs.shape(scores),
        fast,
        scores,
        target,
        settings,
        slow=slow,
        forward_only=[contestants.cross_entropy(), ours],
    )
    if why_not:
        result["rows"].append({"name": "authors' formula, torch.compile", "note": why_not})
    return result


def _multiclass(images: int, classes: int, settings: Settings, kind: str = "random") -> dict[str, Any]:
    scores, target = inputs.multiclass(settings.size(images, 2), classes, settings.size(512), kind)
    label = inputs.shape(scores) + ("" if kind == "random" else f", {kind} logits")
    fast = [contestants.cross_entropy(), contestants.softmax(), *contestants.with_cross_entropy()[:1]]
    return table(label, fast, scores, target, settings, forward_only=[contestants.softmax()])


def _binary(settings: Settings) -> dict[str, Any]:
    scores, target = inputs.binary(settings.size(8, 2), settings.size(512, 96))
    fast = [
        contestants.binary_cross_entropy(),
        contestants.hinge(),
        contestants.hinge_per_image(),
        contestants.sigmoid(),
    ]
    return table(inputs.shape(scores), fast, scores, target, settings, slow=[contestants.authors_hinge()])


def _small(settings: Settings) -> dict[str, Any]:
    scores, target = inputs.multiclass(2, 21, settings.size(64))
    fast = [contestants.cross_entropy(), contestants.softmax(), contestants.authors_softmax()]
    return table(inputs.shape(scores), fast, scores, target, settings, slow=contestants.softmax_ways())


def _kept(settings: Settings) -> dict[str, Any]:
    label = "4 x 21 x 512 x 512 float32, freed memory kept by the allocator"
    if not sys.platform.startswith("linux"):
        return {"input": label, "yardstick": inputs.YARDSTICK, "rows": [{"name": "all", "note": "needs glibc"}]}
    arguments = [str(settings.threads), str(settings.rounds), str(int(settings.quick))]
    return ask("benchmarks.speed", arguments, KEEP_FREED_MEMORY) | {"input": label}


if __name__ == "__main__":
    threads, rounds, quick = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    print(json.dumps(_multiclass(4, 21, Settings(threads, rounds, bool(quick)))))
