"""The paper's experiments that need no training: against formulas written out here, resumed, and as a page."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from tests.lab.image_files import labels, picture, write
from typer.testing import CliRunner

from lovasz import lovasz_extension
from lovasz.lab import commands
from lovasz.lab.data import IGNORE_INDEX, open_dataset
from lovasz.lab.data.voc import VOC_INFO
from lovasz.lab.errors import LabError
from lovasz.lab.models import create_model, load_weights, save_weights
from lovasz.lab.models.resized import AtSize
from lovasz.lab.paper import networks, page, surfaces, synthetic
from lovasz.lab.paper.commands import EXAMPLES, paper_app
from lovasz.lab.paper.result import Experiment, read_result
from lovasz.metrics import DatasetIoU

SMALL = synthetic.Setting(draws=2, images=2, size=12, radius=(2.0, 5.0), bias=(-2.0, 1.0, 0.25))
runner = CliRunner()


# --- Figures 1 and 2


@pytest.mark.parametrize("kind", ["hinge", "softmax"])
@pytest.mark.parametrize("truth", surfaces.TRUTHS)
def test_the_surface_is_the_extension_of_the_jaccard_loss(kind, truth):
    margins = torch.randn(20, 2, dtype=torch.float64) * 2
    values = surfaces.surface(kind, margins, truth)
    for (a, b), value in zip(margins.tolist(), values.tolist(), strict=True):
        errors = [max(r, 0.0) if kind == "hinge" else 1 / (1 + math.exp(-r)) for r in (a, b)]
        assert value == pytest.approx(oracle.extension(np.array(errors), np.array(truth, bool)), abs=1e-12)


def test_the_dots_are_the_jaccard_losses_of_two_pixels():
    assert {wrong: surfaces.discrete((1, 1), wrong) for wrong in surfaces.TRUTHS} == {
        (0, 0): 0.0, (0, 1): 0.5, (1, 0): 0.5, (1, 1): 1.0,
    }  # fmt: skip
    assert {wrong: surfaces.discrete((1, 0), wrong) for wrong in surfaces.TRUTHS} == {
        (0, 0): 0.0, (0, 1): 0.5, (1, 0): 1.0, (1, 1): 1.0,
    }  # fmt: skip
    assert surfaces.discrete((0, 0), (0, 1)) == 1.0  # any false positive where nothing is there


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Both experiments, small."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("paper")
    surfaces.run(folder / "surfaces", points=5)
    synthetic.run(folder / "synthetic", SMALL)
    return folder


def test_surfaces_gives_pictures_a_page_without_network_and_numbers(results):
    result = read_result(results / "surfaces" / "result.json")
    for kind in ("hinge", "softmax"):
        assert max(one["largest_distance_of_dots"] for one in result["scores"][kind]) < 1e-12
    assert min(one["smallest_second_difference"] for one in result["scores"]["hinge"]) >= -1e-12  # convex
    assert min(one["smallest_second_difference"] for one in result["scores"]["softmax"]) < 0  # the sigmoid is not
    text = (results / "surfaces" / "surfaces.html").read_text()
    assert "<script src" not in text
    assert all((results / "surfaces" / name).read_bytes().startswith(b"\x89PNG") for name in result["pictures"])


# --- Figure 3


def test_the_search_agrees_with_the_formulas_written_out():
    features, truth = synthetic.draw(SMALL, 0)
    biases = np.array([-1.0, 0.0, 0.3])
    found = synthetic.search(features, truth, biases)
    for column, bias in enumerate(biases.tolist()):
        expected = np.zeros(4)
        for x, t in zip(features, truth, strict=True):
            score, sign = x + bias, np.where(t, 1, -1)
            hinge = np.maximum(0, 1 - score * sign)
            predicted = score > 0
            jaccard = 1 - (predicted & t).sum() / (predicted | t).sum()
            entropy = np.log1p(np.exp(-score * sign)).mean()
            expected += [entropy, hinge.mean(), oracle.extension(hinge, t), jaccard]
        np.testing.assert_allclose(found[:, column], expected / 2, atol=1e-12)
        errors = torch.from_numpy(np.maximum(0, 1 - (features + bias) * np.where(truth, 1, -1)))
        extension = lovasz_extension(errors, torch.from_numpy(truth)).mean()
        assert found[2, column] == pytest.approx(float(extension), abs=1e-12)


def test_each_image_holds_one_circle_that_lies_inside_and_the_feature_is_normal():
    setting = synthetic.Setting(images=20)
    features, truth = synthetic.draw(setting, 3)
    images = truth.reshape(20, 50, 50)
    areas = images.sum(axis=(1, 2))
    assert (areas > 3 * 5**2).all()
    assert (areas < 3.3 * 20**2).all()
    for image in images:  # as wide as high, up to the grid
        height, width = image.any(1).sum(), image.any(0).sum()
        assert abs(int(height) - int(width)) <= 1
        assert int(image.sum()) == pytest.approx(math.pi * float(height) ** 2 / 4, rel=0.15)
    assert float(features[truth].mean()) == pytest.approx(1, abs=0.02)
    assert float(features[~truth].std()) == pytest.approx(0.5, abs=0.02)
    shifted, same = synthetic.draw(setting, 3, "shift")
    assert np.array_equal(truth, same)
    assert float(shifted[~truth].mean()) == pytest.approx(-0.5, abs=0.02)
    assert float(shifted[truth].std()) == pytest.approx(1, abs=0.02)


def test_a_killed_search_goes_on_and_ends_the_same(results, tmp_path, monkeypatch):
    draw = synthetic.draw

    def killed(setting, number, reading="noise"):
        if number == 1:
            raise KeyboardInterrupt
        return draw(setting, number, reading)

    monkeypatch.setattr(synthetic, "draw", killed)
    with pytest.raises(KeyboardInterrupt):
        synthetic.run(tmp_path / "s", SMALL)
    monkeypatch.setattr(synthetic, "draw", draw)
    resumed = read_result(synthetic.run(tmp_path / "s", SMALL, resume=True))
    assert resumed["scores"] == read_result(results / "synthetic" / "result.json")["scores"]


def test_a_result_keeps_its_configuration_and_says_nothing_of_the_machine_but_its_kind(results):
    result = read_result(results / "synthetic" / "result.json")
    assert result["config"] == SMALL.to_json()
    assert str(Path.home()) not in json.dumps(result["environment"])
    assert result["seconds"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draws": 0}, "draws: got 0"),
        ({"radius": (5.0, 40.0)}, "radius: got 5.0 to 40.0"),
        ({"radius": (20.0, 5.0)}, "radius: got 20.0 to 5.0, expected the smaller one first"),
        ({"bias": (1.0, 0.0, 0.1)}, "bias: got 1.0 to 0.0"),
        ({"epsilon": 0.0}, "epsilon: got 0.0"),
        ({"epsilon": math.inf}, "epsilon: got inf"),
        ({"bias": (-3.0, 2.0, math.inf)}, "bias: got -3.0 to 2.0 by inf"),
        ({"bias": (-3.0, 2.0, math.nan)}, "bias: got -3.0 to 2.0 by nan"),
        ({"bias": (-3.0, 2.0, 1e-9)}, "bias: .* take larger steps"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes, message):
    with pytest.raises(LabError, match=message):
        synthetic.Setting(**changes)


@pytest.mark.parametrize(("step", "last"), [(0.3, 1.8), (0.05, 2.0), (0.1, 2.0), (5.0, 2.0), (4.0, 1.0)])
def test_no_bias_lies_beyond_the_last_one_that_was_asked_for(step, last):
    assert synthetic.Setting(bias=(-3.0, 2.0, step)).biases[-1] == pytest.approx(last)


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for resume, message in ((False, "Add --resume"), (True, "nothing to resume")):
        with pytest.raises(LabError, match=message):
            Experiment.open("surfaces", tmp_path, {}, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    begun = Experiment.open("surfaces", tmp_path / "new", {"points": 3}, resume=False)
    Experiment.open("surfaces", tmp_path / "new", {"points": 5}, resume=False)  # nothing is lost: it begins anew
    begun.state["something"] = 1
    begun.keep()
    with pytest.raises(LabError, match="points: 3 there, 4 now"):
        Experiment.open("surfaces", tmp_path / "new", {"points": 4}, resume=True)
    with pytest.raises(LabError, match="not the state of `lovasz paper synthetic`"):
        Experiment.open("synthetic", tmp_path / "new", {"points": 3}, resume=True)


# --- the networks


@pytest.fixture
def voc(tmp_path) -> Path:
    """Three small images in VOC's layout, and random weights for them."""
    home = tmp_path / "VOC2012"
    for number in range(3):
        write(home / "JPEGImages" / f"{number}.jpg", picture(number, 20, 24))
        write(home / "SegmentationClass" / f"{number}.png", labels(0, 5, 255, height=20, width=24))
    for split, stems in (("train", "0"), ("val", "1\n2")):
        path = home / "ImageSets/Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(stems)
    model = create_model("espnetv2", 21)
    place = tmp_path / "w.safetensors"
    save_weights(model, place, model_name="espnetv2", classes=VOC_INFO.classes, palette=None)
    return tmp_path


