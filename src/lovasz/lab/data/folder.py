"""The data set `folder`: any directory of images and masks, paired by name. Here is how the files are found; what the
masks mean is found in classes.py."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lovasz.lab.data.classes import find_classes
from lovasz.lab.data.classes_file import Said, read_said
from lovasz.lab.data.dataset import Colour, DatasetInfo
from lovasz.lab.data.masks import IMAGE_SUFFIXES, MASK_SUFFIXES
from lovasz.lab.data.pairs import Pair, PairDataset
from lovasz.lab.data.splits import SPLIT_NAMES, find_list_files, random_split, read_list_files
from lovasz.lab.data.walk import files_below, require_utf8
from lovasz.lab.errors import LabError

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "JPEGImages")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "annotation", "SegmentationClass", "gt")
MASK_ENDINGS = ("_mask", "-mask", "_masks", "_label", "_labels", "_segmentation", "_seg", "_gt", "_L")
LIST_FOLDERS = (".", "splits", "ImageSets/Segmentation", "ImageSets")


@dataclass(frozen=True)
class Layout:
    """The pairs of each split, and in words how they were found."""

    splits: Mapping[str, tuple[Pair, ...]]
    explanation: str


def open_folder(
    root: Path,
    split: str,
    *,
    seed: int = 0,
    images: str | None = None,
    masks: str | None = None,
    classes: tuple[str, ...] | None = None,
    palette: tuple[Colour, ...] | None = None,
    values: tuple[int, ...] | None = None,
    void: tuple[int, ...] | None = None,
    void_colour: Colour | None = None,
    coding: str = "auto",
) -> PairDataset:
    """One split of the images below `root`; see `find_layout` for the files and `classes.find_classes` for the labels.

    seed: of the random split. images, masks: names of the two folders. classes: names in order; palette: their colours
    (for masks in colours, and for display); values: the mask value of each class; void, void_colour: mask values and
    colour to leave out; coding: "auto", "index" or "colour". What is not given is taken from classes.json, labelmap.txt
    or classes.txt in `root` (unless `classes` is given, which replaces the whole file), else found in the masks.
    Raises LabError naming the folder or file.
    """
    layout = find_layout(root, images=images, masks=masks, seed=seed)
    said = read_said(root) if classes is None else Said()
    _refuse_twins([pair for pairs in layout.splits.values() for pair in pairs])
    given = {"classes": classes, "palette": palette, "values": values, "void": void, "void_colour": void_colour}
    given = {name: value for name, value in given.items() if value is not None}
    if void is not None or void_colour is not None:
        said = replace(said, void=None, void_colour=None)  # which the file may say in the other form
        given |= {"void": void, "void_colour": void_colour}
    said = replace(said, by=coding, options=frozenset(given), **given)
    found = find_classes(said, [pair.mask for pairs in layout.splits.values() for pair in pairs], root)
    # Of masks of 0 and 7 the second class is no number that other weights could know as their class 1.
    numbered = found.coding.values[:1] != (0,) or len(found.coding.values) != 2 or found.coding.values[1] in (1, 255)
    info = DatasetInfo(
        root.resolve().name, found.coding.classes, found.palette, found=said.classes is None and numbered
    )
    description = f"{root}: {found.explanation}. {layout.explanation}."
    return PairDataset(info, split, layout.splits.get(split, ()), found.coding, description)


def find_layout(root: Path, *, images: str | None = None, masks: str | None = None, seed: int = 0) -> Layout:
    """Pairs images with masks and puts them into splits.

    Two folders below `root`, called as in IMAGE_FOLDERS and MASK_FOLDERS in any case, or such a pair in each of
    train/, val/ ...
    An image is paired with the mask at the same relative path, its ending aside, or with the one whose name goes on
    with one of MASK_ENDINGS; two of these are an error. Links to folders are followed.
    Splits come from list files (train.txt, ...; also in splits/ and ImageSets/Segmentation/), else from sub-folders
    train/, val/, test/ of both folders, else they are random. Images in no list are left out and
    counted; every other image needs a mask.
    """
    if not root.is_dir():
        what = "this is a file, not a folder" if root.exists() else "there is no such folder"
        raise LabError(f"{root}: {what}; expected one with images/ and masks/ in it.")
    by_split = _pre_split(root, images or "", masks or "")
    if by_split is not None:
        return by_split
    image_folder = _child(root, images, IMAGE_FOLDERS, IMAGE_SUFFIXES, "images")
    mask_folder = _child(root, masks, MASK_FOLDERS, MASK_SUFFIXES, "masks", besides=image_folder)
    for place in LIST_FOLDERS:
        lists = find_list_files(root / place)
        if lists:
            found = tree(image_folder, IMAGE_SUFFIXES)
            stems = read_list_files(lists, found, image_folder)
            where = f"from {', '.join(path.name for path in lists.values())}"
            return _paired(found, tree(mask_folder, MASK_SUFFIXES), stems, image_folder, mask_folder, where)
    folders = _split_folders(image_folder)
    if "train" in folders:
        mask_folders = _split_folders(mask_folder)
        missing = [folders[name] for name in folders if name not in mask_folders]
        if missing:
            raise LabError(f"{mask_folder}: no sub-folder {missing[0].name}, which {image_folder} has; add its masks.")
        where = f"from the sub-folders {', '.join(path.name for path in folders.values())}"
        return _joined({name: (folders[name], mask_folders[name]) for name in folders}, where)
    found = tree(image_folder, IMAGE_SUFFIXES)
    if len(found) < 2:
        count = "1 image" if found else "no image"
        raise LabError(f"{image_folder}: {count}; expected at least 2, one to train and one to validate.")
    where = f"split at random, 70/15/15 %, by the data seed {seed}"
    stems = random_split(found, seed)
    return _paired(found, tree(mask_folder, MASK_SUFFIXES), stems, image_folder, mask_folder, where)


def _pre_split(root: Path, images: str, masks: str) -> Layout | None:
    """The layout train/images, train/masks, val/images, ..."""
    folders = {}
    for name, folder in _split_folders(root).items():
        if (folder / images).is_dir() if images else _called(folder, IMAGE_FOLDERS):
            image_folder = _child(folder, images, IMAGE_FOLDERS, IMAGE_SUFFIXES, "images")
            mask_folder = _child(folder, masks, MASK_FOLDERS, MASK_SUFFIXES, "masks", besides=image_folder)
            folders[name] = image_folder, mask_folder
    if "train" not in folders:
        return None
    return _joined(folders, f"from the folders {', '.join(pair[0].parent.name for pair in folders.values())}")


def _child(
    root: Path,
    given: str | None,
    names: Sequence[str],
    suffixes: Sequence[str],
    what: str,
    besides: Path | None = None,
) -> Path:
    """The folder of images or of masks."""
    if given:
        if not (root / given).is_dir():
            raise LabError(f"{root / given}: there is no such folder ({what}={given}).")
        return root / given
    present = [path for path in _called(root, names) if path != besides]
    filled = [path for path in present if _holds_any(path, suffixes)]
    if len(filled) == 1:
        return filled[0]
    if filled:
        raise LabError(
            f"{root}: {' and '.join(path.name for path in filled)} may both be the {what}; say which with "
            f"{what}={filled[0].name}."
        )
    if present:
        raise LabError(f"{present[0]}: no {what} in this folder; expected files such as *{suffixes[0]}.")
    entries = sorted(path.name for path in root.iterdir() if path.is_dir())
    there = ", ".join(entries[:8]) or "no folder at all"
    raise LabError(
        f"{root}: no folder of {what}; expected one called {', '.join(names)}, found {there}. "
        f"Another name is given with {what}=NAME."
    )


def _called(root: Path, names: Sequence[str]) -> list[Path]:
    """The folders in `root` of these names, in any case, in the order of the names."""
    entries = sorted(path for path in root.iterdir() if path.is_dir())
    return [path for name in names for path in entries if path.name.lower() == name.lower()]


def _holds_any(folder: Path, suffixes: Sequence[str]) -> bool:
    return any(path.suffix.lower() in suffixes for path in files_below(folder))


def _split_folders(folder: Path) -> dict[str, Path]:
    entries = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    found = {}
    for split, names in SPLIT_NAMES.items():
        paths = [entries[name] for name in names if name in entries]
        if len(paths) > 1:
            raise LabError(f"{paths[0]} and {paths[1]}: two folders for the {split} images; keep one.")
        if paths:
            found[split] = paths[0]
    return found


def tree(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files by relative path without ending, sorted. Hidden ones are left out. Raises LabError for a stem with two,
    and for a name that is not UTF-8. Of the ways to write é, in one character or in two, the stem has the first:
    files that came from a Mac may have the other."""
    found: dict[str, Path] = {}
    for path in sorted(path for path in files_below(folder) if path.suffix.lower() in suffixes):
        stem = unicodedata.normalize("NFC", require_utf8(path).relative_to(folder).with_suffix("").as_posix())
        if stem in found:
            raise LabError(f"{found[stem]} and {path}: two files of one name; keep one.")
        found[stem] = path
    return dict(sorted(found.items()))


