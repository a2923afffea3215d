"""The pass over all files before anything is trained: it refuses those that cannot be used, and notes for config.json
and the report what a reader of the scores must know of the others. `cautions` has the words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from lovasz.lab.cautions import WORDS, cautions
from lovasz.lab.data import SegmentationDataset
from lovasz.lab.data.check import check_files
from lovasz.lab.progress import say
from lovasz.lab.run_folder import check_folder
from lovasz.lab.seen import copies_of_training


def examine(
    splits: Sequence[SegmentationDataset],
    folder: Path,
    known: dict[str, Any],
    *,
    resume: bool,
    workers: int,
    progress: Progress | None,
) -> None:
    """Raise LabError for a file that cannot be used; say the cautions, and put what was found into known["found"].

    known: what `claimed` will be told of the folder. The files that an unfinished run began with have been read.
    """
    before, same = check_folder(folder, known, resume=resume)
    begun = resume and same and before is not None and "data" in before
    found = before.get("found") if begun and before is not None else None
    if found is None or not _sound(found):
        held, classes = check_files(splits, progress, workers=workers), splits[0].info.classes
        absent = {
            split: [name for label, name in enumerate(classes) if label not in labels] for split, labels in held.items()
        }
        found = {
            "absent": {split: names for split, names in absent.items() if names},
            "copies": copies_of_training(splits),
        }
    known["found"] = found
    images = {split.split: len(split) for split in splits}
    for caution in cautions(splits[0].info.classes, images, found["absent"], found["copies"]):
        say(progress, f"Note: {caution}")


def _sound(found: Any) -> bool:
    """Whether it is what this module wrote; earlier versions wrote nothing, and a person may have edited it."""
    if not isinstance(found, dict) or any(not isinstance(found.get(key), dict) for key in ("absent", "copies")):
        return False
    if not {*found["absent"], *found["copies"]} <= WORDS.keys():
        return False
    lists = all(isinstance(names, list) for names in found["absent"].values())
    keys = {"count", "image", "trained"}
    return lists and all(isinstance(copy, dict) and copy.keys() >= keys for copy in found["copies"].values())
