"""ADE20K's scene parsing benchmark in its official layout: 150 classes, 20,210 training and 2,000 validation images."""

from __future__ import annotations

from pathlib import Path

from lovasz.lab.data.colours import voc_palette
from lovasz.lab.data.dataset import DatasetInfo
from lovasz.lab.data.folder import pair_up, sizes, tree
from lovasz.lab.data.labels import LabelCoding
from lovasz.lab.data.masks import IMAGE_SUFFIXES, MASK_SUFFIXES
from lovasz.lab.data.pairs import Pair, PairDataset
from lovasz.lab.errors import LabError

CLASSES = 150
VOID = 0  # "other objects"; the classes are 1..150 in the masks
FOLDERS = {"train": "training", "val": "validation"}  # the masks of test are withheld
PLACES = (".", "ADEChallengeData2016")
NAMES = "objectInfo150.txt"
LARGEST_LIST = 2**20  # bytes

EXPECTED = (
    "expected\n"
    "  ADEChallengeData2016/images/training/*.jpg, the same for validation\n"
    "  ADEChallengeData2016/annotations/training/*.png, the same for validation\n"
    f"  ADEChallengeData2016/{NAMES}\n"
    "They are ADEChallengeData2016.zip of http://sceneparsing.csail.mit.edu"
)


def open_ade20k(root: Path, split: str) -> PairDataset:
    """One split; masks are grey, value = class 1..150, 0 = void. Raises LabError naming the folder or file."""
    home = _home(root)
    names = read_names(home / NAMES)
    info = DatasetInfo("ade20k", names, voc_palette(CLASSES + 1)[1:])
    coding = LabelCoding(names, tuple(range(1, CLASSES + 1)), (VOID,), by="index")
    splits = ade20k_splits(root)
    words = f"{root}: ADE20K scene parsing, {CLASSES} classes; void {VOID}. {sizes(splits)} images."
    return PairDataset(info, split, splits.get(split, ()), coding, words)


def ade20k_splits(root: Path) -> dict[str, tuple[Pair, ...]]:
    """The pairs of train and val, sorted by name."""
    home, splits = _home(root), {}
    for split, name in FOLDERS.items():
        image_folder, mask_folder = home / "images" / name, home / "annotations" / name
        if not image_folder.is_dir():
            continue
        if not mask_folder.is_dir():
            raise LabError(f"{mask_folder}: there is no such folder; {EXPECTED}.")
        images = tree(image_folder, IMAGE_SUFFIXES)
        if images:
            splits[split] = pair_up(images, tree(mask_folder, MASK_SUFFIXES), list(images), mask_folder)
    if not splits:
        raise LabError(f"{home / 'images'}: no training or validation images; {EXPECTED}.")
    return splits


def read_names(path: Path) -> tuple[str, ...]:
    """The names of the 150 classes: the first synonym of each line's last column. Raises LabError naming the line."""
    try:
        if path.stat().st_size > LARGEST_LIST:
            raise LabError(f"{path}: {path.stat().st_size} bytes; expected the list of {CLASSES} classes.")
        lines = path.read_text(encoding="utf-8-sig").splitlines()[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path}: the names of the classes cannot be read ({error}); {EXPECTED}.") from error
    names: list[str] = []
    for number, line in enumerate(filter(str.strip, lines), 2):
        columns = line.split("\t")
        name = columns[-1].split(",")[0].strip()
        if len(columns) < 2 or columns[0].strip() != str(len(names) + 1) or not name:
            raise LabError(f"{path}, line {number}: got {line[:80]!r}, expected class {len(names) + 1} with its name.")
        if name in names:  # two classes may share their first synonym
            name = f"{name} {len(names) + 1}"
        names.append(name)
    if len(names) != CLASSES:
        raise LabError(f"{path}: {len(names)} classes; expected {CLASSES}.")
    return tuple(names)


def _home(root: Path) -> Path:
    home = next((root / place for place in PLACES if (root / place / "images").is_dir()), None)
    if home is None:
        raise LabError(f"{root}: no ADE20K scene parsing here; {EXPECTED}.")
    return home
