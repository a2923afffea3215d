"""Pascal VOC with and without SBD, Cityscapes and ADE20K in their official layouts; what is said when they are not."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from tests.lab.image_files import labels, picture, write

from lovasz.cityscapes import EVALUATED, NAMES
from lovasz.lab.data import IGNORE_INDEX, available_splits, open_dataset
from lovasz.lab.data.cityscapes import CITYSCAPES_INFO, LABEL_IDS, VOID_IDS
from lovasz.lab.data.colours import voc_palette
from lovasz.lab.data.pairs import PairDataset
from lovasz.lab.data.sbd import read_sbd_mask
from lovasz.lab.data.voc import VOC_INFO
from lovasz.lab.errors import LabError

PALETTE = [part for colour in voc_palette(256) for part in colour]
VOC = {"train": ["2007_1", "2008_2"], "val": ["2007_3"]}


def names(spec: str, split: str) -> list[str]:
    dataset = open_dataset(spec, split)
    return [dataset[i].name for i in range(len(dataset))]


# --- Pascal VOC


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    home = tmp_path / "VOCdevkit" / "VOC2012"
    for number, stem in enumerate([*VOC["train"], *VOC["val"], "2009_4", "2009_5"]):
        write(home / "JPEGImages" / f"{stem}.jpg", picture(number))
    for split, stems in VOC.items():
        for stem in stems:
            write(home / "SegmentationClass" / f"{stem}.png", labels(0, 20, 255), PALETTE)
        path = home / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(stems) + "\n")
    return tmp_path


def write_mat(path: Path, mask: np.ndarray, **save: object) -> Path:
    """As the release has them: a structure in a structure's field, packed."""
    scipy_io = pytest.importorskip("scipy.io")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"Boundaries": np.zeros((1, 1)), "Segmentation": mask, "CategoriesPresent": np.unique(mask)}
    scipy_io.savemat(path, {"GTcls": content}, **{"do_compression": True, **save})
    return path


def test_the_reader_and_the_scores_mean_the_same_cityscapes() -> None:
    assert EVALUATED == LABEL_IDS
    assert tuple(NAMES[label] for label in EVALUATED) == CITYSCAPES_INFO.classes


