"""Data sets by name: images with masks, and what training does to them.

`open_dataset` gives one split; samples are always uint8 RGB images and uint8 masks with void as IGNORE_INDEX, whatever
the files hold. `TrainingView` adds random scaling, cropping and flipping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lovasz.lab.data.ade20k import ade20k_splits, open_ade20k
from lovasz.lab.data.camvid import camvid_splits, open_camvid
from lovasz.lab.data.cityscapes import cityscapes_splits, open_cityscapes
from lovasz.lab.data.dataset import IGNORE_INDEX, DatasetInfo, Sample, SegmentationDataset
from lovasz.lab.data.folder import find_layout, open_folder
from lovasz.lab.data.shapes import open_shapes, shapes_splits
from lovasz.lab.data.spec import parse_spec
from lovasz.lab.data.splits import SPLIT_NAMES
from lovasz.lab.data.transforms import Augmentation, TrainingView
from lovasz.lab.data.voc import open_voc, voc_splits
from lovasz.lab.errors import LabError

__all__ = [
    "IGNORE_INDEX",
    "PUBLISHED",
    "Augmentation",
    "DatasetInfo",
    "Sample",
    "SegmentationDataset",
    "TrainingView",
    "available_splits",
    "open_dataset",
]


# Published data sets by name: how one split is opened, and which splits the folder has.
PUBLISHED: dict[str, tuple[Callable[..., SegmentationDataset], Callable[..., Mapping[str, object]]]] = {
    "camvid": (open_camvid, camvid_splits),
    "voc": (open_voc, voc_splits),
    "cityscapes": (open_cityscapes, cityscapes_splits),
    "ade20k": (open_ade20k, ade20k_splits),
}


def open_dataset(spec: str, split: str, *, seed: int = 0, **options: Any) -> SegmentationDataset:
    """One split ("train", "val" or "test", or their other usual names) of the data set that `spec` names.

    spec: "shapes", "camvid:PATH", "voc:PATH", "cityscapes:PATH", "ade20k:PATH" or "folder:PATH", each with options
    after a question mark or as keywords:
    shapes: size (pixels a side), train, val, test (numbers of images).
    voc: sbd (folder of extra training masks, see `lovasz.lab.data.voc`).
    folder: images, masks (names of the two folders), classes (names), palette (#rrggbb, ...), values (mask value of
    each class), void (mask values, a colour, or "none"), coding ("index" or "colour"); see `lovasz.lab.data.folder`.
    seed: of the pictures of shapes, and of a random split of a folder; it is part of what the data are, so runs that
    are to be compared share it.
    Raises LabError for an unknown name, option or split, and for files that are missing or unusable, naming them.
    """
    split = next((own for own, names in SPLIT_NAMES.items() if split in names), split)
    present = available_splits(spec, seed=seed, **options)
    if split not in present:
        raise LabError(f"data {spec!r}: there is no split {split!r}; it has {', '.join(present)}.")
    name, path, typed = parse_spec(spec, options)
    if name == "shapes":
        return open_shapes(split, seed=seed, **typed)
    if name in PUBLISHED:
        return PUBLISHED[name][0](path or Path(), split, **typed)
    return open_folder(path or Path(), split, seed=seed, **typed)


def available_splits(spec: str, *, seed: int = 0, **options: Any) -> tuple[str, ...]:
    """The splits that a data set has, in the order train, val, test. Raises LabError as `open_dataset` does."""
    if not isinstance(seed, int) or seed < 0:
        raise LabError(f"data seed: got {seed!r}, expected a whole number of at least 0.")
    name, path, typed = parse_spec(spec, options)
    if name == "shapes":
        return shapes_splits(**typed)
    if name in PUBLISHED:
        return tuple(PUBLISHED[name][1](path or Path(), **typed))
    layout = find_layout(path or Path(), images=typed.get("images"), masks=typed.get("masks"), seed=seed)
    return tuple(split for split, pairs in layout.splits.items() if pairs)
