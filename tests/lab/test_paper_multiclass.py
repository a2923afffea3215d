"""Section 4.3's experiment: every way of asking a network against counts by hand, killed and resumed; its tables."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lovasz.lab import crf as crf_module
from lovasz.lab.crf import CRF
from lovasz.lab.data import DatasetInfo, Sample, SegmentationDataset, open_dataset
from lovasz.lab.decision import decide, expected_iou
from lovasz.lab.errors import LabError
from lovasz.lab.evaluation import evaluate
from lovasz.lab.models import create_model, load_weights, save_weights
from lovasz.lab.paper import answers, finetune, multiclass, page, table2
from lovasz.lab.paper.result import read_result

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = "shapes?size=24&train=8&val=30"


class Noise(SegmentationDataset):
    """Random images and masks of three classes and void."""

    def __init__(self, count: int = 7, split: str = "val") -> None:
        self.info = DatasetInfo("noise", ("a", "b", "c"), ((0, 0, 0),) * 3)
        self.split, self.count = split, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([index, len(self.split)])
        image = torch.from_numpy(rng.integers(0, 256, (3, 8, 10 + index % 2), np.uint8))
        mask = rng.choice(np.array([0, 1, 2, 255], np.uint8), image.shape[1:], p=(0.4, 0.3, 0.2, 0.1))
        return Sample(image, torch.from_numpy(mask), str(index))

    def describe(self) -> str:
        return "Noise."


class Colours(nn.Module):
    """The channels are the logits."""

    def forward(self, image: Tensor) -> Tensor:
        return 5 * image


def by_hand(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int = 3) -> float:
    """Mean IoU over the classes in truth or prediction, of label maps and masks together."""
    found = []
    for c in range(classes):
        shared = sum(((labels == c) & (mask == c)).sum() for labels, mask in pairs)
        either = sum((((labels == c) | (mask == c)) & (mask != 255)).sum() for labels, mask in pairs)
        if either:
            found.append(shared / either)
    return float(np.mean(found))


def test_one_scale_and_several_are_counted_over_the_chosen_images(tmp_path):
    data, images = Noise(), [0, 3, 6]
    how = {"size": None, "scales": (1.0, 0.5), "crf": None, "device": torch.device("cpu")}
    found = answers.answer(Colours(), data, images, tmp_path / "a.json", **how)
    pairs = [(data[i].image.numpy().argmax(0), data[i].mask.numpy()) for i in images]
    assert found["single"]["dataset_miou"] == pytest.approx(by_hand(pairs))
    assert found["multi"]["dataset_miou"] != found["single"]["dataset_miou"]
    assert set(found) == {"single", "multi"}
    valid = sum((mask != 255).sum() for _, mask in pairs)
    right = sum((labels == mask).sum() for labels, mask in pairs)
    assert found["single"]["pixel_accuracy"] == pytest.approx(right / valid)


def test_a_killed_pass_goes_on_and_counts_no_image_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "KEPT_EVERY", 2)
    how = {"size": (8, 8), "scales": (1.0, 0.5), "crf": None, "device": torch.device("cpu")}
    data, asked = Noise(), []
    read = Noise.__getitem__

    def killed(self, index):
        asked.append(index)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return read(self, index)

    whole = answers.answer(Colours(), data, range(7), tmp_path / "whole.json", **how)
    monkeypatch.setattr(Noise, "__getitem__", killed)
    with pytest.raises(KeyboardInterrupt):
        answers.answer(Colours(), data, range(7), tmp_path / "a.json", **how)
    assert answers.answer(Colours(), data, range(7), tmp_path / "a.json", **how) == whole
    assert asked == [0, 1, 2, 3, 2, 3, 4, 5, 6]


def test_the_crf_is_given_the_probabilities_of_several_scales(tmp_path, monkeypatch):
    seen = []

    def refine(self, image, probabilities):
        seen.append((image.shape, probabilities))
        return np.roll(probabilities, 1, 0)  # every label by one

    monkeypatch.setattr(CRF, "refine", refine)
    data = Noise(2)
    how = {"size": None, "scales": (1.0,), "crf": CRF(), "device": torch.device("cpu")}
    found = answers.answer(Colours(), data, [0, 1], tmp_path / "a.json", **how)
    pairs = [(np.roll(data[i].image.numpy(), 1, 0).argmax(0), data[i].mask.numpy()) for i in (0, 1)]
    assert found["crf"]["dataset_miou"] == pytest.approx(by_hand(pairs))
    assert seen[0][0] == (8, 10, 3)
    np.testing.assert_allclose(seen[0][1], (5 * data[0].image.float() / 255).softmax(0).numpy(), rtol=1e-4)


def test_the_crf_search_keeps_the_best_and_tries_deeplabs_own_first(tmp_path, monkeypatch):
    data = Noise(3, "train")
    masks = {data[i].image.numpy().tobytes(): data[i].mask.numpy() for i in range(3)}

    def refine(self, image, probabilities):
        if self.appearance_weight != 6.0 or self.appearance_pixels != 30.0:
            return probabilities
        mask = masks[image.transpose(2, 0, 1).copy().tobytes()]  # the truth itself
        return np.stack([mask == c for c in range(3)]).astype(np.float32)

    monkeypatch.setattr(CRF, "refine", refine)
    grid = {"appearance_weight": (4.0, 6.0), "appearance_pixels": (30.0, 67.0)}
    how = {"size": None, "scales": (1.0,), "device": torch.device("cpu"), "grid": grid}
    found = answers.search_crf(Colours(), data, range(3), tmp_path / "crf.json", **how)
    assert (found["best"]["appearance_weight"], found["best"]["appearance_pixels"]) == (6.0, 30.0)
    assert found["best"]["smoothness_weight"] == CRF().smoothness_weight
    assert found["tried"][0]["appearance_pixels"] == CRF().appearance_pixels
    assert len(found["tried"]) == 4  # DeepLab's own is one of the grid's
    assert max(one["dataset_miou"] for one in found["tried"]) == 1.0


def test_decision_rules_are_scored_on_batches_that_hold_every_class(tmp_path):
    data = Noise(9)
    held = [[i % 3] for i in range(9)]
    how = {"batches": 2, "rules": ("argmax", "nowozin"), "size": None, "shape": (6, 6), "seed": 0}
    chosen = []

    class Seen(Noise):
        def __getitem__(self, index: int) -> Sample:
            chosen.append(index)
            return super().__getitem__(index)

    found = answers.decisions(Colours(), Seen(9), held, tmp_path / "r.json", device=torch.device("cpu"), **how)
    order = list(dict.fromkeys(chosen))
    assert [sorted(i % 3 for i in order[start : start + 3]) for start in (0, 3)] == [[0, 1, 2]] * 2
    batch, single = [], []
    for start in (0, 3):
        pairs, together = [], []
        for index in order[start : start + 3]:
            image = data[index].image[None].float() / 255
            p = torch.nn.functional.interpolate((5 * image).softmax(1), (6, 6), mode="bilinear", antialias=True)[0]
            mask = answers.Resized(data, (6, 6))[index].mask.numpy()
            pairs.append((p.argmax(0).numpy(), mask))
            together.append(p)
        single.append(np.mean([by_hand([pair]) for pair in pairs]))
        batch.append(by_hand(pairs))
        labels = decide(torch.stack(together).movedim(1, -1).reshape(-1, 3)).view(3, 6, 6).numpy()
        batch.append(by_hand([(one, mask) for one, (_, mask) in zip(labels, pairs, strict=True)]))
    assert found["argmax"]["batch_miou"] == pytest.approx(np.mean(batch[::2]))
    assert found["argmax"]["image_miou"] == pytest.approx(np.mean(single))
    assert found["nowozin"]["batch_miou"] == pytest.approx(np.mean(batch[1::2]))


def test_rankseg_gives_a_label_to_every_pixel_and_is_named_where_it_is_missing(monkeypatch):
    rule = answers.RULES["rankseg"][1]
    monkeypatch.setitem(sys.modules, "rankseg", None)
    with pytest.raises(LabError, match=r"pip install 'lovasz\[paper\]'"):
        rule(torch.full((1, 2, 1, 1), 0.5))
    monkeypatch.undo()
    pytest.importorskip("rankseg")
    sure = torch.randint(0, 4, (2, 5, 6))
    hard = torch.nn.functional.one_hot(sure, 4).movedim(-1, 1) * 0.96 + 0.01  # (2, 4, 5, 6)
    assert torch.equal(rule(hard), sure)
    gains = []
    for _ in range(10):
        p = (4 * torch.randn(1, 4, 60)).softmax(1) * torch.tensor([0.55, 0.2, 0.15, 0.1])[:, None]
        p = p / p.sum(1, keepdim=True)
        pixels = p[0].T
        gains.append(float(expected_iou(pixels, rule(p)[0]) - expected_iou(pixels, pixels.argmax(1))))
    assert np.mean(gains) > 0


# --- the experiment


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("start") / "w.safetensors"
    info = open_dataset(SHAPES, "train").info
    torch.manual_seed(0)
    model = create_model("unet", info.num_classes)
    save_weights(model, path, model_name="unet", classes=info.classes, palette=None)
    return path


def setting(start: Path, **changes) -> multiclass.Setting:
    values = {
        "data": SHAPES, "weights": str(start), "model": "unet", "epochs": 1, "batch_size": 4, "crop": (16, 16),
        "learning_rates": (1e-2,), "images": 4, "crf": False, "batches": 1, "shape": (12, 12),
        "rules": ("argmax", "nowozin"), "device": "cpu", "threads": 1,
    }  # fmt: skip
    return multiclass.Setting(**(values | changes))


@pytest.fixture(scope="module")
def result(start, tmp_path_factory) -> Path:
    pytest.importorskip("matplotlib")
    threads = torch.get_num_threads()
    path = multiclass.run(tmp_path_factory.mktemp("multi") / "multiclass", setting(start))
    torch.set_num_threads(threads)
    return path


def test_all_networks_are_asked_in_all_ways_and_nothing_is_done_twice(start, result, monkeypatch):
    scores = read_result(result)["scores"]
    expected = [f"{loss}, {sampler}" for sampler in ("shuffle", "equibatch") for loss in setting(start).losses]
    assert list(scores["answers"]) == ["start", *expected]
    assert scores["images"] == 4
    configs = [json.loads(path.read_text())["config"] for path in (result.parent / "training").rglob("run.json")]
    assert {config["optimizer"] for config in configs} == {"sgd"}
    assert {(config["momentum"], config["weight_decay"]) for config in configs} == {(0.9, 5e-4)}
    assert str(start.parent) not in result.read_text()
    assert (result.parent / "crops-figure-7.png").is_file()
    assert list(read_result(result)["pictures"]) == ["paper-figure-6.png"]  # crops of the data are not for the page

    def forbidden(*_, **__):
        raise AssertionError("done again")

    monkeypatch.setattr(finetune, "train", forbidden)
    monkeypatch.setattr(answers, "confusion_counts", forbidden)
    again = read_result(multiclass.run(result.parent, setting(start), resume=True))
    assert again["scores"] == scores


def test_a_damaged_list_of_classes_is_named(start, result, tmp_path):
    copy = tmp_path / "multiclass"
    shutil.copytree(result.parent, copy)
    (copy / "answers" / "image_classes.json").write_text("{")
    with pytest.raises(LabError, match=r"image_classes\.json"):
        multiclass.run(copy, setting(start), resume=True)


def test_batches_are_said_to_hold_the_classes_that_the_images_hold(result):
    document = read_result(result)
    val = open_dataset(SHAPES, "val")
    there = {int(label) for i in range(len(val)) for label in np.unique(val[i].mask.numpy())} - {255}
    answers_ = document["scores"]["answers"].values()
    assert [one["cycled"] for one in answers_] == [len(there)] * len(answers_)
    values = {"argmax": {"batch_miou": 0.3, "image_miou": 0.2}}
    for one in answers_:
        one |= {"rules": values, "cycled": 7}
    assert "batches that hold each of the 7 classes of 10 that images" in page.render(
        table2.section(document), document, ""
    )
    for one in answers_:
        one["cycled"] = 10
    whole = page.render(table2.section(document), document, "x")
    for one in answers_:
        del one["cycled"]  # of an earlier version
    assert page.render(table2.section(document), document, "x") == whole
    assert "mean over batches that hold every class." in whole


def test_training_validates_at_the_size_of_the_tables_and_the_page_says_at_which(start, tmp_path):
    pytest.importorskip("matplotlib")
    how = {"losses": ("cross_entropy",), "samplers": ("shuffle",), "batches": 0, "images": None, "size": (16, 20)}
    small = setting(start, **how)
    document = read_result(multiclass.run(tmp_path / "m", small))
    scores = document["scores"]
    for name, validated in (
        ("start", scores["training"]["start"]["val"]), ("cross_entropy, shuffle", scores["training"]["runs"][0]["val"])
    ):  # fmt: skip
        asked = scores["answers"][name]["ways"]["single"]["dataset_miou"]  # counted apart from training
        assert asked == pytest.approx(validated["dataset_miou"], abs=1e-12)
    own = evaluate(load_weights("unet", start, open_dataset(SHAPES, "val").info.classes), open_dataset(SHAPES, "val"))
    assert scores["training"]["start"]["val"] != own.to_json()
    section = table2.section(document)
    assert "validation during training on all images of val at 16 x 20;" in section.setting
    assert "on all images of val at 16 x 20" in section.pictured["paper-figure-6.png"]


def test_a_folder_of_an_earlier_version_goes_on_with_validation_at_the_images_own_size(start, tmp_path):
    pytest.importorskip("matplotlib")
    how = {"losses": ("cross_entropy",), "samplers": ("shuffle",), "batches": 0}
    path = multiclass.run(tmp_path / "m", setting(start, **how))
    before = read_result(path)["scores"]["training"]
    for file in [path.parent / "state.json", *path.parent.rglob("runs/*/config.json")]:  # as that version wrote them
        content = json.loads(file.read_text())
        if file.name == "state.json":
            content["config"]["size"] = [16, 20]
        else:
            del content["run"]["size"]
        file.write_text(json.dumps(content))
    shutil.rmtree(path.parent / "answers")
    next(path.parent.rglob("runs/*/run.json")).unlink()
    document = read_result(multiclass.run(tmp_path / "m", setting(start, **how, size=(16, 20)), resume=True))
    after = document["scores"]["training"]
    assert after["start"] == before["start"]
    assert after["runs"][0]["val"] == before["runs"][0]["val"]
    section = table2.section(document)
    assert (
        "validation during training on all images of val at their own size; asked on 4 images of val, resized to 16"
        in (section.setting)
    )
    pictured = section.pictured["paper-figure-6.png"]
    assert pictured == ", on all images of val at their own size; the tables have 4 at 16 x 20"


def test_the_tables_are_made_from_the_result_alone(result):
    document = read_result(result)
    found = document["scores"]["answers"]
    found["start"]["ways"]["multi"]["dataset_miou"] = 0.5
    found["lovasz_softmax, shuffle"]["ways"]["multi"]["dataset_miou"] = 0.6
    found["cross_entropy, shuffle"]["ways"]["multi"]["dataset_miou"] = 0.55
    values = {"argmax": 0.3, "nowozin": 0.35}
    found["start"]["rules"] = {rule: {"batch_miou": value, "image_miou": 0.2} for rule, value in values.items()}
    text = page.render(table2.section(document), document, "x")
    assert "| Lovász-Softmax, several scales, mean IoU, % |  | 60.00 | +10.00 from the start |" in text
    assert "+5.00 at several scales" in text
    assert "batch-mIoU against arg max, before: +5.00 by nowozin" in text
    assert "| before | 30.00 / 20.00 | 35.00 / 20.00 |" in text


def test_a_package_that_is_missing_is_named_before_anything_is_trained(start, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    monkeypatch.setitem(sys.modules, "rankseg", None)
    with pytest.raises(LabError, match=r"lovasz\[crf\]"):
        multiclass.run(tmp_path / "m", setting(start, crf=True))
    with pytest.raises(LabError, match="needs rankseg"):
        multiclass.run(tmp_path / "m", setting(start, rules=("argmax", "rankseg")))
    assert not (tmp_path / "m").exists()
    assert crf_module.CRF() == CRF()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules": ("coin",)}, "no decision rule 'coin'"),
        ({"images": 0}, "images: got 0"),
        ({"optimizer": "lion"}, "optimizer: got 'lion'"),
        ({"scales": (9.0, 1.0)}, r"scales: got \[9.0, 1.0\]"),
        ({"scales": (1.0, float("nan"))}, "scales: got"),
        ({"learning_rates": (1e-3, -1.0)}, "learning_rate: got -1.0"),
        ({"learning_rates": (1e-3, float("nan"))}, "learning_rate: got nan"),
        ({"size": (0, 8)}, "size: got 0"),
    ],
)
def test_a_setting_that_cannot_be_is_named(start, changes, message):
    with pytest.raises(LabError, match=message):
        setting(start, **changes)
