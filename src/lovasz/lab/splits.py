"""The splits of a data set that a run opens, what its sampler must know of them, and what a resumed run finds again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from lovasz.lab.config import RunConfig
from lovasz.lab.data import (
    IGNORE_INDEX,
    Augmentation,
    SegmentationDataset,
    TrainingView,
    available_splits,
    open_dataset,
)
from lovasz.lab.data.pairs import PairDataset
from lovasz.lab.data.resized import CACHE, Resized
from lovasz.lab.errors import LabError
from lovasz.lab.processes import ALONE, Team
from lovasz.lab.progress import bar
from lovasz.sampling import image_classes


@dataclass(frozen=True)
class Data:
    """The splits of one data set; test is None where there is none.

    image_classes: the classes of each training image, where the sampler needs them.
    """

    train: SegmentationDataset
    val: SegmentationDataset
    test: SegmentationDataset | None
    image_classes: Sequence[Sequence[int]] | None = None

    @classmethod
    def open(cls, config: RunConfig) -> Data:
        """Opens what `config.data` names. Raises LabError."""
        options = dict(config.data_options)
        splits = available_splits(config.data, seed=config.data_seed, **options)
        missing = {"train", "val"} - set(splits)
        if missing:
            raise LabError(f"data {config.data!r}: no {sorted(missing)[0]} split; it has {', '.join(splits)}.")

        def split(name: str) -> SegmentationDataset:
            dataset = open_dataset(config.data, name, seed=config.data_seed, **options)
            if not len(dataset):
                raise LabError(f"data {config.data!r}: the {name} split has no images.")
            return dataset

        return cls(split("train"), split("val"), split("test") if "test" in splits else None)

    def for_sampler(self, config: RunConfig, folder: Path, progress: Progress | None, team: Team = ALONE) -> Data:
        """With the classes of each image, read once and kept in FOLDER/image_classes.json, where equibatch is asked."""
        if config.sampler != "equibatch":
            return self
        key = json.dumps([config.data, config.data_seed, dict(config.data_options)], default=str)
        found = held_classes(self.train, folder / "image_classes.json" if team.first else None, key, progress)
        if not any(found):
            raise LabError(
                f"data {config.data!r}: every training pixel is void, so no image has a class to cycle over."
            )
        return replace(self, image_classes=found)

    def training_view(self, config: RunConfig) -> TrainingView:
        """The training images as a run sees them: resized where that is asked, then changed at random."""
        images = self.train
        if config.resize_training:
            # Workers start anew with every epoch, so what one of them kept would be lost.
            images = Resized(images, config.size, cache=0 if config.num_workers else CACHE)
        augmentation = Augmentation(config.crop, config.scale, config.flip, config.color_jitter)
        return TrainingView(images, augmentation, config.seed)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names."""
        return self.train.info.classes

    @property
    def splits(self) -> list[SegmentationDataset]:
        """Those that are there, in the order train, val, test."""
        return [split for split in (self.train, self.val, self.test) if split is not None]

    def contents(self) -> dict[str, Any]:
        """For config.json: see `contents_of`."""
        return contents_of(self.splits)


def contents_of(splits: Sequence[SegmentationDataset]) -> dict[str, Any]:
    """The class names, and of each split the number of images and hashes of their names, of their files' sizes and of
    what mask values mean."""
    return {
        "classes": list(splits[0].info.classes),
        "splits": {split.split: {"images": len(split), **_hashes(split)} for split in splits},
    }


_CHANGED = {  # by the hash that differs
    "names": ", of other names or in another order",
    "coding": ", whose mask values or colours mean other classes or void",
    "sizes": ", in files of other sizes",
}


def contents_difference(
    before: Mapping[str, Any], now: Mapping[str, Any], repaired: Collection[str] = ()
) -> str | None:
    """The first difference between two `contents_of`, in words; None where there is none.

    repaired: splits whose files may be of other sizes. Hashes that only one of them has are not compared: earlier
    versions had no sizes, or no coding.
    """
    if before["classes"] != now["classes"]:
        return f"classes: {before['classes']} there, {now['classes']} now"
    for name in ("train", "val", "test"):
        old, new = before["splits"].get(name), now["splits"].get(name)
        compared = ((old or {}).keys() & (new or {})) - ({"sizes"} if name in repaired else set())
        if bool(old) != bool(new) or any(old[key] != new[key] for key in compared):
            counts = old["images"] if old else 0, new["images"] if new else 0
            changed = [_CHANGED[key] for key in _CHANGED if key in compared and old[key] != new[key]]
            others = changed[0] if changed and counts[0] == counts[1] else ""
            return f"split {name!r}: {counts[0]} images there, {counts[1]} now{others}"
    return None


def held_classes(
    dataset: SegmentationDataset, cache: Path | None, key: str, progress: Progress | None = None
) -> list[list[int]]:
    """The classes of each image, read once and kept in `cache`. Raises LabError for a damaged one, naming it."""
    with bar(len(dataset), f"reading the classes of {dataset.split}", progress) as read:
        try:
            return image_classes(
                dataset,
                lambda sample: sample.mask,
                ignore_index=IGNORE_INDEX,
                progress=lambda *_: read.advance(),  # it is called after each image
                cache=cache,
                key=key,
            )
        except ValueError as error:
            raise LabError(str(error)) from error


def _hashes(dataset: SegmentationDataset) -> dict[str, str]:
    """Of images in files; those that are drawn follow from the settings, which are compared anyway."""
    pairs = dataset.pairs if isinstance(dataset, PairDataset) else ()
    names = "\n".join(pair.stem for pair in pairs)
    sizes = "\n".join(f"{pair.image.stat().st_size} {pair.mask.stat().st_size}" for pair in pairs)
    found = {"names": names, "sizes": sizes}
    if isinstance(dataset, PairDataset):
        coding = dataset.coding
        meaning = [coding.values, sorted(coding.void), coding.colours, coding.void_colour, coding.by]
        found["coding"] = json.dumps(meaning)
    return {  # a file's name may be no text
        key: hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16] for key, text in found.items()
    }
