"""Pascal VOC 2012 segmentation in its official layout, alone or with the extra training masks of SBD (Hariharan et al.
2011), as the files of its release (.mat) or as the PNG files that are passed around as SegmentationClassAug."""

from __future__ import annotations

from pathlib import Path

from lovasz.lab.data.colours import voc_palette
from lovasz.lab.data.dataset import DatasetInfo
from lovasz.lab.data.folder import pair_up, sizes, tree
from lovasz.lab.data.labels import LabelCoding
from lovasz.lab.data.masks import IMAGE_SUFFIXES, MASK_SUFFIXES
from lovasz.lab.data.pairs import Pair, PairDataset
from lovasz.lab.data.splits import read_list_files
from lovasz.lab.errors import LabError

VOC_INFO = DatasetInfo(
    name="voc",
    classes=(
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    ),
    palette=voc_palette(21),
)  # fmt: skip
VOID = 255  # "void": the boundary of objects, and difficult ones
CODING = LabelCoding(VOC_INFO.classes, tuple(range(21)), (VOID,), by="index")
PLACES = (".", "VOC2012", "VOCdevkit/VOC2012")
SPLITS = ("train", "val")  # the masks of test are not public

EXPECTED = (
    "expected\n"
    "  VOC2012/JPEGImages/*.jpg\n"
    "  VOC2012/SegmentationClass/*.png\n"
    "  VOC2012/ImageSets/Segmentation/train.txt, val.txt\n"
    "They are VOCtrainval_11-May-2012.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
)
EXPECTED_SBD = (
    "expected either the release's dataset/ with cls/*.mat and img/*.jpg (benchmark.tgz of "
    "http://home.bharathh.info/pubs/codes/SBD/download.html), or a folder of PNG masks such as SegmentationClassAug, "
    "whose images are VOC's own JPEGImages"
)


def open_voc(root: Path, split: str, *, sbd: str | None = None) -> PairDataset:
    """One split; masks are palette PNG files, index = class 0..20, 255 = void. Raises LabError naming folder or file.

    sbd: a folder of SBD's masks, by its path or its name in `root`, in VOC2012 or beside it; they are added to train,
    see `voc_splits`.
    """
    splits = voc_splits(root, sbd=sbd)
    extra = f", with the extra training masks of {sbd}" if sbd else ""
    words = f"{root}: Pascal VOC 2012, {VOC_INFO.num_classes} classes; void {VOID}. {sizes(splits)} images{extra}."
    return PairDataset(VOC_INFO, split, splits.get(split, ()), CODING, words)


def voc_splits(root: Path, *, sbd: str | None = None) -> dict[str, tuple[Pair, ...]]:
    """The pairs of train and val, in the order of the official lists.

    With `sbd`, every image that has a mask there follows in train, unless it is listed in train, whose own mask is the
    finer one, or in val, which would be tested on what it was trained on. With the full data that gives the 10,582
    images known as "train_aug".
    """
    home = next((root / place for place in PLACES if (root / place / "ImageSets/Segmentation").is_dir()), None)
    if home is None:
        raise LabError(f"{root}: no Pascal VOC here; {EXPECTED}.")
    image_folder, mask_folder = home / "JPEGImages", home / "SegmentationClass"
    for folder in (image_folder, mask_folder):
        if not folder.is_dir():
            raise LabError(f"{folder}: there is no such folder; {EXPECTED}.")
    lists = {name: home / "ImageSets/Segmentation" / f"{name}.txt" for name in SPLITS}
    for path in lists.values():
        if not path.is_file():
            raise LabError(f"{path}: there is no such list of images; {EXPECTED}.")
    images = tree(image_folder, IMAGE_SUFFIXES)
    stems = read_list_files(lists, images, image_folder)
    masks = tree(mask_folder, MASK_SUFFIXES)
    splits = {name: pair_up(images, masks, stems[name], mask_folder) for name in SPLITS}
    if sbd is not None:
        listed = {stem for members in stems.values() for stem in members}
        splits["train"] += tuple(pair for pair in _sbd_pairs(root, home, sbd, images) if pair.stem not in listed)
    return splits


def _sbd_pairs(root: Path, home: Path, sbd: str, images: dict[str, Path]) -> tuple[Pair, ...]:
    given = Path(sbd).expanduser()
    # Beside VOC2012 is where VOCaug and SegmentationClassAug often are.
    places = dict.fromkeys((home / given, root / given, home.absolute().parent / given, given))
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        looked = ", ".join(map(str, places))
        raise LabError(f"sbd={sbd}: there is no such folder (looked for as {looked}); {EXPECTED_SBD}.")
    release = next((folder / place for place in (".", "dataset") if (folder / place / "cls").is_dir()), None)
    if release is None:
        masks = tree(folder, MASK_SUFFIXES)
    else:
        masks = tree(release / "cls", (".mat",))
        if (release / "img").is_dir():
            images = tree(release / "img", IMAGE_SUFFIXES) | images
    if not masks:
        raise LabError(f"{release or folder}: no masks in this folder (sbd={sbd}); {EXPECTED_SBD}.")
    missing = [stem for stem in masks if stem not in images]
    if missing:
        raise LabError(
            f"{masks[missing[0]]}: a mask without an image (and {len(missing) - 1} more like it); expected "
            f"{missing[0]}.jpg in {home / 'JPEGImages'} or in img/ beside cls/."
        )
    return tuple(Pair(stem, images[stem], mask) for stem, mask in masks.items())
