"""Section 3.1's measures against their definition, and all parts in turn: skipped when finished, going on when not."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress
from tests.lab.image_files import labels, picture, write
from typer.testing import CliRunner

from lovasz.lab import commands
from lovasz.lab.data import open_dataset
from lovasz.lab.errors import LabError
from lovasz.lab.models import create_model, save_weights
from lovasz.lab.paper import batches, everything, page, surfaces
from lovasz.lab.paper.everything import Part
from lovasz.lab.paper.result import read_result

runner = CliRunner()


def slow_mean_iou(pairs: list[tuple[set[int], set[int]]], present: bool) -> float:
    """Mean over classes of |A and B| / |A or B|, 0/0 = 1, from sets of pixels."""
    values = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs if b or not present]
    return float(np.mean(values))


@pytest.mark.parametrize("classes", ["present", "all"])
def test_the_mean_iou_of_counts_is_that_of_sets_of_pixels(classes):
    rng = np.random.default_rng(0)
    for _ in range(20):
        predicted, true = rng.integers(0, 3, (2, 12))  # class 3 is nowhere
        pairs = [(set(np.flatnonzero(predicted == c)), set(np.flatnonzero(true == c))) for c in range(4)]
        counts = np.array([[len(a & b) for a, b in pairs], [len(a) for a, _ in pairs], [len(b) for _, b in pairs]])
        assert batches.mean_iou(counts, classes) == pytest.approx(slow_mean_iou(pairs, classes == "present"))


def test_a_batch_that_shows_no_class_has_no_value():
    assert np.isnan(batches.mean_iou(np.array([[0, 0], [3, 0], [0, 0]]), "present"))
    assert batches.mean_iou(np.array([[0, 0], [3, 0], [0, 0]]), "all") == 0.5


def test_batches_lie_between_the_images_and_the_data_set():
    """Two images: IoU of class 0 is 1/2 in one and 1 in the other, 51/52 in both together."""
    counts = np.array([[[1, 0], [2, 0], [1, 0]], [[50, 0], [50, 0], [50, 0]]])
    found = batches.summarise(counts, (1, 2), passes=1, seed=0)
    one, two = found["batches"]["shuffle"]["present"]
    assert one["mean"] == pytest.approx(0.75)
    assert one["count"] == 2
    assert two["mean"] == found["dataset"]["present"] == pytest.approx(51 / 52)
    assert found["dataset"]["all"] == pytest.approx((51 / 52 + 1) / 2)  # the absent class counts 0/0 = 1


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """The layout that `all` expects, with a few drawn images and a small network."""
    root = tmp_path_factory.mktemp("shared")
    home = root / "data/voc2012_mini"
    for number in range(5):
        write(home / "JPEGImages" / f"{number}.jpg", picture(number, 20, 24))
        write(home / "SegmentationClass" / f"{number}.png", labels(0, 5, 255, height=20, width=24))
    for split, stems in (("train", "0"), ("val", "1\n2\n3\n4")):
        path = home / "ImageSets/Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(stems)
    for name in ("nuclei/images", "camvid"):
        (root / "data" / name).mkdir(parents=True)
    for split in ("train", "val"):
        write(root / "data/nuclei/images" / f"{split}.png", picture(1, 16, 16))
        write(root / "data/nuclei/masks" / f"{split}.png", labels(0, 1, height=16, width=16))
        (root / "data/nuclei" / f"{split}.txt").write_text(split)
    classes = {"classes": ["background", "nucleus"], "void_index": None}
    (root / "data/nuclei/classes.json").write_text(json.dumps(classes))
    info = open_dataset(f"voc:{home}", "val").info
    path = root / "weights/espnetv2_s2.0_voc2012.safetensors"
    save_weights(create_model("espnetv2", 21), path, model_name="espnetv2", classes=info.classes, palette=None)
    save_weights(create_model("enet", 2), root / "weights/enet_camvid_davidtvs.safetensors", model_name="enet",
                 classes=("a", "b"), palette=None)  # fmt: skip
    return root


def test_the_batches_of_a_network_are_resumed_and_shown(shared, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    places = everything.Places.below(shared)
    how = {"size": (32, 32), "batch_sizes": (1, 2, 4), "passes": 3}
    predict, asked = batches.predict_labels, []
    monkeypatch.setattr(batches, "KEPT_EVERY", 1)

    def killed(*given):
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return predict(*given)

    monkeypatch.setattr(batches, "predict_labels", killed)
    with pytest.raises(KeyboardInterrupt):
        batches.run(tmp_path / "b", places.voc, places.espnet, **how)
    path = batches.run(tmp_path / "b", places.voc, places.espnet, **how, resume=True)
    assert len(asked) == 1 + 4
    result = read_result(path)
    whole = result["scores"]["batches"]["shuffle"]["present"][-1]  # batches of all images
    assert whole["mean"] == pytest.approx(result["scores"]["dataset"]["present"])
    assert str(shared) not in path.read_text()
    text = page.render(batches.section(result), result, "x")
    assert "one image, plain shuffle" in text
    line = "`lovasz paper batches --data voc:PATH --weights espnetv2_s2.0_voc2012.safetensors --size 32x32 "
    assert line + "--batch-sizes 1,2,4 --passes 3`" in text
    with pytest.raises(LabError, match=r"batch_sizes: got \[9\], expected 1 to 4"):
        batches.run(tmp_path / "c", places.voc, places.espnet, batch_sizes=(9,))


@pytest.mark.parametrize("small", [True, False])
def test_every_section_of_the_page_is_a_part_and_its_settings_are_checked_beforehand(shared, small):
    found = everything.parts(everything.Places.below(shared), small=small, device="cpu")
    assert {name.partition("-")[0] for name in found} == set(page.SECTIONS)
    configs = {name: json.dumps(make().config) for name, make in found.items() if name != "finetune"}
    assert not any(str(shared) in config for config in configs.values())
    assert str(shared) not in json.dumps(found["finetune"]().config)


def test_parts_that_were_not_asked_for_need_no_data_and_those_that_were_say_what_is_missing(shared, tmp_path):
    pytest.importorskip("matplotlib")
    found = everything.parts(everything.Places.below(tmp_path / "nowhere"), small=True, device="cpu")
    assert found["surfaces"]().config == {"points": 31}
    with Progress(disable=True) as progress:
        failed = everything.run_all(tmp_path, {name: found[name] for name in ("multiclass", "binary-nuclei")}, progress)
    assert len(failed) == 2
    assert "--shared names the folder" in failed[0]
    assert "nuclei" in failed[1]


def test_one_result_that_cannot_be_read_stops_no_other_part_and_not_the_page(shared, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(surfaces, "run", lambda folder, points, resume: _drawn(folder, resume))
    broken = tmp_path / "runs/paper/synthetic/result.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    command = ["paper", "all", "--small", "--shared", str(shared), "--device", "cpu", "--parts", "synthetic,surfaces"]
    done = runner.invoke(commands.app, command)
    assert done.exit_code == 2
    assert "synthetic: " in done.output
    assert "cannot be read as JSON" in done.output
    text = (tmp_path / "docs/paper.md").read_text()
    assert "Section 2" in text
    assert "Section 4.1" not in text


def test_finished_parts_are_skipped_and_a_failing_one_stops_no_other(tmp_path):
    pytest.importorskip("matplotlib")
    ran = []

    def drawn(points: int) -> everything.Maker:
        def run(folder: Path, resume: bool, _: Progress | bool) -> Path:
            ran.append((folder.name, resume))
            return surfaces.run(folder, points=points, resume=resume)

        return lambda: Part({"points": points}, run)

    def fails(folder: Path, resume: bool, progress: Progress | bool) -> Path:
        raise LabError("no such thing")

    chosen = {"surfaces": drawn(5), "broken": lambda: Part({}, fails), "surfaces-2": drawn(6)}
    with Progress(console=Console(file=io.StringIO(), width=200), disable=True) as progress:
        failed = everything.run_all(tmp_path, chosen, progress)
        assert failed == ["broken: no such thing"]
        assert ran == [("surfaces", False), ("surfaces-2", False)]
        told = progress.console.file.getvalue().splitlines()  # all that a log without a terminal gets
        assert [line.partition(",")[0] for line in told] == [
            "surfaces: part 1 of 3", "surfaces: finished",
            "broken: part 2 of 3", "broken: no such thing",
            "surfaces-2: part 3 of 3", "surfaces-2: finished",
        ]  # fmt: skip
        everything.run_all(tmp_path, chosen, progress)
        assert len(ran) == 2
        # Other settings in the same folder are no result of this part, and are not overwritten.
        failed = everything.run_all(tmp_path, {"surfaces": drawn(7)}, progress)
    assert ran[2:] == [("surfaces", True)]
    assert "points: 5 there, 7 now" in failed[0]


def test_all_runs_chosen_parts_and_writes_the_page(shared, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    command = ["paper", "all", "--small", "--shared", str(shared), "--device", "cpu"]
    monkeypatch.setattr(surfaces, "run", lambda folder, points, resume: _drawn(folder, resume))
    done = runner.invoke(commands.app, [*command, "--parts", "surfaces"])
    assert done.exit_code == 0, done.output
    assert "Section 2" in (tmp_path / "docs/paper.md").read_text()
    wrong = runner.invoke(commands.app, [*command, "--parts", "surfaces,cooking"])
    assert wrong.exit_code == 2
    assert "there is no part 'cooking'" in wrong.output


_run = surfaces.run


def _drawn(folder: Path, resume: bool) -> Path:
    return _run(folder, points=5, resume=resume)


@pytest.mark.parametrize("complete", [True, False])
def test_a_grid_that_was_stopped_is_not_taken_for_finished(tmp_path, complete):
    part = Part({"seeds": [0]}, lambda folder, resume, progress: folder)
    document = {"version": 1, "name": "finetune", "config": {"seeds": [0]}, "environment": {}, "seconds": 1.0}
    document |= {"scores": {"runs": [], "complete": complete}, "pictures": {}}
    (tmp_path / "result.json").write_text(json.dumps(document))
    assert everything.finished(tmp_path, part) is complete
