"""A folder is resumed on the data it was made of: a random split of fewer images is another one, and no run may mix
them. Apart from test_comparison.py and test_training.py, whose data are no files."""

import json
from pathlib import Path

import pytest
from tests.lab.image_files import labels, write_folder

from lovasz.lab.comparison import compare
from lovasz.lab.config import ComparisonConfig, RunConfig
from lovasz.lab.errors import LabError
from lovasz.lab.run_folder import claimed, open_folder
from lovasz.lab.splits import Data, contents_difference
from lovasz.lab.training import train


@pytest.fixture
def images(tmp_path) -> Path:
    """Ten images and masks, which a folder without splits divides at random."""
    return write_folder(tmp_path / "mine", {f"im{i}": labels(0, 1, 2, height=16, width=16) for i in range(10)})


def run(images: Path, **changes) -> RunConfig:
    values = {"data": f"folder:{images}", "model": "unet", "epochs": 1, "batch_size": 2, "threads": 1}
    return RunConfig(**(values | changes))


def remove(images: Path, name: str) -> dict[Path, bytes]:
    """Takes an image and its mask away; what is needed to put them back."""
    files = {path: path.read_bytes() for path in images.rglob(f"{name}.png")}
    assert len(files) == 2
    for path in files:
        path.unlink()
    return files


def kept(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def test_losses_are_not_added_to_a_comparison_whose_images_have_changed(tmp_path, images) -> None:
    out = tmp_path / "out"

    def asked(*losses: str, resume: bool = True) -> ComparisonConfig:
        return ComparisonConfig(run=run(images), losses=losses, out=str(out), examples=0, resume=resume)

    compare(asked("cross_entropy", resume=False), progress=False)
    before = kept(out)
    there = {name: split["images"] for name, split in before["data"]["splits"].items()}
    files = remove(images, "im3")
    with pytest.raises(
        LabError, match=rf"other data, split '\w+': {there['train']} images there.*choose another --out"
    ):
        compare(asked("lovasz_softmax"), progress=False)
    assert kept(out) == before
    for path, content in files.items():
        path.write_bytes(content)
    document = json.loads(compare(asked("lovasz_softmax"), progress=False).read_text())
    assert [entry["loss"] for entry in document["runs"]] == ["cross_entropy", "lovasz_softmax"]
    assert document["dataset"]["images"] == {"train": None, "val": None, "test": None} | there


def test_an_unfinished_run_does_not_go_on_with_other_images(tmp_path, images) -> None:
    asked = run(images, out=str(tmp_path / "out"))
    finished = train(asked, progress=False)
    finished.unlink()
    before = kept(finished.parent)
    files = remove(images, "im3")
    with pytest.raises(LabError, match=r"config.json: cannot resume with other data, split 'train'"):
        train(asked, resume=True, progress=False)
    for path, content in files.items():
        path.write_bytes(content)
    assert train(asked, resume=True, progress=False).is_file()
    assert train(asked, resume=True, progress=False).is_file()  # finished: the data are not opened
    assert kept(finished.parent) == before


def test_a_folder_from_before_the_data_were_noted_is_resumed(tmp_path, images) -> None:
    asked = run(images, out=str(tmp_path / "out"))
    finished = train(asked, progress=False)
    finished.unlink()
    noted = kept(finished.parent)
    (finished.parent / "config.json").write_text(json.dumps({"run": noted["run"]}))
    assert train(asked, resume=True, progress=False).is_file()
    assert kept(finished.parent) == noted


def test_the_first_difference_of_the_data_is_named(images) -> None:
    before = Data.open(run(images)).contents()
    assert before == json.loads(json.dumps(before))
    assert contents_difference(before, Data.open(run(images)).contents()) is None
    for path in images.rglob("im0.png"):
        path.rename(path.with_name("other.png"))
    renamed = contents_difference(before, Data.open(run(images)).contents())
    assert renamed is not None
    assert "images there" in renamed
    assert "of other names" in renamed
    without_test = before | {"splits": {k: v for k, v in before["splits"].items() if k != "test"}}
    test = before["splits"]["test"]["images"]
    assert contents_difference(before, without_test) == f"split 'test': {test} images there, 0 now"
    named = contents_difference(before, before | {"classes": ["a", "b", "c"]})
    assert named == f"classes: {before['classes']} there, ['a', 'b', 'c'] now"


def test_a_damaged_note_of_the_data_is_told(tmp_path, images) -> None:
    asked = run(images)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text(json.dumps({"run": asked.to_json(), "data": [1]}))
    contents = Data.open(asked).contents()
    with pytest.raises(LabError, match=r"config.json: not the configuration of a run"):
        open_folder(tmp_path / "out", {"run": asked.to_json(), "data": contents}, resume=True)