def test_the_networks_are_scored_by_the_confusion_of_all_images_and_resumed(voc, monkeypatch):
    monkeypatch.setattr(networks, "SIZE", (32, 32))
    monkeypatch.setattr(networks, "KEPT_EVERY", 1)
    predict = networks.predict_labels
    asked = []

    def counted(model, images, *rest):
        asked.append(images.shape)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return predict(model, images, *rest)

    monkeypatch.setattr(networks, "predict_labels", counted)
    with pytest.raises(KeyboardInterrupt):
        networks.run(voc / "out", f"voc:{voc}", voc / "w.safetensors")
    path = networks.run(voc / "out", f"voc:{voc}", voc / "w.safetensors", resume=True)
    assert len(asked) == 3  # the first image was not asked again
    result = read_result(path)
    assert str(voc) not in path.read_text()
    metric = DatasetIoU(21, ignore_index=IGNORE_INDEX)
    model = AtSize(load_weights("espnetv2", voc / "w.safetensors", VOC_INFO.classes).eval(), (32, 32))
    dataset = open_dataset(f"voc:{voc}", "val")
    for index in range(2):
        sample = dataset[index]
        metric.update(predict(model, sample.image[None], "cpu", 21), sample.mask[None].long())
    assert result["scores"]["espnetv2"]["miou"] == pytest.approx(float(metric.compute()))
    assert result["scores"]["deeplab_output"] == 41
    assert result["scores"]["parameters"]["deeplab"] == pytest.approx(44e6, rel=0.005)
    assert "measured elsewhere" not in page.render(networks.section(result), result, "x")  # these are other images


