"""An experiment goes on with the data and the weights that it began with: their names are all that its configuration
has, and other files of the same names would mix in silence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.lab.image_files import write

from lovasz.lab.data import open_dataset
from lovasz.lab.errors import LabError
from lovasz.lab.models import create_model, save_weights
from lovasz.lab.paper import batches, binary, everything, finetune, multiclass, networks
from lovasz.lab.paper.result import Experiment, read_result

pytest.importorskip("matplotlib")


def cells(home: Path, seed: int) -> str:
    """A data set of nine images, `folder:HOME/cells`: of one seed the names of another's, not the content."""
    rng, place = np.random.default_rng(seed), home / "cells"
    for number in range(9):
        write(place / "images" / f"{number}.png", rng.integers(0, 256, (16, 16, 3), np.uint8))
        write(place / "masks" / f"{number}.png", (rng.random((16, 16)) < 0.2 + 0.1 * seed).astype(np.uint8))
    for split, stems in (("train", "01234"), ("val", "56"), ("test", "78")):
        (place / f"{split}.txt").write_text("\n".join(stems))
    return f"folder:{place}"


def weights(home: Path, seed: int, data: str) -> Path:
    """A small network, HOME/w.safetensors."""
    torch.manual_seed(seed)
    classes = open_dataset(data, "train").info.classes
    home.mkdir(exist_ok=True)
    network = create_model("unet", len(classes))
    save_weights(network, home / "w.safetensors", model_name="unet", classes=classes, palette=None)
    return home / "w.safetensors"


@pytest.fixture
def start(tmp_path) -> tuple[str, Path]:
    data = cells(tmp_path / "a", 1)
    return data, weights(tmp_path / "a", 1, data)


def ask(folder: Path, data: str, file: Path, *, resume: bool = False) -> Path:
    return batches.run(folder, data, file, model="unet", batch_sizes=(1, 2), passes=1, resume=resume)


def test_a_resumed_experiment_takes_no_other_data_and_no_other_weights(start, tmp_path):
    data, file = start
    first = read_result(ask(tmp_path / "out", data, file))["scores"]
    with pytest.raises(LabError, match=r"cannot resume with other data, split 'val': 2 images there, 2 now, in files"):
        ask(tmp_path / "out", cells(tmp_path / "b", 2), file, resume=True)
    with pytest.raises(LabError, match=r"other weights, the file w\.safetensors has changed"):
        ask(tmp_path / "out", data, weights(tmp_path / "c", 2, data), resume=True)
    assert read_result(ask(tmp_path / "out", data, file, resume=True))["scores"] == first


def test_files_that_lie_elsewhere_are_the_same(start, tmp_path):
    data, file = start
    first = read_result(ask(tmp_path / "out", data, file))["scores"]
    data = cells(tmp_path / "moved", 1)
    again = ask(tmp_path / "out", data, weights(tmp_path / "moved", 1, data), resume=True)
    assert read_result(again)["scores"] == first


def test_a_state_of_an_earlier_version_is_resumed_and_notes_the_files_from_then_on(start, tmp_path):
    data, file = start
    ask(tmp_path / "out", data, file)
    path = tmp_path / "out" / "state.json"
    noted = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in noted.items() if name != "inputs"}))
    ask(tmp_path / "out", data, file, resume=True)
    assert json.loads(path.read_text())["inputs"] == noted["inputs"]


def test_a_grid_of_an_earlier_version_that_noted_its_data_does_not_go_on_with_others(tmp_path):
    there = {"classes": ["a"], "splits": {"val": {"images": 2, "names": "x"}}}
    Experiment.open("finetune", tmp_path / "f", {}, resume=False).keep()
    path = tmp_path / "f" / "state.json"
    old = json.loads(path.read_text()) | {"state": {"data": there}}
    del old["inputs"]
    path.write_text(json.dumps(old))
    same = {"classes": ["a"], "splits": {"val": {"images": 2, "names": "x", "sizes": "new"}}}
    Experiment.open("finetune", tmp_path / "f", {}, resume=True, data=same)
    path.write_text(json.dumps(old))
    other = {"classes": ["a"], "splits": {"val": {"images": 2, "names": "y"}}}
    with pytest.raises(LabError, match=r"other data, split 'val'"):
        Experiment.open("finetune", tmp_path / "f", {}, resume=True, data=other)


