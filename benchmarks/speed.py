"""Time of forward and backward against cross-entropy, the authors' formula, and every way in which ours computes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import contestants, inputs
from benchmarks.children import ask
from benchmarks.settings import Settings
from benchmarks.tables import beside_slow, table

# The system takes large blocks back, and every new one costs page faults. Ours keeps the block of its gradient; told
# not to, it pays as all do, and glibc told to keep everything spares all of them.
ALLOCATORS = {
    "kept by none": ("LOVASZ_KEEP_MEMORY=0", {"LOVASZ_KEEP_MEMORY": "0"}),
    "kept by all": (
        "freed memory kept by the allocator",
        {"MALLOC_MMAP_THRESHOLD_": "8589934592", "MALLOC_TRIM_THRESHOLD_": "17179869184"},
    ),
}


def run(settings: Settings) -> dict[str, Any]:
    """Tables of multi-class and binary losses over shapes and over the state of the network.

    Each is measured in a fresh process: what one table frees would spare the next one's page faults, and more of
    cross-entropy's, which takes three arrays of the logits' size where ours takes one. A quick run, whose figures are
    worthless, does without.
    """
    allocators = [*ALLOCATORS][:1] if settings.quick else ALLOCATORS  # each takes a process of its own
    return {"tables": [found for name in ("main", *allocators, *OTHERS) for found in _tables_of(name, settings)]}


def _tables_of(name: str, settings: Settings) -> list[dict[str, Any]]:
    arguments = [name, str(settings.threads), str(settings.rounds), str(int(settings.quick))]
    if name not in ALLOCATORS:
        return MEASURED[name](settings) if settings.quick else ask("benchmarks.speed", arguments)
    how, variables = ALLOCATORS[name]
    label = f"4 x 21 x 512 x 512 float32, {how}"
    if name == "kept by all" and not sys.platform.startswith("linux"):
        return [{"input": label, "yardstick": inputs.YARDSTICK, "rows": [{"name": "all", "note": "needs glibc"}]}]
    return [ask("benchmarks.speed", arguments, variables)[0] | {"input": label}]


def _main(settings: Settings) -> list[dict[str, Any]]:
    scores, target = inputs.multiclass(settings.size(4, 2), 21, settings.size(512))
    ours = contestants.softmax()
    fast = [contestants.cross_entropy(), ours, *contestants.with_cross_entropy()]
    slow = [contestants.authors_softmax()]
    compiled, why_not = contestants.authors_compiled()
    if compiled is not None and not settings.quick:
        slow.append(compiled)
    slow += contestants.softmax_ways()
    label, alone = inputs.shape(scores), [contestants.cross_entropy(), ours]
    first = table(label, fast, scores, target, settings, forward_only=alone)
    second = beside_slow(label, fast, slow, scores, target, settings)
    if why_not:
        second["rows"].append({"name": "authors' formula, torch.compile", "note": why_not})
    return [first, second]


def _multiclass(images: int, classes: int, settings: Settings, kind: str = "random") -> list[dict[str, Any]]:
    scores, target = inputs.multiclass(settings.size(images, 2), classes, settings.size(512), kind)
    label = inputs.shape(scores) + ("" if kind == "random" else f", {kind} logits")
    fast = [contestants.cross_entropy(), contestants.softmax(), *contestants.with_cross_entropy()[:1]]
    return [table(label, fast, scores, target, settings, forward_only=[contestants.softmax()])]


def _binary(settings: Settings) -> list[dict[str, Any]]:
    scores, target = inputs.binary(settings.size(8, 2), settings.size(512, 96))
    fast = [
        contestants.binary_cross_entropy(),
        contestants.hinge(),
        contestants.hinge_per_image(),
        contestants.sigmoid(),
    ]
    label, slow = inputs.shape(scores), [contestants.authors_hinge()]
    first = table(label, fast, scores, target, settings)
    return [first, beside_slow(label, fast, slow, scores, target, settings)]


def _small(settings: Settings) -> list[dict[str, Any]]:
    scores, target = inputs.multiclass(2, 21, settings.size(64))
    fast = [contestants.cross_entropy(), contestants.softmax(), contestants.authors_softmax()]
    label = inputs.shape(scores)
    first = table(label, fast, scores, target, settings)
    return [first, beside_slow(label, fast, contestants.softmax_ways(), scores, target, settings)]


OTHERS: dict[str, Callable[[Settings], list[dict[str, Any]]]] = {
    "19 classes": lambda settings: _multiclass(4, 19, settings),
    "150 classes": lambda settings: _multiclass(1, 150, settings),
    "trained": lambda settings: _multiclass(4, 21, settings, "trained"),
    "untrained": lambda settings: _multiclass(4, 21, settings, "untrained"),
    "confident": lambda settings: _multiclass(4, 21, settings, "confident"),
    "binary": _binary,
    "small": _small,
}
MEASURED = OTHERS | {"main": _main} | dict.fromkeys(ALLOCATORS, lambda settings: _multiclass(4, 21, settings))


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    threads, rounds, quick = map(int, numbers)
    torch.set_num_threads(threads)
    print(json.dumps(MEASURED[name](Settings(threads, rounds, bool(quick)))))