# --- the page


def test_the_page_is_made_from_the_results_alone(results, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    path = copy / "synthetic" / "result.json"
    result = json.loads(path.read_text())
    result["scores"]["noise"]["summary"]["hinge"]["mean_minimum"] = 12.345
    result["seconds"] = 75
    path.write_text(json.dumps(result))
    text = page.write_page(copy, tmp_path / "docs" / "paper.md").read_text()
    assert "+12.345" in text
    assert "Time: 1 min 15 s" in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / "docs" / line.rpartition("(")[2].rstrip(")")).is_file()
    assert json.loads((tmp_path / "docs" / "results" / "paper" / "synthetic.json").read_text()) == result
    assert text.index("Section 2") < text.index("Section 4.1")
    for word in ("the paper", "ours", "Setting:", "Comparable:", "Machine:"):
        assert word in text


def test_the_page_takes_no_html_of_a_result(results):
    result = read_result(results / "surfaces" / "result.json")
    result["environment"]["processor"] = "<script>alert(1)</script>"
    text = page.render(surfaces.section(result), result, "<b>", {"a.png": "<i>"})
    assert "<" not in text
    assert "&lt;script>" in text


def test_results_below_the_root_of_the_file_system_are_looked_for_without_a_traceback(monkeypatch):
    root = Path("/x")
    monkeypatch.setattr(Path, "glob", lambda self, _: [])
    monkeypatch.setattr(Path, "is_file", lambda self: self == root / "surfaces.json")
    assert [source.pictures for source in page.sources(root)] == [Path("/pictures")]


