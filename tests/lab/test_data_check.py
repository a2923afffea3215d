"""Files that training or scoring would refuse are named before the first step, by a pass that is made once."""

from pathlib import Path

import numpy as np
import pytest
from tests.lab.image_files import labels, lists, picture, write, write_folder

from lovasz.lab import training
from lovasz.lab.config import RunConfig
from lovasz.lab.data import IGNORE_INDEX, check, open_dataset, pairs
from lovasz.lab.data.check import check_files
from lovasz.lab.data.shapes import open_shapes
from lovasz.lab.errors import LabError
from lovasz.lab.training import train

OPTIONS = "?classes=a,b,c&void=255"  # said, so that nothing else reads the masks


@pytest.fixture
def images(tmp_path) -> Path:
    root = write_folder(tmp_path / "mine", {f"{i}": labels(0, 1, 2, height=16, width=16) for i in range(4)})
    lists(root, train="0\n1", val="2", test="3")
    return root


def splits(root: Path):
    return [open_dataset(f"folder:{root}{OPTIONS}", split) for split in ("train", "val", "test")]


def small_mask(root: Path, stem: str) -> Path:
    return write(root / "masks" / f"{stem}.png", labels(0, 1, 2, height=16, width=12))


def deep_image(root: Path, stem: str) -> Path:
    return write(root / "images" / f"{stem}.png", np.arange(256, dtype=np.uint16).reshape(16, 16) * 200)


def stray_label(root: Path, stem: str) -> Path:
    return write(root / "masks" / f"{stem}.png", labels(0, 1, 7, height=16, width=16))


def all_void(root: Path, stem: str) -> Path:
    write(root / "masks" / f"{stem}.png", labels(IGNORE_INDEX, height=16, width=16))
    return Path("split test")


def all_void_to_train(root: Path, _: str) -> Path:
    for stem in "01":
        all_void(root, stem)
    return Path("split train")


def cut_image(root: Path, stem: str) -> Path:
    path = write(root / "images" / f"{stem}.png", picture(1, 16, 16))
    path.write_bytes(path.read_bytes()[:400])
    return path


@pytest.mark.parametrize(
    ("spoil", "stem", "words"),
    [
        (small_mask, "0", "12 x 16 pixels"),
        (small_mask, "3", "12 x 16 pixels"),
        (deep_image, "1", "more than 8 bits"),
        (deep_image, "3", "more than 8 bits"),
        (stray_label, "2", "label 7"),
        (stray_label, "3", "label 7"),
        (stray_label, "1", "label 7"),
        (cut_image, "0", "cannot be read"),
        (cut_image, "3", "cannot be read"),
        (all_void, "3", "every pixel is void, there is nothing to score"),
        (all_void_to_train, "", "every pixel is void, there is nothing to learn"),
    ],
)
def test_a_bad_file_stops_a_run_before_its_first_step_and_leaves_no_folder(
    tmp_path, images, monkeypatch, spoil, stem, words
) -> None:
    def fit(*_, **__):
        raise AssertionError("a step was made first")

    monkeypatch.setattr(training, "fit", fit)
    run = RunConfig(
        data=f"folder:{images}{OPTIONS}", model="unet", epochs=1, batch_size=2, out=str(tmp_path / "out"), threads=1
    )
    with pytest.raises(AssertionError, match="a step"):
        train(run.replace(out=str(tmp_path / "sound")), progress=False)
    path = spoil(images, stem)
    with pytest.raises(LabError) as error:
        train(run, progress=False)
    assert str(path) in str(error.value)
    assert words in str(error.value)
    assert not (tmp_path / "out").exists()


def test_heads_of_training_files_are_read_first_and_then_every_file_once(images, monkeypatch) -> None:
    read: list[str] = []
    for name in ("mask_size", "read_image", "read_mask"):
        inner = getattr(pairs, name)
        note = lambda path, name=name, inner=inner: read.append(f"{name} {path.stem}") or inner(path)  # noqa: E731
        monkeypatch.setattr(pairs, name, note)
    check_files(splits(images))
    assert read[:2] == ["mask_size 0", "mask_size 1"]
    assert read[2:] == [f"{name} {stem}" for stem in "0123" for name in ("read_image", "read_mask")]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_training_file_is_found_by_workers_too_in_the_words_of_its_own(images, workers) -> None:
    path = stray_label(images, "1")
    with pytest.raises(LabError) as error:
        check_files(splits(images), workers=workers)
    assert str(error.value).startswith(f"{path}: label 7 at row 0, column 2")


@pytest.mark.parametrize("workers", [0, 1])
def test_the_classes_of_each_split_are_those_in_its_masks(images, workers) -> None:
    write(images / "masks" / "0.png", labels(1, IGNORE_INDEX, height=16, width=16))
    write(images / "masks" / "1.png", labels(2, height=16, width=16))
    write(images / "masks" / "3.png", labels(0, IGNORE_INDEX, height=16, width=16))
    held = {"train": (1, 2), "val": (0, 1, 2), "test": (0,)}
    assert check_files(splits(images), workers=workers) == held
    assert check_files(splits(images)) == held  # and after the pass that was made


def test_a_pass_is_made_once_while_no_file_changes(images, monkeypatch) -> None:
    check_files(splits(images))
    with monkeypatch.context() as until:
        until.setattr(pairs, "image_size", lambda path: pytest.fail(f"{path} was opened again"))
        until.setattr(pairs, "read_image", lambda path: pytest.fail(f"{path} was opened again"))
        check_files(splits(images))
    small_mask(images, "0")
    with pytest.raises(LabError, match="12 x 16"):
        check_files(splits(images))


def test_drawn_images_need_no_pass(monkeypatch) -> None:
    drawn = open_shapes("test", size=32)
    monkeypatch.setattr(type(drawn), "__getitem__", lambda *_: pytest.fail("drawn"))
    known = dict(check._SOUND)
    assert check_files([drawn]) == {}
    assert known == check._SOUND


def test_heads_agree_with_what_reading_finds(images) -> None:
    train_split = splits(images)[0]
    train_split.check_heads(0)
    write(images / "masks" / "0.png", labels(0, 1, height=16, width=16)).rename(images / "masks" / "0.tif")
    write(images / "masks" / "1.jpg", labels(0, 1, height=16, width=16))
    (images / "masks" / "1.png").unlink()
    with pytest.raises(LabError, match=r"1\.jpg: a JPEG mask"):
        check_files(splits(images))
