"""Which images a network has been trained on: short hashes of their files, in the JSON beside its weights, so that a
score on them is not taken for one on new images. Apart from training, which writes them."""

from __future__ import annotations

import filecmp
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lovasz.lab.config import RunConfig
from lovasz.lab.data import SegmentationDataset
from lovasz.lab.data.pairs import Pair, PairDataset
from lovasz.lab.models import describe_weights
from lovasz.lab.models.outputs import json_path

PART = 4096  # bytes read at the beginning, the middle and the end of a file: whole photographs would take minutes
DIGITS = 8  # of a hash: two of 20,000 and 2,000 different files agree once in a hundred such pairs of data sets


def training_images(dataset: SegmentationDataset, config: RunConfig) -> dict[str, Any]:
    """For the JSON: the seed of a random split, and a hash of each training image, those of the start among them.

    Drawn images have none.
    """
    seen = set(_hashes(dataset)) | (_known(Path(config.weights)) if config.weights else set())
    return {"data_seed": config.data_seed, "images": " ".join(sorted(seen))}


def seen_in_training(weights: Path, dataset: SegmentationDataset) -> int:
    """How many images of a data set the weights were trained on, as far as their JSON knows."""
    known = _known(weights)
    return sum(name in known for name in _hashes(dataset)) if known else 0


def copies_of_training(splits: Sequence[SegmentationDataset]) -> dict[str, dict[str, Any]]:
    """Of each split but that of training: how many images are copies of a training image, and the first with it."""
    train = next((split for split in splits if split.split == "train"), None)
    if not isinstance(train, PairDataset):
        return {}
    known: dict[str, list[Pair]] = {}
    for name, pair in zip(_hashes(train), train.pairs, strict=True):
        known.setdefault(name, []).append(pair)
    found: dict[str, dict[str, Any]] = {}
    for split in splits:
        if split is train or not isinstance(split, PairDataset):
            continue
        for name, pair in zip(_hashes(split), split.pairs, strict=True):
            # Part of a file was hashed, to few digits: a warning must be right.
            same = (one for one in known.get(name, ()) if filecmp.cmp(one.image, pair.image, shallow=False))
            twin = next(same, None)
            if twin is not None:
                found.setdefault(split.split, {"count": 0, "image": pair.stem, "trained": twin.stem})["count"] += 1
    return found


def _known(weights: Path) -> set[str]:
    training = describe_weights(weights).get("training") if json_path(weights).is_file() else None
    images = training.get("images") if isinstance(training, dict) else None  # published files say what they like
    return set(images.split()) if isinstance(images, str) else set()


def _hashes(dataset: SegmentationDataset) -> list[str]:
    """Of the content and not of the name: many data sets number the images of each split anew."""
    return [_hash(pair.image) for pair in dataset.pairs] if isinstance(dataset, PairDataset) else []


def _hash(path: Path) -> str:
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for place in (0, size // 2, max(0, size - PART)):
            file.seek(place)
            found.update(file.read(PART))
    return found.hexdigest()[:DIGITS]