def test_the_page_can_be_made_again_from_the_copies_beside_it(results, tmp_path):
    first = page.write_page(results, tmp_path / "docs" / "paper.md").read_text()
    kept = tmp_path / "docs" / "results" / "paper"
    (tmp_path / "docs" / "paper.md").unlink()
    assert page.write_page(kept, tmp_path / "docs" / "paper.md").read_text() == first  # in its place
    assert page.write_page(kept, tmp_path / "other" / "paper.md").read_text() == first
    for folder in ("pictures", "results/paper"):
        names = {path.name for path in (tmp_path / "docs" / folder).iterdir()}
        assert {path.name for path in (tmp_path / "other" / folder).iterdir()} == names


def test_two_results_of_one_section_keep_their_pictures_apart(results, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    shutil.copytree(copy / "synthetic", copy / "synthetic-large")
    other = (copy / "surfaces" / "paper-figure-1.png").read_bytes()
    (copy / "synthetic-large" / "paper-figure-3.png").write_bytes(other)
    first = page.write_page(copy, tmp_path / "docs" / "paper.md").read_text()
    links = re.findall(r"\(pictures/(paper-figure-3.*?)\)", first)
    assert links == ["paper-figure-3.png", "paper-figure-3-large.png"]
    plain, large = ((tmp_path / "docs" / "pictures" / link).read_bytes() for link in links)
    assert plain == (results / "synthetic" / "paper-figure-3.png").read_bytes()
    assert large == other
    again = page.write_page(tmp_path / "docs" / "results" / "paper", tmp_path / "new" / "paper.md").read_text()
    assert again == first
    assert (tmp_path / "new" / "pictures" / links[1]).read_bytes() == other


def test_the_page_of_this_repository_is_what_its_results_say(tmp_path):
    docs = Path(__file__).resolve().parents[2] / "docs"
    again = page.write_page(docs / "results" / "paper", tmp_path / "paper.md")
    assert again.read_text(encoding="utf-8") == (docs / "paper.md").read_text(encoding="utf-8")


def test_a_page_without_results_or_with_a_broken_one_says_which(results, tmp_path):
    with pytest.raises(LabError, match="no results here"):
        page.write_page(tmp_path, tmp_path / "paper.md")
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    path = copy / "synthetic" / "result.json"
    good = json.loads(path.read_text())
    for broken, message in (
        ("[]", "expected a result of version 1"),
        (json.dumps(good | {"scores": {}}), "a score is missing"),
        (json.dumps(good | {"name": "surfaces"}), "expected one of synthetic"),
        (json.dumps(good | {"pictures": {"../x.png": ""}}), "its picture '../x.png' is not there"),
        ("{", "cannot be read as JSON"),
    ):
        path.write_text(broken)
        with pytest.raises(LabError, match=message):
            page.write_page(copy, tmp_path / "paper.md")


def test_the_commands_run_and_say_where_the_result_is(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(commands.app, ["paper", "surfaces", "--points", "5"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "runs/paper/surfaces/result.json").is_file()
    again = runner.invoke(commands.app, ["paper", "surfaces", "--points", "5"])
    assert again.exit_code == 2
    assert "Add --resume" in again.output
    made = runner.invoke(commands.app, ["paper", "page", "--out", "paper.md"])
    assert made.exit_code == 0, made.output
    assert (tmp_path / "paper.md").is_file()
    wrong = runner.invoke(commands.app, ["paper", "synthetic", "--radius", "big"])
    assert wrong.exit_code == 2
    assert "--radius 'big'" in wrong.output


def test_every_section_of_the_page_has_a_command_with_examples():
    names = {command.name or command.callback.__name__ for command in paper_app.registered_commands}
    assert set(page.SECTIONS) | {"page", "all"} == names == set(EXAMPLES)
