"""A folder is resumed on the data it was made of: a random split of fewer images is another one, and no run may mix
them. Apart from test_comparison.py and test_training.py, whose data are no files."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.lab.image_files import labels, write_folder

from lovasz.lab import findings, training
from lovasz.lab.comparison import compare
from lovasz.lab.config import ComparisonConfig, RunConfig
from lovasz.lab.errors import LabError
from lovasz.lab.models import create_model, save_weights
from lovasz.lab.run_folder import check_folder, claimed, open_folder
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


@pytest.mark.parametrize(
    "said", [{"void_index": 254}, {"void_rgb": [3, 3, 3]}, {"palette_rgb": [[9, 9, 9], [1, 1, 1], [2, 2, 2]]}]
)
def test_classes_json_that_gives_masks_another_meaning_is_noticed(tmp_path, images, said) -> None:
    names = {"classes": ["a", "b", "c"], "void_index": 255, "palette_rgb": [[0, 0, 0], [1, 1, 1], [2, 2, 2]]}
    (images / "classes.json").write_text(json.dumps(names))
    before = Data.open(run(images)).contents()
    (images / "classes.json").write_text(json.dumps(names | said))
    now = Data.open(run(images)).contents()
    difference = contents_difference(before, now)
    assert difference is not None
    assert "whose mask values or colours mean other classes" in difference
    earlier = json.loads(json.dumps(before))
    for split in earlier["splits"].values():
        del split["coding"]
    assert contents_difference(earlier, now) is None


@pytest.mark.parametrize("finished", [False, True])
def test_data_and_weights_that_moved_are_told_by_what_is_in_them(tmp_path, images, finished) -> None:
    start = tmp_path / "start.safetensors"
    torch.manual_seed(0)
    classes = [f"class {label}" for label in range(3)]
    save_weights(create_model("unet", 3), start, model_name="unet", classes=classes, palette=None)
    asked = run(images, weights=str(start), out=str(tmp_path / "out"))
    done = train(asked, progress=False)
    if not finished:
        done.unlink()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in (images, start, start.with_suffix(".json")):
        path.rename(moved / path.name)
    there = asked.replace(data=f"folder:{moved / images.name}", weights=str(moved / start.name))
    with pytest.raises(LabError, match="another configuration, data"):
        train(there.replace(data=f"{there.data}?coding=index"), resume=True, progress=False)
    files = remove(moved / images.name, "im3")
    with pytest.raises(LabError, match="cannot resume with other data"):
        train(there, resume=True, progress=False)
    for path, content in files.items():
        path.write_bytes(content)
    assert train(there, resume=True, progress=False).is_file()
    config = kept(tmp_path / "out")
    (tmp_path / "out" / "config.json").write_text(json.dumps({"run": config["run"]}))  # of an earlier version
    with pytest.raises(LabError, match="another configuration, data"):
        train(there.replace(data=asked.data if not finished else "folder:x"), resume=True, progress=False)


def test_a_damaged_note_of_the_data_is_told(tmp_path, images) -> None:
    asked = run(images)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text(json.dumps({"run": asked.to_json(), "data": [1]}))
    contents = Data.open(asked).contents()
    with pytest.raises(LabError, match=r"config.json: not the configuration of a run"):
        open_folder(tmp_path / "out", {"run": asked.to_json(), "data": contents}, resume=True)


@pytest.mark.parametrize("options", [[1], "ab", 1])
def test_options_of_data_that_are_none_are_refused(images, options) -> None:
    with pytest.raises(LabError, match=r"data_options: got .*expected options by name"):
        run(images, data_options=options)


def test_a_damaged_field_of_a_configuration_is_told(tmp_path, images) -> None:
    asked = run(images)
    (tmp_path / "out").mkdir()
    for field, value in (("data_options", [1]), ("device", 5), ("crop", [1, "x"])):
        damaged = {"run": asked.to_json() | {field: value}}
        (tmp_path / "out" / "config.json").write_text(json.dumps(damaged))
        with pytest.raises(LabError):
            open_folder(tmp_path / "out", {"run": asked.to_json()}, resume=True)


@pytest.fixture
def scoring(monkeypatch):
    """Scores of the test images fail until `mended` is set."""
    state = {"mended": False}
    evaluate = training.evaluate

    def scored(network, dataset, **options):
        if dataset.split == "test" and not state["mended"]:
            raise LabError("a mask of test is bad")
        return evaluate(network, dataset, **options)

    monkeypatch.setattr(training, "evaluate", scored)
    return state


def of_another_size(images: Path, split: str) -> None:
    """The same pixels in a longer file."""
    pairs = getattr(Data.open(run(images)), split).pairs
    path = pairs[0].mask
    before = path.stat().st_size
    with Image.open(path) as mask:
        mask.load()
        mask.save(path, compress_level=0)
    assert path.stat().st_size != before


def test_scoring_that_fails_keeps_the_weights_and_goes_on_when_the_file_is_repaired(tmp_path, images, scoring) -> None:
    asked = run(images, out=str(tmp_path / "out"))
    with pytest.raises(LabError, match="a mask of test is bad"):
        train(asked, progress=False)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    scoring["mended"] = True
    of_another_size(images, "test")
    of_another_size(images, "val")
    finished = train(asked, resume=True, progress=False)
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    scores = json.loads(finished.read_text())["scores"]
    assert json.loads((tmp_path / "out" / "model.json").read_text())["scores"] == scores


@pytest.mark.parametrize(("split", "finished"), [("train", False), ("test", True)])
def test_files_of_other_sizes_are_refused_in_training_and_after_a_finished_run(
    tmp_path, images, scoring, split, finished
) -> None:
    asked = run(images, out=str(tmp_path / "out"))
    scoring["mended"] = finished
    if finished:
        train(asked, progress=False)
    else:
        with pytest.raises(LabError, match="is bad"):
            train(asked, progress=False)
    of_another_size(images, split)
    known = {"run": asked.to_json(), "data": Data.open(asked).contents()}
    with pytest.raises(LabError, match=rf"other data, split '{split}'.*files of other sizes"):
        check_folder(tmp_path / "out", known, resume=True)


def test_only_changed_files_are_checked_again_when_a_run_goes_on(tmp_path, images, scoring, monkeypatch) -> None:
    asked = run(images, out=str(tmp_path / "out"))
    with pytest.raises(LabError, match="is bad"):
        train(asked, progress=False)
    passes = []
    monkeypatch.setattr(findings, "check_files", lambda *_, **__: passes.append("pass") or {})
    with pytest.raises(LabError, match="is bad"):
        train(asked, resume=True, progress=False)
    assert passes == []
    of_another_size(images, "test")
    with pytest.raises(LabError, match="is bad"):
        train(asked, resume=True, progress=False)
    assert passes == ["pass"]


def known(images: Path, **changes) -> dict:
    asked = run(images, **changes)
    return {"run": asked.to_json(), "data": Data.open(asked).contents()}


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_in_which_nothing_was_trained_begins_anew_with_other_settings(tmp_path, images, resume) -> None:
    out = tmp_path / "out"
    open_folder(out, known(images), resume=False)
    stale = [out / name for name in ("comparison.json", "image_classes.json")]
    for path in stale:
        path.write_text('{"runs": []}')
    (out / "logs").mkdir()
    open_folder(out, known(images), resume=resume)
    assert all(path.is_file() for path in stale)  # the same settings: what was found out still holds
    other = known(images, learning_rate=0.1)
    open_folder(out, other, resume=resume)
    assert kept(out) == json.loads(json.dumps(other))
    assert not any(path.is_file() for path in stale)


@pytest.mark.parametrize("name", ["seed-0/checkpoints/last.ckpt", "a/run.json", "model.safetensors", "comparison.json"])
def test_a_folder_that_holds_work_is_kept(tmp_path, images, name) -> None:
    out = tmp_path / "out"
    open_folder(out, known(images), resume=False)
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text('{"runs": [1]}')
    before = kept(out)
    with pytest.raises(LabError, match="exists and is not empty"):
        open_folder(out, known(images), resume=False)
    with pytest.raises(LabError, match="another configuration, learning_rate"):
        open_folder(out, known(images, learning_rate=0.1), resume=True)
    assert kept(out) == before


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on folders there")
def test_two_processes_do_not_work_in_one_folder(tmp_path, images) -> None:
    out, configuration = tmp_path / "out", known(images)
    with claimed(out, configuration, resume=False):
        for resume in (False, True):
            with (
                pytest.raises(LabError, match="another process works in this output folder now"),
                claimed(out, configuration, resume=resume),
            ):
                pytest.fail("two at once")
        told, tell = os.pipe()
        child = os.fork()
        if not child:  # as a worker that reads images, which a kill of the run may leave for a while
            os.write(tell, b"I am here")
            time.sleep(30)
            os._exit(0)
        os.read(told, 1)
    try:
        with claimed(out, configuration, resume=True):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