@pytest.mark.parametrize("place", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_is_found_from_any_of_its_folders(voc, place):
    spec = f"voc:{voc / place}"
    assert available_splits(spec) == ("train", "val")
    assert names(spec, "train") == VOC["train"]
    sample = open_dataset(spec, "val")[0]
    assert sample.mask.unique().tolist() == [0, 20, IGNORE_INDEX]
    assert open_dataset(spec, "val").info == VOC_INFO
    assert VOC_INFO.classes[20] == "tvmonitor"
    assert "2 train / 1 val images" in open_dataset(spec, "val").describe()


def test_sbd_as_png_adds_to_train_what_is_in_neither_list(voc):
    home = voc / "VOCdevkit" / "VOC2012"
    for stem in ["2007_1", "2007_3", "2009_4", "2009_5"]:  # of train, of val, and two new ones
        write(home / "SegmentationClassAug" / f"{stem}.png", labels(7))
    for sbd in ("SegmentationClassAug", home / "SegmentationClassAug"):
        spec = f"voc:{voc}?sbd={sbd}"
        assert names(spec, "train") == [*VOC["train"], "2009_4", "2009_5"]
        assert names(spec, "val") == VOC["val"]
    train = open_dataset(spec, "train")
    assert train[0].mask.unique().tolist() == [0, 20, IGNORE_INDEX]  # VOC's own mask stays
    assert train[2].mask.unique().tolist() == [7]
    assert "4 train / 1 val images, with the extra training masks of" in train.describe()


@pytest.mark.parametrize("root", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
@pytest.mark.parametrize("place", ["VOCdevkit/VOC2012", "VOCdevkit"])
def test_sbd_is_found_by_its_name_in_voc_or_beside_it(voc, monkeypatch, root, place):
    home = voc / "VOCdevkit/VOC2012"
    write(voc / place / "VOCaug" / "2009_4.png", labels(1), PALETTE)
    found = names(f"voc:{voc / root}?sbd=VOCaug", "train")
    assert found == [*VOC["train"], "2009_4"]
    monkeypatch.chdir(voc / root)
    assert names("voc:.?sbd=VOCaug", "train") == found
    with pytest.raises(LabError) as error:
        open_dataset(f"voc:{voc / root}?sbd=gone", "train")
    assert str(home / "gone") in str(error.value)
    assert str(voc / "VOCdevkit" / "gone") in str(error.value)


@pytest.mark.parametrize(("inside", "ending"), [("", "mat"), ("dataset", "mat"), ("", "MAT")])
def test_sbd_as_matlab_files_adds_the_same(voc, tmp_path, inside, ending):
    release = tmp_path / "benchmark_RELEASE"
    mask = labels(0, 7, 20)
    for stem in ["2007_1", "2007_3", "2010_9"]:
        write_mat(release / "dataset" / "cls" / f"{stem}.{ending}", mask)
        write(release / "dataset" / "img" / f"{stem}.jpg", picture(9))
    spec = f"voc:{voc}?sbd={release / inside}"
    assert names(spec, "train") == [*VOC["train"], "2010_9"]
    opened = open_dataset(spec, "train")
    opened.check_heads(2)
    assert np.array_equal(opened[2].mask.numpy(), mask)


def test_missing_parts_of_voc_are_named_with_the_place_to_get_them(voc, tmp_path):
    message = r"no Pascal VOC here; expected[\s\S]*JPEGImages[\s\S]*host\.robots\.ox\.ac\.uk"
    with pytest.raises(LabError, match=message):
        open_dataset(f"voc:{tmp_path / 'nowhere'}", "train")
    with pytest.raises(LabError, match=r"no_sbd: there is no such folder .*benchmark\.tgz"):
        open_dataset(f"voc:{voc}?sbd=no_sbd", "train")
    (voc / "empty").mkdir()
    with pytest.raises(LabError, match="empty: no masks in this folder"):
        open_dataset(f"voc:{voc}?sbd={voc / 'empty'}", "train")
    write(voc / "alone" / "2011_7.png", labels(1))
    with pytest.raises(LabError, match=r"2011_7\.png: a mask without an image .* expected 2011_7\.jpg"):
        open_dataset(f"voc:{voc}?sbd={voc / 'alone'}", "train")
    with pytest.raises(LabError, match="no split 'test'; it has train, val"):
        open_dataset(f"voc:{voc}", "test")
    (voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(LabError, match=r"val\.txt: there is no such list"):
        open_dataset(f"voc:{voc}", "train")


def test_the_real_subset_of_voc_is_read(shared):
    spec = f"voc:{shared / 'data' / 'voc2012_mini'}"
    train, val = open_dataset(spec, "train"), open_dataset(spec, "val")
    assert (len(train), len(val)) == (311, 321)
    assert set(val[0].mask.unique().tolist()) <= {*range(21), IGNORE_INDEX}


# --- hostile MATLAB files


def element(body: bytes, kind: int = 15) -> bytes:
    return struct.pack("<II", kind, len(body)) + body


HEAD = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a MATLAB file of level 5"),
        (b"\x89HDF" + bytes(200), "not a MATLAB file of level 5"),
        (HEAD + struct.pack("<II", 15, 1000) + b"short", "truncated"),
        (HEAD + element(b"no zlib here"), "damaged"),
        (HEAD + element(zlib.compress(bytes(65 * 2**20), 9)), "unpacks to more than"),
        (HEAD + element(zlib.compress(bytes(40 * 2**20), 9)) * 2, "unpacks to more than"),
        (HEAD + element(zlib.compress(os.urandom(100))), "not a class mask of SBD"),
        (HEAD, "not a class mask of SBD"),
    ],
)
def test_a_hostile_matlab_file_is_refused_by_name(tmp_path, content, message):
    pytest.importorskip("scipy.io")
    (tmp_path / "bad.mat").write_bytes(content)
    with pytest.raises(LabError, match=rf"bad\.mat: .*{message}"):
        read_sbd_mask(tmp_path / "bad.mat")


def test_a_matlab_file_of_another_content_is_refused(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(tmp_path / "inst.mat", {"GTinst": {"Segmentation": labels(1)}})
    with pytest.raises(LabError, match="not a class mask of SBD"):
        read_sbd_mask(tmp_path / "inst.mat")
    write_mat(tmp_path / "wide.mat", labels(1).astype(np.float64))
    with pytest.raises(LabError, match="Segmentation is float64"):
        read_sbd_mask(tmp_path / "wide.mat")
    with pytest.raises(LabError, match=r"gone\.mat: the mask cannot be read"):
        read_sbd_mask(tmp_path / "gone.mat")
    path = write_mat(tmp_path / "good.mat", labels(1, 2))
    assert np.array_equal(read_sbd_mask(path).values, labels(1, 2))
    for length in (140, 200, path.stat().st_size - 3):  # cut anywhere, it never becomes another mask
        (tmp_path / "cut.mat").write_bytes(path.read_bytes()[:length])
        with pytest.raises(LabError, match=r"cut\.mat"):
            read_sbd_mask(tmp_path / "cut.mat")


# --- Cityscapes


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    for split, city in (("train", "aachen"), ("train", "zurich"), ("val", "lindau"), ("test", "berlin")):
        for frame in ("000000_000019", "000001_000019"):
            stem = f"{split}/{city}/{city}_{frame}"
            write(tmp_path / "leftImg8bit" / f"{stem}_leftImg8bit.png", picture())
            write(tmp_path / "gtFine" / f"{stem}_gtFine_labelIds.png", labels(7, 33, 0, 34 - 5, 255, 8))
            write(tmp_path / "gtFine" / f"{stem}_gtFine_color.png", picture())
            write(tmp_path / "gtFine" / f"{stem}_gtFine_instanceIds.png", np.full((6, 8), 24000, np.uint16))
    return tmp_path


@pytest.mark.parametrize("above", ["cityscapes", "Cityscapes"])
def test_cityscapes_is_found_from_the_folder_above(cityscapes, tmp_path, above):
    expected = names(f"cityscapes:{cityscapes}", "val")
    home = tmp_path / "all" / above
    home.mkdir(parents=True)
    for folder in ("leftImg8bit", "gtFine"):
        (cityscapes / folder).rename(home / folder)
    assert names(f"cityscapes:{home.parent}", "val") == expected


def test_cityscapes_label_ids_become_the_19_train_ids(cityscapes):
    spec = f"cityscapes:{cityscapes}"
    assert available_splits(spec) == ("train", "val")  # the labels of test are withheld
    train = open_dataset(spec, "train")
    assert [train[i].name for i in range(4)] == [
        f"{city}__{city}_{frame}" for city in ("aachen", "zurich") for frame in ("000000_000019", "000001_000019")
    ]
    assert train[0].mask[0, :6].tolist() == [0, 18, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX, 1]
    assert "4 train / 2 val images" in train.describe()


def test_the_ids_names_and_colours_are_those_of_cityscapes_scripts():
    module = pytest.importorskip("cityscapesscripts.helpers.labels")
    train = {label.trainId: label for label in module.labels if 0 <= label.trainId < 19}
    assert tuple(train[i].id for i in range(19)) == LABEL_IDS
    assert CITYSCAPES_INFO.classes == tuple(train[i].name for i in range(19))
    assert CITYSCAPES_INFO.palette == tuple(train[i].color for i in range(19))
    void = {label.id for label in module.labels if label.trainId in (255, -1) and label.id >= 0}
    assert set(VOID_IDS) == void


def test_masks_of_train_ids_serve_where_no_others_are(cityscapes):
    for path in cityscapes.rglob("*_labelIds.png"):
        write(path.with_name(path.name.replace("labelIds", "labelTrainIds")), labels(0, 18, 255))
    spec = f"cityscapes:{cityscapes}"
    assert open_dataset(spec, "val")[0].mask[0, :2].tolist() == [0, 18]  # label ids come first
    for path in cityscapes.rglob("*_labelIds.png"):
        path.unlink()
    assert open_dataset(spec, "val")[0].mask[0, :3].tolist() == [0, 18, IGNORE_INDEX]
    assert "from train ids" in open_dataset(spec, "val").describe()


def test_missing_parts_of_cityscapes_are_named(cityscapes, tmp_path):
    message = r"no Cityscapes here; expected[\s\S]*labelIds[\s\S]*cityscapes-dataset\.com"
    with pytest.raises(LabError, match=message):
        open_dataset(f"cityscapes:{tmp_path / 'nowhere'}", "train")
    (cityscapes / "gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(LabError, match=r"lindau_000001_000019_leftImg8bit\.png: an image without a mask"):
        open_dataset(f"cityscapes:{cityscapes}", "train")
    for path in cityscapes.rglob("*_gtFine_*.png"):
        path.unlink()
    with pytest.raises(LabError, match=r"no \*_gtFine_labelIds\.png"):
        open_dataset(f"cityscapes:{cityscapes}", "train")


# --- ADE20K


@pytest.fixture
def ade20k(tmp_path: Path) -> Path:
    home = tmp_path / "ADEChallengeData2016"
    for split, stem in (("training", "ADE_train_1"), ("training", "ADE_train_2"), ("validation", "ADE_val_1")):
        write(home / "images" / split / f"{stem}.jpg", picture())
        write(home / "annotations" / split / f"{stem}.png", labels(0, 1, 150))
    lines = [f"{i}\t0.1\t10\t20\tthing{i}, other" for i in range(1, 149)] + [
        "149\t0\t1\t1\tscreen",
        "150\t0\t1\t1\tscreen, x",
    ]
    (home / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + "\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("place", [".", "ADEChallengeData2016"])
def test_ade20k_labels_start_at_one_and_zero_is_void(ade20k, place):
    spec = f"ade20k:{ade20k / place}"
    assert available_splits(spec) == ("train", "val")
    assert names(spec, "train") == ["ADE_train_1", "ADE_train_2"]
    dataset = open_dataset(spec, "val")
    assert dataset[0].mask[0, :3].tolist() == [IGNORE_INDEX, 0, 149]
    assert dataset.info.classes[:2] == ("thing1", "thing2")
    assert len(set(dataset.info.classes)) == len(set(dataset.info.palette)) == 150  # the second "screen" too


def test_missing_parts_of_ade20k_are_named(ade20k, tmp_path):
    with pytest.raises(LabError, match=r"no ADE20K .* here; expected[\s\S]*sceneparsing\.csail\.mit\.edu"):
        open_dataset(f"ade20k:{tmp_path / 'nowhere'}", "train")
    listed = ade20k / "ADEChallengeData2016" / "objectInfo150.txt"
    good = listed.read_text()
    for text, message in (
        ("", "0 classes; expected 150"),
        (good.replace("\n7\t", "\n8\t"), "line 8: .* expected class 7"),
        (good + "151\t0\t0\t0\tmore\n", "151 classes"),
        ("x" * 2**21, "bytes; expected the list"),
    ):
        listed.write_text(text)
        with pytest.raises(LabError, match=message):
            open_dataset(f"ade20k:{ade20k}", "train")
    listed.unlink()
    with pytest.raises(LabError, match="names of the classes cannot be read"):
        open_dataset(f"ade20k:{ade20k}", "train")


def test_a_wrong_label_is_named_with_its_file(ade20k, voc, cityscapes):
    write(ade20k / "ADEChallengeData2016/annotations/validation/ADE_val_1.png", labels(151))
    write(voc / "VOCdevkit/VOC2012/SegmentationClass/2007_3.png", labels(21))
    write(cityscapes / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png", labels(34))
    for spec, name in (("ade20k", "ADE_val_1"), ("voc", "2007_3"), ("cityscapes", "lindau_000000_000019")):
        dataset = open_dataset(f"{spec}:{ade20k}", "val")
        assert isinstance(dataset, PairDataset)
        with pytest.raises(LabError, match=rf"{name}.*\.png: label \d+ at row 0"):
            dataset[0]
