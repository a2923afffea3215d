"""Cityscapes, fine labels, in its official layout: 19 classes, 2,975 train and 500 val frames of 2048 x 1024."""

from __future__ import annotations

from pathlib import Path

from lovasz.lab.data.dataset import DatasetInfo
from lovasz.lab.data.folder import sizes, tree
from lovasz.lab.data.labels import LabelCoding
from lovasz.lab.data.masks import IMAGE_SUFFIXES
from lovasz.lab.data.pairs import Pair, PairDataset
from lovasz.lab.errors import LabError

# Names, ids and colours of cityscapesScripts (helpers/labels.py) for the train ids 0..18.
CITYSCAPES_INFO = DatasetInfo(
    name="cityscapes",
    classes=(
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ),
    palette=(
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
        (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0),
        (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
)  # fmt: skip
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of the train ids 0..18
VOID_IDS = tuple(label for label in range(34) if label not in LABEL_IDS)
CODINGS = {  # by the ending of the mask's name; the licence plate's id, -1, is 255 in a byte
    "_gtFine_labelIds": LabelCoding(CITYSCAPES_INFO.classes, LABEL_IDS, (*VOID_IDS, 255), by="index"),
    "_gtFine_labelTrainIds": LabelCoding(CITYSCAPES_INFO.classes, tuple(range(19)), (255,), by="index"),
}
PLACES = (".", "cityscapes", "Cityscapes")
SPLITS = ("train", "val")  # the masks of test are withheld: its label files are all void

EXPECTED = (
    "expected\n"
    "  leftImg8bit/train/CITY/*_leftImg8bit.png, the same for val\n"
    "  gtFine/train/CITY/*_gtFine_labelIds.png, the same for val\n"
    "They are leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of "
    "https://www.cityscapes-dataset.com/downloads/ (after registration)"
)


def open_cityscapes(root: Path, split: str) -> PairDataset:
    """One split; masks hold label ids (or, where only those are there, train ids). Raises LabError naming the file."""
    splits, ending = _find(root)
    kind = "label ids" if ending == "_gtFine_labelIds" else "train ids"
    words = f"{root}: Cityscapes, {CITYSCAPES_INFO.num_classes} classes from {kind}; all other ids are void. "
    return PairDataset(
        CITYSCAPES_INFO, split, splits.get(split, ()), CODINGS[ending], words + f"{sizes(splits)} images."
    )


def cityscapes_splits(root: Path) -> dict[str, tuple[Pair, ...]]:
    """The pairs of train and val, sorted by city and frame."""
    return _find(root)[0]


def _find(root: Path) -> tuple[dict[str, tuple[Pair, ...]], str]:
    """The splits, and which of the two codings their masks have."""
    root = next((root / place for place in PLACES if (root / place / "leftImg8bit").is_dir()), root)
    for folder in (root / "leftImg8bit", root / "gtFine"):
        if not folder.is_dir():
            raise LabError(f"{folder}: there is no such folder, so no Cityscapes here; {EXPECTED}.")
    names = [name for name in SPLITS if (root / "leftImg8bit" / name).is_dir()]
    images = {name: tree(root / "leftImg8bit" / name, IMAGE_SUFFIXES) for name in names}
    if not any(images.values()):
        raise LabError(f"{root / 'leftImg8bit'}: no images of train or val; {EXPECTED}.")
    masks = {name: _masks(root / "gtFine" / name) for name in names}
    ending = next(
        (ending for ending in CODINGS if any(key[1] == ending for found in masks.values() for key in found)), ""
    )
    if not ending:
        raise LabError(f"{root / 'gtFine'}: no *_gtFine_labelIds.png below; {EXPECTED}.")
    splits = {}
    for name in names:
        pairs = []
        for stem, image in images[name].items():
            frame = stem.removesuffix("_leftImg8bit")
            mask = masks[name].get((frame, ending))
            if mask is None:
                wanted = root / "gtFine" / name / f"{frame}{ending}.png"
                raise LabError(f"{image}: an image without a mask; expected {wanted}.")
            pairs.append(Pair(frame, image, mask))
        if pairs:
            splits[name] = tuple(pairs)
    return splits, ending


def _masks(folder: Path) -> dict[tuple[str, str], Path]:
    """Masks by city/frame and ending; the folder's other files (colours, instances, polygons) are passed over."""
    found = {}
    for stem, path in tree(folder, (".png",)).items():
        for ending in CODINGS:
            if stem.endswith(ending):
                found[stem.removesuffix(ending), ending] = path
    return found
