"""Lists of images (train.txt, ...): which image a line means, in which order, and what is said when one is absent."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from tests.lab.image_files import folder, labels, lists, names, picture, write, write_folder

from lovasz.lab.data import available_splits, open_dataset
from lovasz.lab.errors import LabError


@pytest.mark.parametrize("line", ["cat 1.jpg", "cat 1", "b/1", "cat/1.jpg", "x.png cat.png"])
def test_a_list_never_takes_another_image_for_one_that_is_absent(tmp_path: Path, line: str) -> None:
    root = write_folder(tmp_path, {stem: labels(0, 1) for stem in ("cat", "a/1", "v")})
    lists(root, train=line, val="v")
    with pytest.raises(LabError, match=r"train\.txt, line 1: .* has no image of this name"):
        open_dataset(f"folder:{root}", "train")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("1", "a__1"),
        ("a/1", "a__1"),
        ("images/a/1.png", "a__1"),
        ("images\\a\\1.png", "a__1"),
        (r"C:\data\images\cat.png C:\data\masks\cat.png", "cat"),
        ("cat\tmasks/cat.png", "cat"),
        ("/SegNet/images/cat.png /SegNet/masks/v.png", "cat"),
        ("cat.png cat_mask.png", "cat"),
        ("two words.png", "two_words"),
        ("two words.png\tother words.png", "two_words"),
        ("foo/b/v.png", "b__v"),
    ],
)
def test_the_usual_ways_of_writing_a_list_are_read(tmp_path: Path, line: str, name: str) -> None:
    root = write_folder(tmp_path, {stem: labels(0, 1) for stem in ("cat", "a/1", "two words", "v", "b/v")})
    lists(root, train=line, val="v")
    assert names(f"folder:{root}", "train") == [name]


def test_list_files_decide_the_splits_in_their_order(tmp_path: Path) -> None:
    root = folder(tmp_path)
    lists(root, train="004\n002\n\n", val="001.png\n", test="./images/000.png")
    spec = f"folder:{root}"
    assert [names(spec, split) for split in available_splits(spec)] == [["004", "002"], ["001"], ["000"]]
    assert "from train.txt, val.txt, test.txt; 6 images are in no list" in open_dataset(spec, "val").describe()


def test_names_are_one_however_their_accents_are_written(tmp_path: Path) -> None:
    """A Mac's archives have e and an accent where others have one character."""
    one, two = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert one != two
    root = write_folder(tmp_path, {two: labels(0, 1), "v": labels(0, 1)})
    (root / "masks" / f"{two}.png").rename(root / "masks" / f"{one}.png")
    for written in (one, two):
        lists(root, train=written, val="v")
        assert names(f"folder:{root}", "train") == [one]


def test_lists_without_that_of_the_training_images_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path)
    lists(root, val="001")
    with pytest.raises(LabError, match=r"val\.txt: there, but no .*train\.txt. List the training images too"):
        open_dataset(f"folder:{root}", "train")


@pytest.mark.parametrize("text", ["", "\n \n"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_list_of_no_image_is_refused(tmp_path: Path, split: str, text: str) -> None:
    root = folder(tmp_path)
    lists(root, **({"train": "000", "val": "001", "test": "002"} | {split: text}))
    with pytest.raises(LabError, match=rf"{split}\.txt: lists no image\. Name the {split} images in it, or remove"):
        open_dataset(f"folder:{root}", "train")


def test_lists_of_pascal_voc_are_found(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {n: labels(0, 1) for n in "abc"}, images="JPEGImages", to="SegmentationClass")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    lists(root / "ImageSets" / "Segmentation", train="a", val="b\nc", trainval="a\nb\nc")
    assert available_splits(f"folder:{root}") == ("train", "val")
    assert names(f"folder:{root}", "val") == ["b", "c"]


def test_images_in_no_list_need_no_mask(tmp_path: Path) -> None:
    root = folder(tmp_path, 3)
    write(root / "images" / "unlabelled.png", picture())
    lists(root, train="000\n001", val="002")
    assert names(f"folder:{root}", "train") == ["000", "001"]


def test_a_listed_image_that_is_missing_is_an_error_with_its_line(tmp_path: Path) -> None:
    root = folder(tmp_path, 3)
    lists(root, train="000\nnobody", val="002")
    with pytest.raises(LabError, match=r"train\.txt, line 2: 'nobody'"):
        open_dataset(f"folder:{root}", "val")


def test_an_image_in_two_lists_is_an_error(tmp_path: Path) -> None:
    root = folder(tmp_path, 3)
    lists(root, train="000\n001", val="001")
    with pytest.raises(LabError, match=r"val\.txt, line 1: the image '001' is already listed in .*train\.txt, line 2"):
        open_dataset(f"folder:{root}", "val")


def test_a_list_that_is_no_text_is_an_error_with_its_name(tmp_path: Path) -> None:
    root = folder(tmp_path, 3)
    (root / "train.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(LabError, match=r"train\.txt: the list of images cannot be read"):
        open_dataset(f"folder:{root}", "train")