def _refuse_twins(pairs: Sequence[Pair]) -> None:
    """One image under two names, by a link, could be in two splits, where a network is tested on what it has seen."""
    seen: dict[Path, Path] = {}
    for pair in pairs:
        twin = seen.setdefault(pair.image.resolve(), pair.image)
        if twin != pair.image:
            raise LabError(f"{twin} and {pair.image}: one image under two names, by a link; keep one.")


def pair_up(
    images: Mapping[str, Path], masks: Mapping[str, Path], stems: Sequence[str], mask_folder: Path
) -> tuple[Pair, ...]:
    """The image and the mask of each stem. Raises LabError naming the first image that has no mask, or two."""
    pairs, alone = [], []
    for stem in stems:
        others = (stem + ending for ending in MASK_ENDINGS if stem + ending not in images)  # an image has its own mask
        fitting = [masks[name] for name in (stem, *others) if name in masks]
        if len(fitting) > 1:
            raise LabError(f"{images[stem]}: two masks, {fitting[0]} and {fitting[1]}; keep one.")
        if fitting:
            pairs.append(Pair(stem, images[stem], fitting[0]))
        else:
            alone.append(stem)
    if alone:
        more = f" (and {len(alone) - 1} more images like it)" if len(alone) > 1 else ""
        raise LabError(
            f"{images[alone[0]]}: an image without a mask{more}; expected {mask_folder / alone[0]}.png. Add the mask, "
            "or list the images to use in train.txt, val.txt and test.txt."
        )
    return tuple(pairs)


