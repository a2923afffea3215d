"""Which image belongs to train, val and test: list files of stems, or a random split that a seed repeats.

Apart from the folders, because several layouts share the list files and none cares how they are written.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Collection, Mapping
from pathlib import Path

from lovasz.lab.data.dataset import SPLITS
from lovasz.lab.data.masks import IMAGE_SUFFIXES
from lovasz.lab.errors import LabError

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
RANDOM_SHARES = {"val": 0.15, "test": 0.15}  # the rest is train


def find_list_files(folder: Path) -> dict[str, Path]:
    """The list files train.txt, val.txt, test.txt (or their other usual names) of a folder, if any.

    Raises LabError for two lists of one split, and for lists without that of the training images: a random split
    beside them would train on images that they hold back.
    """
    found: dict[str, Path] = {}
    for split, names in SPLIT_NAMES.items():
        paths = [path for name in names if (path := folder / f"{name}.txt").is_file()]
        if len(paths) > 1:
            raise LabError(f"{paths[0]} and {paths[1]}: two lists of the {split} images; keep one.")
        if paths:
            found[split] = paths[0]
    if found and "train" not in found:
        some = " and ".join(str(path) for path in found.values())
        raise LabError(f"{some}: there, but no {folder / 'train.txt'}. List the training images too, or remove them.")
    return found


def read_list_files(files: Mapping[str, Path], stems: Collection[str], images: Path) -> dict[str, list[str]]:
    """The stems of each list, in its order.

    A line is a stem, a file name or a path, whose ending is left out; a name without folders may stand for the only
    image of this name, and a path may have more or fewer folders in front than the image has below `images`. Where a
    second column names the mask the first counts. Empty lines are passed over. Raises LabError, naming file and line,
    for an image that is not there or that is listed twice, in one list or in two, since a network tested on its
    training images would look better than it is; and for a list of no image.
    """
    known = set(stems)
    by_name: dict[str, list[str]] = {}
    for stem in stems:
        by_name.setdefault(stem.rsplit("/", 1)[-1], []).append(stem)
    place: dict[str, str] = {}
    split: dict[str, list[str]] = {}
    for name, path in files.items():
        split[name] = []
        for number, line in enumerate(_lines(path), 1):
            if not line.strip():
                continue
            stem = _find(unicodedata.normalize("NFC", line.strip()), known, by_name)
            if stem is None:
                raise LabError(f"{path}, line {number}: {line.strip()!r}, but {images} has no image of this name.")
            here = f"{path}, line {number}"
            if stem in place:
                raise LabError(f"{here}: the image {stem!r} is already listed in {place[stem]}; remove one of the two.")
            place[stem] = here
            split[name].append(stem)
        if not split[name]:
            raise LabError(f"{path}: lists no image. Name the {name} images in it, or remove the file.")
    return split


def random_split(stems: Collection[str], seed: int) -> dict[str, list[str]]:
    """70 % train, 15 % val, 15 % test, at least one each (two images: no test), a function of (seed, stems) alone.

    Stems are ordered by a hash of seed and stem, so neither the order of the files nor the machine matters.
    """
    order = sorted(stems, key=lambda stem: hashlib.sha256(f"{seed}/{stem}".encode()).digest())
    val = max(1, round(RANDOM_SHARES["val"] * len(order)))
    test = max(1, round(RANDOM_SHARES["test"] * len(order))) if len(order) > 2 else 0
    parts = {"train": order[val + test :], "val": order[:val], "test": order[val : val + test]}
    return {name: sorted(parts[name]) for name in SPLITS if parts[name]}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(
            f"{path}: the list of images cannot be read ({error}); expected text, one stem a line."
        ) from error


def _find(line: str, known: set[str], by_name: Mapping[str, list[str]]) -> str | None:
    """The image that a line means; a list from Windows may have its own kind of slash."""
    found = _found(line, known, by_name)
    return _found(line.replace("\\", "/"), known, by_name) if found is None and "\\" in line else found


def _found(line: str, known: set[str], by_name: Mapping[str, list[str]]) -> str | None:
    words = line.split("\t") if "\t" in line else line.split()
    columns = len(words) > 1 and (_without_ending(words[0]) != words[0] or _name(words[1]).startswith(_name(words[0])))
    if _without_ending(line) in known:
        return _without_ending(line)
    stem = _without_ending(words[0] if columns else line).removeprefix("./")
    if stem in known:
        return stem
    same_name = by_name.get(_name(stem), [])
    longer = [one for one in same_name if one.endswith(f"/{stem}")]
    shorter = [one for one in same_name if f"/{stem}".endswith(f"/{one}")]
    if shorter and not longer:
        return max(shorter, key=len)  # of a/x and x, the path .../a/x means the first
    return longer[0] if len(longer) == 1 and not shorter else None


def _name(text: str) -> str:
    """The last part of a path, without ending."""
    return _without_ending(text).rsplit("/", 1)[-1]


def _without_ending(text: str) -> str:
    path, dot, ending = text.rpartition(".")
    return path if dot and f".{ending.lower()}" in IMAGE_SUFFIXES else text
