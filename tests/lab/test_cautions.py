"""What the data take from the scores is said before the first step and beside the result: classes that the masks of a
split do not hold, images to score that are copies of training images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.lab.comparison_folder import comparison, write
from tests.lab.image_files import labels, lists, write_folder
from tests.lab.page_reader import read

from lovasz.lab import findings
from lovasz.lab.cautions import cautions
from lovasz.lab.comparison import compare
from lovasz.lab.comparison_format import read_comparison
from lovasz.lab.config import ComparisonConfig, RunConfig
from lovasz.lab.data import open_dataset
from lovasz.lab.errors import LabError
from lovasz.lab.report import write_report
from lovasz.lab.seen import copies_of_training
from lovasz.lab.summary import headline
from lovasz.lab.training import train

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = {"train": 14, "val": 3, "test": 3}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three classes, of which the test masks hold the first alone and val has two that training lacks one of."""
    masks = {"0": labels(0, 1), "1": labels(0, 1), "2": labels(0, 1, 2), "3": labels(0)}
    root = write_folder(tmp_path / "mine", {stem: np.resize(mask, (16, 16)) for stem, mask in masks.items()})
    (root / "classes.json").write_text(json.dumps({"classes": ["ground", "tree", "pole"]}))
    lists(root, train="0\n1", val="2", test="3")
    return root


def run(images: Path, **changes: Any) -> RunConfig:
    values = {"data": f"folder:{images}", "model": "unet", "epochs": 1, "batch_size": 2, "threads": 1}
    return RunConfig(**(values | changes))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(findings, "say", lambda _, line: lines.append(line))
    return lines


@pytest.mark.parametrize(
    ("absent", "sentences"),
    [
        ({}, []),
        (None, []),
        ({"train": ["c"]}, ["No training mask holds c, but validation and test masks do: nothing teaches"]),
        (
            {"train": ["c"], "test": ["c"]},
            ["No training mask holds c, but validation masks do", "No test mask"],
        ),
        ({"test": ["b", "c"]}, ["No test mask holds b, c: their IoU is 0 if any pixel is given to them"]),
        ({"val": ["c"], "test": ["c"]}, ["No validation or test mask holds c: its IoU"]),
        ({"val": ["b"], "test": ["c"]}, ["No validation mask holds b", "No test mask holds c"]),
        ({"train": ["c"], "val": ["c"], "test": ["c"]}, ["No mask of any split holds c: its IoU is 0 if any"]),
        ({"train": ["c"], "val": ["c"], "test": ["b", "c"]}, ["No mask of any split holds c", "No test mask holds b"]),
    ],
)
def test_each_split_without_a_class_is_named_and_a_class_in_no_mask_once(
    absent: dict[str, list[str]] | None, sentences: list[str]
) -> None:
    notes = cautions(("a", "b", "c"), IMAGES, absent, None)
    assert len(notes) == len(sentences)
    assert all(note.startswith(words) for note, words in zip(notes, sentences, strict=True)), notes
    assert ("With a alone" in " ".join(notes)) == ((absent or {}).get("test") == ["b", "c"])
    divided = any(not note.startswith("No mask of any") for note in notes)
    assert sum("another --data-seed" in note for note in notes) == divided


def test_a_run_says_before_its_first_step_which_classes_no_mask_of_a_split_holds_and_again_when_it_goes_on(
    tmp_path: Path, images: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lovasz.lab import training

    def fit(*_: object, **__: object) -> None:
        assert any("No training mask holds pole, but validation masks do" in line for line in said)
        assert any("No test mask holds tree" in line and "With ground alone" in line for line in said)
        raise LabError("a step was made")

    out = tmp_path / "out"
    with monkeypatch.context() as until:
        until.setattr(training, "fit", fit)
        with pytest.raises(LabError, match="a step was made"):
            train(run(images, out=str(out)), progress=False)
    assert json.loads((out / "config.json").read_text())["found"] == {
        "absent": {"train": ["pole"], "test": ["tree", "pole"]},
        "copies": {},
    }
    first = list(said)
    said.clear()
    monkeypatch.setattr(findings, "check_files", lambda *_, **__: pytest.fail("read again"))
    train(run(images, out=str(out)), resume=True, progress=False)
    assert said == first


@pytest.mark.parametrize(
    "found",
    [None, [], {"absent": {}}, {"absent": {"tset": []}, "copies": {}}, {"absent": {"val": 3}, "copies": {"val": {}}}],
)
def test_a_folder_whose_findings_are_missing_or_damaged_has_its_files_read_anew(
    tmp_path: Path, images: Path, said: list[str], found: object
) -> None:
    asked = run(images, out=str(tmp_path / "out"))
    train(asked, progress=False).unlink()
    path = tmp_path / "out" / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"found": found}))
    first = list(said)
    said.clear()
    train(asked, resume=True, progress=False)
    assert said == first
    assert json.loads(path.read_text()) == content