def _paired(
    images: Mapping[str, Path],
    masks: Mapping[str, Path],
    stems: Mapping[str, Sequence[str]],
    image_folder: Path,
    mask_folder: Path,
    where: str,
) -> Layout:
    splits = {name: pair_up(images, masks, members, mask_folder) for name, members in stems.items()}
    used = sum(map(len, splits.values()))
    if not used:
        raise LabError(f"{image_folder}: no images are listed for any split.")
    words = f"{sizes(splits)} images, {where}"
    if used < len(images):
        unlisted = len(images) - used
        words += f"; {unlisted} {'image is' if unlisted == 1 else 'images are'} in no list"
    if len(masks) > len(images):
        spare = len(masks) - len(images)
        words += f"; {spare} {'mask has' if spare == 1 else 'masks have'} no image"
    return Layout(splits, words)


def _joined(folders: Mapping[str, tuple[Path, Path]], where: str) -> Layout:
    """Splits that have folders of their own."""
    splits = {}
    for name, (image_folder, mask_folder) in folders.items():
        images = tree(image_folder, IMAGE_SUFFIXES)
        if not images:
            raise LabError(f"{image_folder}: no images in this folder; expected files such as *{IMAGE_SUFFIXES[0]}.")
        splits[name] = pair_up(images, tree(mask_folder, MASK_SUFFIXES), list(images), mask_folder)
    return Layout(splits, f"{sizes(splits)} images, {where}")


def sizes(splits: Mapping[str, Sequence[object]]) -> str:
    """ "120 train / 26 val"."""
    return " / ".join(f"{len(members)} {name}" for name, members in splits.items())
