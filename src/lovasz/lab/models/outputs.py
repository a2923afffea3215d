"""Which output of a weights file stands for which class, by name. Apart from `weights.py`, which reads the file: these
rules need its JSON alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lovasz.lab.errors import LabError

VOID_NAMES = frozenset({"unlabelled", "unlabeled", "void", "ignore"})


def json_path(path: Path) -> Path:
    """Where the description of a weights file lies."""
    return path.with_suffix(".json")


def predicting_outputs(description: Mapping[str, Any]) -> list[int]:
    """The outputs that predict: of a published file all but those named unlabelled or void; of one that `save_weights`
    wrote all, as each was trained."""
    names = description["classes"]
    if "model_name" in description:  # no published file has it
        return list(range(len(names)))
    return [i for i, name in enumerate(names) if _plain(name) not in VOID_NAMES]


def match_classes(
    path: Path, num_outputs: int, description: Mapping[str, Any] | None, classes: Sequence[str]
) -> list[int | None]:
    """For each class the number of the output that stands for it, None where there is none.

    Raises LabError where that is unclear: without a JSON for another number of classes, and for names that may be one
    of several outputs.
    """
    if not classes:
        raise LabError(f"{path}: no classes to predict; name at least one.")
    if description is None:
        if num_outputs != len(classes):
            raise LabError(
                f"{path}: {num_outputs} outputs for {len(classes)} classes ({', '.join(classes)}), and no "
                f"{json_path(path).name} beside it that says which is which; put it there."
            )
        return list(range(num_outputs))
    names = description["classes"]
    if len(names) != num_outputs:
        raise LabError(
            f'{json_path(path)}: "classes" names {len(names)} outputs, but {path.name} has {num_outputs}; '
            "the two files do not belong together."
        )
    if list(classes) == names:
        return list(range(num_outputs))
    found = {name: [i for i, output in enumerate(names) if _plain(output) == _plain(name)] for name in classes}
    found |= {name: [names.index(name)] for name in classes if names.count(name) == 1}  # the very name comes first
    unclear = [name for name in classes if len(found[name]) > 1]
    if unclear:
        raise LabError(f"{json_path(path)}: {unclear[0]!r} may be one of several outputs; give each its own name.")
    return [found[name][0] if found[name] else None for name in classes]


def refuse_absent(
    path: Path, description: Mapping[str, Any] | None, classes: Sequence[str], channels: Sequence[int | None]
) -> None:
    """Raise LabError naming the classes for which `match_classes` found no output."""
    absent = [name for name, channel in zip(classes, channels, strict=True) if channel is None]
    if absent and description is not None:
        raise LabError(
            f"{path}: no output for {len(absent)} of the {len(classes)} classes of the data: {', '.join(absent)}. The "
            f"file has: {', '.join(description['classes'])}. Give weights for these classes, or, where it only "
            f'calls them by other names, rename the "classes" in {json_path(path).name}; training from these weights '
            "(train, compare) draws the missing outputs anew."
        )


def pick_outputs(held: Tensor, drawn: Tensor, dimension: int, channels: Sequence[int | None]) -> Tensor:
    """Along `dimension` the slices of `held` that `channels` number, and those of `drawn` at the place of a None."""
    slices = [
        drawn.select(dimension, place) if channel is None else held.select(dimension, channel).to(drawn.dtype)
        for place, channel in enumerate(channels)
    ]
    return torch.stack(slices, dimension)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