def test_comparison_and_report_repeat_what_the_masks_lack(tmp_path: Path, images: Path, said: list[str]) -> None:
    asked = ComparisonConfig(run=run(images), losses=("cross_entropy",), out=str(tmp_path / "out"), examples=0)
    path = compare(asked, progress=False)
    dataset = json.loads(path.read_text())["dataset"]
    assert dataset["absent"] == {"train": ["pole"], "test": ["tree", "pole"]}
    write_report(path.parent)
    text = " ".join(read(path.parent).text.split())
    assert said
    assert all(line in text for line in (line.removeprefix("Note: ").replace("Note.", "") for line in said))
    assert text.index("No test mask holds") < text.index("Finished runs")  # beside the headline


def with_absent(absent: dict[str, list[str]]) -> dict[str, Any]:
    """Two losses of which one gives foreground a pixel in test, where there is none."""
    content = comparison(losses=("cross_entropy", "lovasz_sigmoid"), seeds=(0,), classes=("background", "foreground"))
    for entry, test, val in zip(content["runs"], (1.0, 0.496), (0.6, 0.8), strict=True):
        entry["scores"]["test"]["dataset_miou"], entry["scores"]["val"]["dataset_miou"] = test, val
    content["dataset"]["absent"] = absent
    return content


def test_a_test_split_of_one_class_leaves_the_headline_to_validation_and_says_so() -> None:
    assert headline(with_absent({}))[0].startswith("Lovász-Sigmoid: 49.6 % test mIoU, 50.4 points below")
    title, lede = headline(with_absent({"test": ["foreground"]}))
    assert title == "Lovász-Sigmoid: 80.0 % validation mIoU, +20.0 points over cross-entropy (1 seed)"
    assert lede.startswith("The test masks hold background alone, so the validation images decide here.")


def test_the_headline_ranks_no_losses_where_no_split_holds_more_than_one_class() -> None:
    title, lede = headline(with_absent({"val": ["foreground"], "test": ["foreground"]}))
    assert title == "The test masks hold background alone, so they cannot tell which loss is better"
    assert lede.startswith("Lovász-Sigmoid: 49.6 % test mIoU")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("absent", {"test": ["sky"]}, r'dataset.absent.test: "sky" is none of'),
        ("absent", {"test": "foreground"}, "dataset.absent.test: expected a list"),
        ("copies", {"val": {"count": "2"}}, "dataset.copies.val.count: expected a whole number"),
    ],
)
def test_damaged_cautions_of_a_comparison_are_told(tmp_path: Path, field: str, value: object, message: str) -> None:
    content = with_absent({})
    content["dataset"][field] = value
    with pytest.raises(LabError, match=message):
        read_comparison(write(tmp_path, content))


def splits(root: Path) -> list[Any]:
    return [open_dataset(f"folder:{root}", split) for split in ("train", "val", "test")]


def test_copies_of_training_images_under_other_names_are_counted_and_said(
    tmp_path: Path, images: Path, said: list[str]
) -> None:
    assert copies_of_training(splits(images)) == {}
    shutil.copy(images / "images" / "1.png", images / "images" / "2.png")
    assert copies_of_training(splits(images)) == {"val": {"count": 1, "image": "2", "trained": "1"}}
    train(run(images, out=str(tmp_path / "out")), progress=False)
    words = "1 of 1 validation images is in training too, byte for byte (2 is 1): the network has seen it"
    assert any(words in line for line in said), said


def test_images_whose_hashes_agree_and_whose_bytes_do_not_are_no_copies(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lovasz.lab import seen

    monkeypatch.setattr(seen, "_hash", lambda _: "1234")
    assert copies_of_training(splits(images)) == {}