def test_every_experiment_that_reads_files_notes_them(start, tmp_path, monkeypatch):
    data, file = start
    noted = {}

    def stop(name, *_, data, weights, **__):
        noted[name] = set(data["splits"]), Path(weights)
        raise LabError("stopped by the test")

    monkeypatch.setattr(Experiment, "open", stop)
    monkeypatch.setattr(networks, "load_weights", lambda *_: torch.nn.Identity())
    common = {"data": data, "weights": str(file), "model": "unet"}
    runs = [
        lambda: ask(tmp_path / "1", data, file),
        lambda: networks.run(tmp_path / "2", data, file),
        lambda: binary.run(tmp_path / "3", binary.Setting(**common)),
        lambda: multiclass.run(tmp_path / "4", multiclass.Setting(**common, crf=False, batches=0)),
        lambda: finetune.run(tmp_path / "5", finetune.Setting(**common)),
    ]
    for run in runs:
        with pytest.raises(LabError, match="stopped by the test"):
            run()
    whole = {"train", "val", "test"}, file
    assert noted == {
        "batches": ({"val"}, file), "networks": ({"val"}, file),
        "binary": whole, "multiclass": whole, "finetune": whole,
    }  # fmt: skip


@pytest.mark.parametrize("changed", ["data", "weights"])
def test_a_finished_part_of_all_is_not_taken_for_one_of_other_files(start, tmp_path, changed):
    data, file = start
    config = read_result(ask(tmp_path / "out", data, file))["config"]
    if changed == "data":
        data = cells(tmp_path / "b", 2)
    else:
        file = weights(tmp_path / "b", 2, data)
    made = everything.Part(config, pytest.fail, everything._inputs(data, file, "val"))
    with pytest.raises(LabError, match=f"cannot resume with other {changed}"):
        everything.finished(tmp_path / "out", made)
    plain = start[0], start[1], "val"
    assert everything.finished(tmp_path / "out", everything.Part(config, pytest.fail, everything._inputs(*plain)))


def test_a_start_that_fails_leaves_no_folder_that_keeps_the_next_from_running(start, tmp_path):
    data, file = start
    common = {"data": data, "model": "unet"}
    out = tmp_path / "out"
    for wrong in (tmp_path / "typo.safetensors", tmp_path / "a/cells/train.txt"):
        for run in (
            lambda wrong=wrong: binary.run(out, binary.Setting(**common, weights=str(wrong))),
            lambda wrong=wrong: finetune.run(out, finetune.Setting(**common, weights=str(wrong))),
            lambda wrong=wrong: multiclass.run(
                out, multiclass.Setting(**common, weights=str(wrong), crf=False, batches=0)
            ),
        ):
            with pytest.raises(LabError, match=wrong.name):
                run()
    with pytest.raises(LabError, match="nothing is trained here"):
        finetune.run(out, finetune.Setting(**common, weights=str(file)), training=False)
    assert not out.exists()
    Experiment.open("finetune", out / "training", {"epochs": 3}, resume=False)  # killed before anything was computed
    Experiment.open("multiclass", out, {"epochs": 5}, resume=False)


@pytest.mark.parametrize(
    "damage",
    [
        {"seconds": "x"},
        {"seconds": None},
        {"seconds": float("nan")},
        {"inputs": [1]},
        {"inputs": {"weights": {"a": 1}}},
    ],
)
def test_a_damaged_state_is_told(start, tmp_path, damage):
    Experiment.open("batches", tmp_path / "out", {}, resume=False, weights=start[1]).finish({}, {})
    path = tmp_path / "out" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(LabError, match=r"state\.json: (seconds is|its inputs are) .*hoose another --out"):
        Experiment.open("batches", tmp_path / "out", {}, resume=True, weights=start[1])


def test_a_result_whose_time_is_no_number_is_told(tmp_path):
    path = Experiment.open("batches", tmp_path / "out", {}, resume=False).finish({}, {})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": float("nan")}))
    with pytest.raises(LabError, match=r"result\.json: seconds is nan; run the experiment again"):
        read_result(path)


def test_rates_that_look_alike_have_folders_of_their_own():
    setting = finetune.Setting(data="camvid:PATH", weights="w", learning_rates=(0.001, 0.0010000004), seeds=(0,))
    names = {finetune._name(one) for one in setting.searched()}
    assert len(names) == 2 * len(setting.losses) * len(setting.batch_sizes)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on folders there")
def test_two_processes_do_not_compute_into_one_folder(tmp_path):
    out = tmp_path / "out"
    first = Experiment.open("surfaces", out, {"points": 3}, resume=False)
    Experiment.open("surfaces", out, {"points": 3}, resume=True)  # the same process may, as a notebook does
    again = [sys.executable, "-m", "lovasz", "paper", "surfaces", "--out", str(out), "--resume"]
    second = subprocess.run(again, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert "another process works in this output folder now" in " ".join(second.stderr.split())
    first.finish({}, {})
    with pytest.raises(LabError, match="another configuration"):
        Experiment.open("surfaces", out, {"points": 4}, resume=True)
    third = subprocess.run(again, capture_output=True, text=True, check=False)
    assert "another configuration, points: 3 there" in " ".join(third.stderr.split())
