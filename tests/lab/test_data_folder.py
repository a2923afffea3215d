"""Folders of images and masks: which files make a pair, which split it is in, and what is said when one is wrong."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.lab.image_files import folder, labels, lists, names, picture, write, write_folder
from torch.utils.data import DataLoader

from lovasz.lab.data import IGNORE_INDEX, available_splits, open_dataset
from lovasz.lab.errors import LabError
from lovasz.lab.predict import find_images


def test_an_image_comes_with_the_mask_of_its_name(tmp_path: Path) -> None:
    masks = {f"m{number}": labels(number, 0, 3) for number in range(4)}
    root = write_folder(tmp_path, masks)
    lists(root, train="m0\nm1\nm2", val="m3")
    dataset = open_dataset(f"folder:{root}", "train")
    for number in range(3):
        sample = dataset[number]
        assert sample.name == f"m{number}"
        assert np.array_equal(sample.image.permute(1, 2, 0), picture(number))
        assert np.array_equal(sample.mask, masks[f"m{number}"])
    assert (sample.image.dtype, sample.mask.dtype) == (torch.uint8, torch.uint8)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", "labels"),
        ("imgs", "annotations"),
        ("JPEGImages", "SegmentationClass"),
        ("image", "mask"),
        ("Images", "Masks"),
        ("IMAGES", "gt"),
        ("jpegimages", "segmentationclass"),
    ],
)
def test_usual_names_of_the_two_folders_are_known(tmp_path: Path, images: str, masks: str) -> None:
    write_folder(tmp_path, {name: labels(0, 1) for name in "abcd"}, images=images, to=masks)
    assert available_splits(f"folder:{tmp_path}") == ("train", "val", "test")
    assert open_dataset(f"folder:{tmp_path}", "validation").split == "val"


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such a name")
def test_a_name_that_is_not_utf_8_is_told_with_the_remedy(tmp_path: Path) -> None:
    write_folder(tmp_path, {name: labels(0, 1) for name in "abc"})
    for path in list(tmp_path.rglob("b.*")):
        path.rename(path.with_name(os.fsdecode(b"caf\xe9") + path.suffix))  # Latin-1, as old archives have it
    with pytest.raises(LabError, match=r"caf\\xe9\.\w+': this name is not UTF-8.*Rename it"):
        open_dataset(f"folder:{tmp_path}", "train")
    image = next((tmp_path / "images").glob(os.fsdecode(b"caf\xe9*")))
    for images in (tmp_path / "images", image):
        with pytest.raises(LabError, match="this name is not UTF-8"):
            find_images(images, tmp_path / "out")
    image.with_suffix(".txt").touch()
    image.unlink()
    assert (
        len(find_images(tmp_path / "images", tmp_path / "out")[0]) == 2
    )  # of a file that is no image it does not matter


def test_one_mask_without_an_image_is_told_in_the_singular(tmp_path: Path) -> None:
    write(folder(tmp_path) / "masks" / "other.png", labels(0, 1))
    assert "; 1 mask has no image" in open_dataset(f"folder:{tmp_path}", "train").describe()


def test_other_names_of_the_two_folders_can_be_given(tmp_path: Path) -> None:
    write_folder(tmp_path, {name: labels(0, 1) for name in "abcd"}, images="x", to="y/z")
    assert len(open_dataset(f"folder:{tmp_path}?images=x&masks=y/z", "train")) == 2
    with pytest.raises(LabError, match="no folder of images"):
        open_dataset(f"folder:{tmp_path}", "train")


def test_folders_within_those_of_the_splits_may_have_capitals_too(tmp_path: Path) -> None:
    for split in ("Train", "Val"):
        write_folder(tmp_path / split, {name: labels(0, 1) for name in "ab"}, images="Images", to="Masks")
    assert available_splits(f"folder:{tmp_path}") == ("train", "val")
    assert len(open_dataset(f"folder:{tmp_path}", "train")) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems have one folder for both spellings")
def test_folders_that_differ_in_capitals_alone_are_a_question(tmp_path: Path) -> None:
    write_folder(tmp_path, {name: labels(0, 1) for name in "ab"})
    write_folder(tmp_path, {name: labels(0, 1) for name in "cd"}, images="Images", to="y")
    with pytest.raises(LabError, match=r"Images and images may both be the images; say which with images="):
        open_dataset(f"folder:{tmp_path}", "train")
    assert len(open_dataset(f"folder:{tmp_path}?images=Images&masks=y", "train")) == 1


def test_two_folders_of_masks_are_a_question_and_not_a_guess(tmp_path: Path) -> None:
    folder(tmp_path)
    shutil.copytree(tmp_path / "masks", tmp_path / "labels")
    with pytest.raises(LabError, match=r"masks and labels may both be the masks.*masks=masks"):
        open_dataset(f"folder:{tmp_path}", "train")
    assert len(open_dataset(f"folder:{tmp_path}", "train", masks="labels"))


def test_a_folder_without_pictures_is_no_folder_of_masks(tmp_path: Path) -> None:
    """Pascal VOC has Annotations (XML), many sets have labels (text)."""
    folder(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "000.txt").write_text("0 0.5 0.5 1 1")
    assert len(open_dataset(f"folder:{tmp_path}", "train"))


@pytest.mark.parametrize("ending", ["_mask", "_segmentation", "_L"])
def test_a_mask_may_carry_a_usual_ending(tmp_path: Path, ending: str) -> None:
    for name in "abc":
        write(tmp_path / "images" / f"{name}.jpg", picture())
        write(tmp_path / "masks" / f"{name}{ending}.png", labels(0, 1))
    assert len(open_dataset(f"folder:{tmp_path}", "train")) == 1


def test_images_of_many_kinds_and_capital_endings_are_found(tmp_path: Path) -> None:
    for number, ending in enumerate([".jpg", ".JPEG", ".png", ".bmp", ".tif", ".webp"]):
        write(tmp_path / "images" / f"{number}{ending}", picture())
        write(tmp_path / "masks" / f"{number}.png", labels(0, 1))
    assert sum(len(open_dataset(f"folder:{tmp_path}", split)) for split in ("train", "val", "test")) == 6


def test_sub_folders_are_part_of_the_name(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"day/1": labels(0, 1), "night/1": labels(0, 1), "night/2": labels(1)})
    lists(root, train="day/1\nnight/1\n", val="night/2")
    assert names(f"folder:{root}", "train") == ["day__1", "night__1"]


def test_names_of_samples_are_different_and_safe(tmp_path: Path) -> None:
    stems = ["a b", "a:b", "a/b", "a__b", "Ärger"]
    root = write_folder(tmp_path, {stem: labels(0, 1) for stem in [*stems, "v"]})
    lists(root, train="\n".join(stems), val="v")
    assert names(f"folder:{root}", "train") == ["a_b", "a_b-2", "a__b", "a__b-2", "Ärger"]


def test_long_names_of_samples_are_shortened_and_stay_different(tmp_path: Path) -> None:
    stems = [f"{'a' * 100}/{'b' * 100}/{'ö' * 60}{number}" for number in range(3)]
    root = write_folder(tmp_path, {stem: labels(0, 1) for stem in stems})
    lists(root, train=f"{stems[0]}\n{stems[1]}", val=stems[2])
    found = names(f"folder:{root}", "train")
    assert len(set(found)) == 2
    assert all(len(name.encode()) <= 120 and name.endswith(f"ö{number}") for number, name in enumerate(found))


def test_folders_behind_links_are_read_and_loops_of_links_end(tmp_path: Path) -> None:
    write_folder(tmp_path / "disk", {"x": labels(0, 1), "sub/y": labels(0, 1)})
    root = write_folder(tmp_path / "data", {"a": labels(0, 1)})
    for kind in ("images", "masks"):
        os.symlink(tmp_path / "disk" / kind, root / kind / "more")
        os.symlink(root / kind, tmp_path / "disk" / kind / "sub" / "back")
    lists(root, train="a\nmore/x", val="more/sub/y")
    assert names(f"folder:{root}", "train") == ["a", "more__x"]
    assert "no list" not in open_dataset(f"folder:{root}", "val").describe()


@pytest.mark.parametrize("spelling", [("train", "val", "test"), ("Training", "Validation", "Testing")])
def test_sub_folders_for_the_splits_are_used(tmp_path: Path, spelling: tuple[str, str, str]) -> None:
    train, val, test = spelling
    root = write_folder(
        tmp_path, {f"{train}/x": labels(0, 1), f"{val}/x": labels(0, 1), f"{test}/y": labels(0), f"{test}/z": labels(0)}
    )
    spec = f"folder:{root}"
    assert [names(spec, split) for split in available_splits(spec)] == [["x"], ["x"], ["y", "z"]]


def test_folders_of_splits_that_hold_images_and_masks_are_used(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_folder(tmp_path / split, {f"{split}1": labels(0, 1)})
    assert available_splits(f"folder:{tmp_path}") == ("train", "val")
    assert names(f"folder:{tmp_path}", "val") == ["valid1"]


def test_a_split_without_its_folder_of_masks_is_an_error(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"train/x": labels(0, 1), "val/x": labels(0, 1)})
    shutil.rmtree(root / "masks" / "val")
    with pytest.raises(LabError, match="masks: no sub-folder val"):
        available_splits(f"folder:{root}")


def test_the_random_split_is_whole_disjoint_and_repeats(tmp_path: Path) -> None:
    spec = f"folder:{folder(tmp_path, 40)}"
    parts = {split: names(spec, split) for split in available_splits(spec)}
    assert {split: len(part) for split, part in parts.items()} == {"train": 28, "val": 6, "test": 6}
    assert sorted(name for part in parts.values() for name in part) == [f"{number:03d}" for number in range(40)]
    assert names(spec, "val") == parts["val"]
    assert names(spec, "val", seed=1) != parts["val"]
    assert "at random, 70/15/15 %, by the data seed 0" in open_dataset(spec, "val").describe()


def test_the_random_split_depends_on_names_alone(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one", 20), tmp_path / "other"
    write_folder(other, {f"{number:03d}": labels(1, 0) for number in reversed(range(20))})
    assert names(f"folder:{one}", "test") == names(f"folder:{other}", "test")


@pytest.mark.parametrize(("count", "splits"), [(2, ("train", "val")), (3, ("train", "val", "test"))])
def test_few_images_still_give_each_split_one(tmp_path: Path, count: int, splits: tuple[str, ...]) -> None:
    assert available_splits(f"folder:{folder(tmp_path, count)}") == splits


def test_one_image_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="1 image; expected at least 2"):
        available_splits(f"folder:{folder(tmp_path, 1)}")


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    root = folder(tmp_path, 4)
    (root / "images" / "._000.png").write_bytes(b"a resource fork")
    (root / "images" / "notes.txt").write_text("mine")
    (root / "masks" / ".DS_Store").write_bytes(b"x")
    assert len(open_dataset(f"folder:{root}", "train")) == 2


def test_an_image_without_a_mask_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path, 5)
    (root / "masks" / "003.png").unlink()
    with pytest.raises(LabError, match=r"images.003\.png: an image without a mask; expected .*masks.003\.png"):
        open_dataset(f"folder:{root}", "train")


def test_two_masks_for_an_image_are_an_error(tmp_path: Path) -> None:
    root = folder(tmp_path, 3)
    write(root / "masks" / "001.bmp", labels(0, 1))
    with pytest.raises(LabError, match=r"001\.bmp.*001\.png: two files of one name"):
        open_dataset(f"folder:{root}", "train")


def test_a_mask_of_the_name_beside_one_with_an_ending_is_an_error(tmp_path: Path) -> None:
    root = folder(tmp_path, 3)
    write(root / "masks" / "001_mask.PNG", labels(0, 1))
    with pytest.raises(LabError, match=r"001\.png: two masks, .*masks.001\.png and .*001_mask\.PNG; keep one"):
        open_dataset(f"folder:{root}", "train")


def test_a_mask_whose_ending_is_part_of_its_images_name_belongs_to_that_image(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {stem: labels(0, 1) for stem in ("a", "a_mask", "b")})
    assert sum(len(open_dataset(f"folder:{root}", split)) for split in ("train", "val", "test")) == 3


def test_a_mask_of_another_size_is_named_with_both_sizes(tmp_path: Path) -> None:
    root = folder(tmp_path, 2)
    for name in ("000", "001"):
        write(root / "masks" / f"{name}.png", labels(0, 1, height=5, width=9))
    with pytest.raises(LabError, match=r"masks.00\d\.png: the mask is 9 x 5 pixels.*00\d\.png is 8 x 6; expected one"):
        open_dataset(f"folder:{root}", "train")[0]


def test_a_mask_that_fits_the_image_unturned_is_told_why(tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    root = folder(tmp_path, 2)
    for name in ("000", "001"):
        write(root / "images" / f"{name}.png", picture(), exif=exif)
    with pytest.raises(LabError, match="EXIF orientation"):
        open_dataset(f"folder:{root}", "train")[0]


@pytest.mark.parametrize("which", ["images", "masks"])
@pytest.mark.parametrize("options", ["", "?classes=a,b,c&void=none"])
def test_a_truncated_file_is_named_when_it_is_reached(tmp_path: Path, which: str, options: str) -> None:
    root = folder(tmp_path, 2)
    lists(root, train="000", val="001")
    path = root / which / "000.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(LabError, match=rf"{which}.000\.png.*cannot be read"):
        open_dataset(f"folder:{root}{options}", "train")[0]


def test_missing_folders_are_named_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="nowhere: there is no such folder"):
        open_dataset(f"folder:{tmp_path / 'nowhere'}", "train")
    with pytest.raises(LabError, match="this is a file, not a folder; expected one with images/ and masks/"):
        open_dataset(f"folder:{__file__}", "train")
    with pytest.raises(LabError, match=r"no folder of images; expected one called images, .*found no folder at all"):
        open_dataset(f"folder:{tmp_path}", "train")
    write(tmp_path / "images" / "a.png", picture())
    with pytest.raises(LabError, match=r"no folder of masks; expected one called masks, .*found images"):
        open_dataset(f"folder:{tmp_path}", "train")
    (tmp_path / "masks").mkdir()
    with pytest.raises(LabError, match="masks: no masks in this folder"):
        open_dataset(f"folder:{tmp_path}", "train")


def test_an_unknown_split_is_told_which_there_are(tmp_path: Path) -> None:
    root = folder(tmp_path, 3)
    lists(root, train="000", val="001\n002")
    with pytest.raises(LabError, match="no split 'test'; it has train, val"):
        open_dataset(f"folder:{root}", "test")


def test_worker_processes_read_the_same_samples(tmp_path: Path) -> None:
    dataset = open_dataset(f"folder:{folder(tmp_path, 6)}", "train")
    for i, sample in enumerate(DataLoader(dataset, batch_size=None, num_workers=2)):
        assert torch.equal(sample.image, dataset[i].image)
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[1].mask, dataset[1].mask)  # noqa: S301 - made here


def test_a_void_value_becomes_the_ignore_index(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {name: labels(0, 1, 7) for name in "ab"})
    dataset = open_dataset(f"folder:{root}?void=7", "train")
    assert dataset[0].mask.unique().tolist() == [0, 1, IGNORE_INDEX]
    assert dataset.info.num_classes == 2


def test_one_image_under_two_names_is_refused(tmp_path: Path) -> None:
    """By links it could be in two splits: a network would be tested on what it has seen."""
    root = write_folder(tmp_path / "d", {f"x/{number}": labels(0, 1) for number in range(4)})
    for place in ("images", "masks"):
        (root / place / "y").symlink_to(root / place / "x", target_is_directory=True)
    with pytest.raises(LabError, match=r"x/\d\.png and .*y/\d\.png: one image under two names"):
        open_dataset(f"folder:{root}", "train")
