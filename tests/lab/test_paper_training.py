"""The paper's experiments that train: Table 1's losses against formulas, grids resumed, tables from entries alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from PIL import Image
from tests.lab.image_files import write
from torch import Tensor, nn
from typer.testing import CliRunner

from lovasz.lab import commands
from lovasz.lab.config import RunConfig
from lovasz.lab.data import IGNORE_INDEX, DatasetInfo, Sample, SegmentationDataset, open_dataset
from lovasz.lab.data.resized import Resized
from lovasz.lab.errors import LabError
from lovasz.lab.evaluation import evaluate
from lovasz.lab.models import create_model, load_weights, save_weights
from lovasz.lab.models.resized import AtSize
from lovasz.lab.paper import binary, earlier, finetune, iiou, page, table1, table4
from lovasz.lab.paper.foreground import LOSSES, Foreground, ForegroundLoss, half_and_half, measure
from lovasz.lab.paper.result import matplotlib_pyplot, read_result

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = "shapes?size=24&train=8&val=4&test=3"
runner = CliRunner()


class Listed(SegmentationDataset):
    """Masks as given; the image's first channel holds the scores, so that a network can give exactly these."""

    def __init__(self, masks: list[np.ndarray], scores: list[np.ndarray] | None = None) -> None:
        self.info, self.split = DatasetInfo("listed", ("ground", "cat", "dog"), ((0, 0, 0),) * 3), "val"
        self.masks, self.scores = masks, scores

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> Sample:
        image = np.zeros((3, *self.masks[index].shape), np.uint8)
        if self.scores is not None:
            image[0] = self.scores[index]
        return Sample(torch.from_numpy(image), torch.from_numpy(self.masks[index]), f"image{index}")

    def describe(self) -> str:
        return "Listed."


class FirstChannel(nn.Module):
    """Scores of -4 to 4 from the first channel."""

    def forward(self, image: Tensor) -> Tensor:
        return 8 * image[:, :1] - 4


# --- Table 1


def drawn(seed: int = 0) -> Listed:
    """Four images of classes 0 to 2 with void; the second without cats, the third without foreground at all."""
    rng = np.random.default_rng(seed)
    masks = [rng.choice(np.array([0, 1, 2, 255], np.uint8), (5, 6)) for _ in range(4)]
    masks[1][masks[1] == 1] = 2
    masks[2][:] = 0
    return Listed(masks, [rng.integers(0, 256, (5, 6)) for _ in range(4)])


def test_every_number_of_table_1_is_its_formula():
    data = drawn()
    found = measure(FirstChannel(), Foreground(data, 1))
    sums = {name: [] for name in ("cross_entropy", "hinge", "lovasz_hinge", "image_iou")}
    shared = either = hit = joined = 0.0
    for mask, levels in zip(data.masks, data.scores, strict=True):
        valid = mask != 255
        truth = mask[valid] == 1
        score = 8 * (levels[valid] / 255) - 4
        margin = score * np.where(truth, 1, -1)
        sums["cross_entropy"].append(np.log1p(np.exp(-margin)).mean())
        sums["hinge"].append(np.maximum(0, 1 - margin).mean())
        sums["lovasz_hinge"].append(oracle.extension(np.maximum(0, 1 - margin), truth))
        union = (truth | (score > 0)).sum()
        sums["image_iou"].append((truth & (score > 0)).sum() / union if union else 1.0)
        hit, joined = hit + (truth & (score > 0)).sum(), joined + union
        p = 1 / (1 + np.exp(-score))
        shared, either = shared + p[truth].sum(), either + (p + truth - p * truth).sum()
    for name, values in sums.items():
        assert found[name] == pytest.approx(np.mean(values), abs=1e-5), name
    assert found["soft_jaccard"] == pytest.approx(1 - shared / either, abs=1e-6)
    assert found["dataset_iou"] == pytest.approx(hit / joined)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_in_training_is_the_one_that_is_measured(name):
    data = Foreground(drawn(), 1)
    samples = [data[i] for i in range(len(data))]
    scores = torch.stack([8 * s.image[:1].float() / 255 - 4 for s in samples]).requires_grad_()
    loss = ForegroundLoss(name)(scores, torch.stack([s.mask.long() for s in samples]))
    assert float(loss.detach()) == pytest.approx(measure(FirstChannel(), data)[name], abs=1e-5)
    loss.backward()
    assert scores.grad.abs().sum() > 0
    assert (scores.grad[:, 0][torch.stack([s.mask for s in samples]) == IGNORE_INDEX] == 0).all()


def test_a_class_against_the_rest_keeps_void_and_resizing_keeps_labels():
    data = drawn()
    mask = Foreground(data, 2)[0].mask.numpy()
    assert np.array_equal(mask, np.where(data.masks[0] == 255, 255, data.masks[0] == 2))
    small = Resized(data, (10, 12))[0]
    assert small.image.shape == (3, 10, 12)
    assert np.array_equal(small.mask.numpy(), data.masks[0].repeat(2, 0).repeat(2, 1))


def test_half_of_the_measured_images_hold_the_class():
    holds = [i % 5 == 0 for i in range(40)]
    chosen = half_and_half(holds, 0)
    assert len(chosen) == 16
    assert sum(holds[i] for i in chosen) == 8
    assert chosen == sorted(set(chosen))
    assert half_and_half([True, True, False], 0) == [0, 1, 2]  # no more than there are


def test_half_of_the_images_of_an_epoch_hold_the_class():
    from lovasz.lab.data import Augmentation, TrainingView
    from lovasz.lab.epoch_order import EpochOrder

    setting = binary.Setting(data="shapes")
    assert setting.run("hinge", 1e-3, "cpu").sampler == "equibatch"
    holds = [[int(i % 7 == 0)] for i in range(40)]
    view = TrainingView(Listed([np.zeros((2, 2), np.uint8)] * 40), Augmentation(), 0)
    order = list(EpochOrder(40, 0, view, image_classes=holds))
    assert len(order) == 40
    assert sum(holds[i] == [1] for i, _ in order) == 20


SMALL = binary.Setting(
    data=SHAPES, classes=("disc", "triangle"), model="unet", losses=("hinge", "lovasz_hinge"),
    learning_rates=(1e-3, 3e-3), epochs=1, pretrain_epochs=1, batch_size=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def table_1(tmp_path_factory) -> Path:
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("binary")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    binary.run(folder / "binary", SMALL)
    torch.set_num_threads(threads)
    return folder


def test_table_1_is_made_from_the_result_alone(table_1):
    result = read_result(table_1 / "binary" / "result.json")
    runs = result["scores"]["runs"]
    assert len(runs) == 2 * 2 * 2
    for loss in SMALL.losses:  # the learning rate: the least mean over the classes of the loss's own value on val
        means = {
            rate: np.mean([r["values"]["val"][loss] for r in runs if (r["loss"], r["learning_rate"]) == (loss, rate)])
            for rate in SMALL.learning_rates
        }
        assert result["scores"]["chosen"][loss] == min(means, key=means.get)
    for run in runs:
        run["values"]["test"] = dict.fromkeys((*LOSSES, "image_iou", "dataset_iou"), 0.25)
        run["values"]["test"]["image_iou"] = 0.5 if run["loss"] == "hinge" else 0.75
    text = page.render(table1.section(result), result, "x")
    assert "| image-IoU after training with Lovász hinge, % | the highest of three | 75.0 |" in text
    assert "| image-IoU, % | 50.0 | **75.0** |" in text
    assert "the best image-IoU has Lovász hinge." in text
    assert (table_1 / "binary" / "paper-figure-4-shapes.png").read_bytes().startswith(b"\x89PNG")


def test_a_killed_table_1_goes_on_and_ends_the_same(table_1, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    fit, calls = binary.fit, []

    def killed(*given, **named):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return fit(*given, **named)

    monkeypatch.setattr(binary, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        binary.run(tmp_path / "b", SMALL)
    monkeypatch.setattr(binary, "fit", fit)
    resumed = read_result(binary.run(tmp_path / "b", SMALL, resume=True))["scores"]
    whole = read_result(table_1 / "binary" / "result.json")["scores"]
    for one in (resumed, whole):
        for run in one["runs"]:
            run.pop("seconds")
    assert resumed == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": ("dice",)}, "no binary loss 'dice'"),
        ({"classes": ("unicorn",)}, "no class 'unicorn'"),
        ({"epochs": 0}, "epochs: got 0"),
        ({"learning_rates": (1e-3, -1.0)}, "learning_rate: got -1.0"),
        ({"learning_rates": (1e-3, float("nan"))}, "learning_rate: got nan"),
        ({"freeze_batch_norm": True}, "freeze_batch_norm: a network of random weights"),
    ],
)
def test_a_table_1_that_cannot_be_is_named(tmp_path, changes, message):
    pytest.importorskip("matplotlib")
    with pytest.raises(LabError, match=message):
        binary.run(tmp_path / "b", binary.Setting(**({"data": SHAPES, "model": "unet"} | changes)))


def test_the_first_phase_freezes_no_statistics_for_there_are_none_yet(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    fit, frozen = binary.fit, []

    def noted(config, *given, **named):
        frozen.append((config.loss, config.freeze_batch_norm))
        return fit(config, *given, **named)

    monkeypatch.setattr(binary, "fit", noted)
    setting = dataclasses.replace(SMALL, classes=("disc",), losses=("hinge",), learning_rates=(1e-3,))
    binary.run(tmp_path / "b", dataclasses.replace(setting, freeze_batch_norm=True))
    assert frozen == [("cross_entropy", False), ("hinge", True)]


@pytest.mark.parametrize("model", ["espnetv2", "enet", "unet"])
def test_the_score_at_the_start_is_the_class_against_the_background(tmp_path, model):
    image, path = torch.rand(1, 3, 32, 32), tmp_path / "w.safetensors"
    network = create_model(model, 3).eval()
    with torch.no_grad():
        logits = network(image)
    for names, rest in (
        (("background", "cat", "dog"), logits[:, :1]),
        (("ground", "cat", "dog"), logits[:, :2].mean(1, keepdim=True)),  # none is called so
    ):
        save_weights(network, path, model_name=model, classes=names, palette=None)
        one = binary.one_output(model, path, "dog", names).eval()
        rounding = 1e-5 * float(logits.abs().max())  # of a difference of large float32 numbers
        torch.testing.assert_close(one(image).detach(), logits[:, 2:] - rest, atol=rounding, rtol=0)


# --- the grid of fine-tuning


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """Random weights of a small network for the drawn data."""
    path = tmp_path_factory.mktemp("start") / "w.safetensors"
    info = open_dataset(SHAPES, "train").info
    torch.manual_seed(0)
    model = create_model("unet", info.num_classes)
    save_weights(model, path, model_name="unet", classes=info.classes, palette=None)
    return path


def grid(start: Path, **changes) -> finetune.Setting:
    values = {
        "data": SHAPES, "weights": str(start), "model": "unet", "losses": ("cross_entropy", "lovasz_softmax"),
        "learning_rates": (1e-4, 1e-3), "batch_sizes": (4, 2), "seeds": (0, 1), "samplers": ("shuffle", "equibatch"),
        "epochs": 1, "device": "cpu",
    }  # fmt: skip
    return finetune.Setting(**(values | changes))


def test_the_search_and_the_grid_hold_each_run_once(start):
    setting = grid(start)
    assert len(list(setting.searched())) == 2 * 2 * 2
    chosen = [{"loss": loss, "batch_size": size, "learning_rate": 1e-3} for size in (4, 2) for loss in setting.losses]
    final = list(setting.final(chosen))
    assert len(final) == len({(r.loss, r.batch_size, r.seed, r.sampler) for r in final}) == 2 * 2 * 2 * 2
    assert {r.learning_rate for r in final} == {1e-3}


def test_the_learning_rate_is_chosen_on_val_alone(start):
    def entry(loss: str, rate: float, val: float, test: float, **changes) -> dict:
        values = {"loss": loss, "batch_size": 4, "learning_rate": rate, "sampler": "shuffle", "seed": 0, "epochs": 1}
        return values | changes | {"val": {"dataset_miou": val}, "test": {"dataset_miou": test}}

    entries = [
        entry("cross_entropy", 1e-4, 0.5, 0.9),
        entry("cross_entropy", 1e-3, 0.6, 0.1),
        entry("cross_entropy", 1e-4, 0.9, 0.9, seed=1),  # another seed, sampler, length or rate than those searched
        entry("cross_entropy", 1e-4, 0.9, 0.9, sampler="equibatch"),
        entry("cross_entropy", 1e-4, 0.9, 0.9, epochs=7),
        entry("cross_entropy", 1e-2, 0.9, 0.9),
        entry("lovasz_softmax", 1e-4, 0.4, 0.1),
    ]
    assert finetune.choose(entries, grid(start, batch_sizes=(4,))) == [
        {"loss": "cross_entropy", "batch_size": 4, "learning_rate": 1e-3, "epochs": 1},
        {"loss": "lovasz_softmax", "batch_size": 4, "learning_rate": 1e-4, "epochs": 1},
    ]


@pytest.fixture(scope="module")
def trained(start, tmp_path_factory) -> Path:
    """A grid of six runs."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("grid") / "finetune"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    released = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "lovasz.lab.paper.result.release", lambda place: released.append(len(list(place.glob("runs/*/run.json"))))
        )
        finetune.run(folder, grid(start, batch_sizes=(4,), seeds=(0,), threads=1))
    torch.set_num_threads(threads)
    assert released == [6], "other processes are let in before the last run"
    return folder


def test_every_run_of_the_grid_is_a_run_of_the_lab_and_is_trained_once(start, trained, monkeypatch):
    result = read_result(trained / "result.json")
    runs = result["scores"]["runs"]
    assert len(runs) == 2 * 2 + 2  # the search, and equibatch at the rate that each loss keeps
    for run in runs:
        record = json.loads((trained / run["source"] / "run.json").read_text())
        assert run["test"]["dataset_miou"] == record["scores"]["test"]["dataset_miou"]
        assert run["curve"] == [record["history"][0]["val"]["dataset_miou"]]
        assert RunConfig.from_json(record["config"]).sampler == run["sampler"]
    assert str(start.parent) not in (trained / "result.json").read_text()
    assert list(result["pictures"]) == ["paper-figure-9.png"]  # crops of the data are not for the page

    def forbidden(*_, **__):
        raise AssertionError("trained again")

    drawn = []
    monkeypatch.setattr(finetune, "train", forbidden)
    monkeypatch.setattr(finetune, "draw_crops", lambda *given, **_: drawn.append(given))
    again = finetune.run(trained, grid(start, batch_sizes=(4,), seeds=(0,), threads=1), resume=True)
    assert read_result(again)["scores"] == result["scores"]
    ((_, networks, between, dataset, path),) = drawn
    assert (list(networks), between) == (
        ["before", "cross_entropy", "lovasz_softmax"],
        ("cross_entropy", "lovasz_softmax"),
    )
    assert (dataset.split, path) == ("test", trained / "crops-figure-8.png")


def test_a_grid_does_not_go_on_with_other_data(start, trained, monkeypatch):
    monkeypatch.setattr(finetune.Data, "contents", lambda _: {"classes": ["another"], "splits": {}})
    with pytest.raises(LabError, match="cannot resume with other data, classes: "):
        finetune.run(trained, grid(start, batch_sizes=(4,), seeds=(0,), threads=1), resume=True)


def test_runs_of_train_and_compare_are_read(start, trained, tmp_path):
    first = next((trained / "runs").iterdir())
    record = json.loads((first / "run.json").read_text())
    entry = earlier.read_entries(first / "run.json")[0]
    assert entry["val"]["dataset_miou"] == record["scores"]["val"]["dataset_miou"]
    assert entry["same"]["weights"] == start.name
    assert len(earlier.read_entries(trained / "runs")) == 6

    # As `compare` writes it: neither configuration nor machine in run.json, one config.json and comparison.json above.
    home = tmp_path / "compared" / "lovasz_softmax" / "seed-0"
    home.mkdir(parents=True)
    of_all = ("config", "environment")
    (home / "run.json").write_text(json.dumps({k: v for k, v in record.items() if k not in of_all}))
    (tmp_path / "compared" / "config.json").write_text(json.dumps({"run": record["config"]}))
    (tmp_path / "compared" / "comparison.json").write_text(json.dumps({"environment": record["environment"]}))
    assert "thread" in entry["machine"]
    assert "unknown" not in entry["machine"]
    below = earlier.read_entries(home / "run.json")[0]
    assert {**below, "source": ""} == {**entry, "source": ""}
    assert below["source"] == "lovasz_softmax/seed-0/run.json"

    # comparison.json: the configuration stands once, without what is set for each run.
    common = {k: v for k, v in record["config"].items() if k not in ("loss", "seed", "out", "sampler")}
    document = {"config": common, "runs": [record | {"loss": "lovasz_softmax", "seed": 3}], "initial": {"val": 1}}
    (tmp_path / "comparison.json").write_text(json.dumps(document))
    found = earlier.read_entries(tmp_path / "comparison.json")[0]
    assert (found["loss"], found["seed"], found["sampler"]) == ("lovasz_softmax", 3, "shuffle")
    assert earlier.read_start([tmp_path / "comparison.json"]) == {"val": 1, "test": None}

    for content, message in (("{}", "neither a run.json"), ('{"scores": 1}', "no configuration")):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(LabError, match=message):
            earlier.read_entries(tmp_path / "run.json")


def test_tables_are_made_of_earlier_runs_without_training(start, trained, tmp_path):
    setting = grid(start, batch_sizes=(4,), seeds=(0,))
    path = finetune.run(tmp_path / "f", setting, earlier=[trained / "runs"], training=False)
    theirs, ours = (read_result(p)["scores"] for p in (trained / "result.json", path))
    assert ours["chosen"] == theirs["chosen"]
    assert len(ours["runs"]) == 6
    assert ours["complete"]
    more = grid(start, batch_sizes=(4,), seeds=(0, 7))
    path = finetune.run(tmp_path / "more", more, earlier=[trained / "runs"], training=False)
    assert not read_result(path)["scores"]["complete"]  # seed 7 is still to be trained
    with pytest.raises(LabError, match="a run with optimizer 'adam', this grid has 'sgd'"):
        finetune.run(tmp_path / "g", grid(start, optimizer="sgd"), earlier=[trained / "runs"], training=False)
    with pytest.raises(LabError, match="nothing is trained here"):
        finetune.run(tmp_path / "h", setting, training=False)


def test_a_grid_goes_on_from_its_result_alone(start, trained, tmp_path):
    kept = tmp_path / "copies" / "finetune.json"
    kept.parent.mkdir()
    kept.write_bytes((trained / "result.json").read_bytes())
    path = finetune.run(tmp_path / "f", grid(start, batch_sizes=(4,), seeds=(0,)), earlier=[kept], training=False)
    theirs, ours = (read_result(p)["scores"] for p in (kept, path))
    assert {name: ours[name] for name in ("start", "chosen", "runs")} == {
        name: theirs[name] for name in ("start", "chosen", "runs")
    }
    other = kept.with_name("synthetic.json")
    for scores in ({"draws": []}, {"runs": [{"loss": "hinge"}]}, 1):
        other.write_text(json.dumps({"name": "synthetic", "config": {}, "scores": scores}))
        with pytest.raises(LabError, match=r"synthetic\.json: the result of 'synthetic', which has no runs"):
            earlier.read_entries(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flip": False}, "a run with flip False, this grid has True"),
        ({"color_jitter": 0.3}, "a run with color_jitter 0.3"),
        ({"keep": "best"}, "a run with keep 'best'"),
        ({"precision": "bf16-mixed"}, "precision"),
        ({"momentum": 0.5}, "momentum"),
        ({"poly_power": 1.0}, "poly_power"),
        ({"data_seed": 3}, "data_seed"),
        ({"devices": 2, "global_batch": True}, "global_batch"),
        ({"data": SHAPES.replace("size=24", "size=48")}, "data_options"),
        ({"data": "shapes", "data_options": {"size": 24}}, "data_options"),
        ({"size": (16, 16)}, "size"),
        (
            {"size": (16, 16), "resize_training": True},
            "a run of --size, which resizes the images of training too.*Leave it out",
        ),
    ],
)
def test_a_run_that_was_trained_in_another_way_does_not_belong_into_a_grid(start, trained, changes, message):
    record = json.loads(next((trained / "runs").glob("*/run.json")).read_text())
    config = RunConfig.from_json(record["config"])
    finetune.check_same(earlier.entry_of(record, config, "x"), grid(start))
    with pytest.raises(LabError, match=message):
        finetune.check_same(earlier.entry_of(record, config.replace(**changes), "x"), grid(start))


def test_what_a_grid_varies_and_what_is_of_the_machine_may_differ(start, trained):
    record = json.loads(next((trained / "runs").glob("*/run.json")).read_text())
    config = RunConfig.from_json(record["config"])
    options = {"size": "24", "train": "8", "val": "4", "test": "3"}  # given apart: the same data
    for changes in (
        {"loss": "hinge", "batch_size": 7, "learning_rate": 0.5, "sampler": "equibatch", "seed": 9, "epochs": 3},
        {"threads": 2, "num_workers": 1, "device": "cuda", "validate_every": 0, "logger": "none", "out": "elsewhere"},
        {"data": "shapes", "data_options": options, "weights": f"elsewhere/{start.name}"},
    ):
        finetune.check_same(earlier.entry_of(record, config.replace(**changes), "x"), grid(start))


def test_the_entries_of_the_kept_result_belong_into_its_grid_still():
    path = Path(__file__).resolve().parents[2] / "docs/results/paper/finetune.json"
    config = {key: tuple(v) if isinstance(v, list) else v for key, v in read_result(path)["config"].items()}
    entries = earlier.read_entries(path)
    assert len(entries) > len({entry["loss"] for entry in entries}) > 3
    for entry in entries:
        finetune.check_same(entry, finetune.Setting(**(config | {"data": "camvid:PATH"})))


def test_rates_that_were_never_searched_are_not_called_kept():
    start = {split: {"dataset_miou": 0.5, "per_class_iou": {"a": 0.5}} for split in ("val", "test")}
    runs = [
        scored("lovasz_softmax", 0, 0.60),
        scored("lovasz_softmax", 0, 0.59, learning_rate=2e-4),
        scored("cross_entropy", 0, 0.55),
        scored("cross_entropy", 0, 0.54, learning_rate=2e-4),
        scored("lovasz_softmax", 0, 0.52, learning_rate=5e-4, epochs=1),
        scored("cross_entropy", 0, 0.51, learning_rate=5e-4, epochs=1),
        scored("weighted_cross_entropy", 0, 0.515, learning_rate=7e-4, epochs=1),  # at another rate
    ]
    kept = {"batch_size": 10, "epochs": 5, "learning_rate": 1e-3}
    chosen = [{"loss": loss, **kept} for loss in ("lovasz_softmax", "cross_entropy")]
    config = grid(Path("w")).to_json("camvid")
    section = table4.section({"config": config, "scores": {"start": start, "chosen": chosen, "runs": runs}})
    assert (
        "5 epochs, each at the rate kept: Lovász-Softmax +10.00 points from the start, +5.00 from cross-entropy;"
        in (section.seen)
    )
    alone = (
        "1 epoch, all at 0.0005, not searched: Lovász-Softmax +2.00 points from the start, +1.00 from cross-entropy ("
    )
    assert alone in section.seen
    assert len({row.what for row in section.rows}) == len(section.rows)  # the lengths are told apart


def streets(root: Path) -> str:
    """A Cityscapes of three small frames with their objects."""
    rng = np.random.default_rng(0)
    for number, split in enumerate(("train", "train", "val")):
        stem = f"{split}/a/a_{number:06}_000019"
        truth = np.full((16, 32), 7, np.uint8)
        truth[:8, 4:12] = 26
        objects = np.where(truth == 26, 26001, truth).astype(np.uint16)
        write(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", rng.integers(0, 256, (16, 32, 3), np.uint8))
        write(root / "gtFine" / f"{stem}_gtFine_labelIds.png", truth)
        write(root / "gtFine" / f"{stem}_gtFine_instanceIds.png", objects)
    return f"cityscapes:{root}"


def test_files_that_table_4_needs_are_missed_before_anything_is_trained(tmp_path):
    data = streets(tmp_path / "city")
    info = open_dataset(data, "val").info
    save_weights(
        create_model("unet", 19), tmp_path / "w.safetensors", model_name="unet", classes=info.classes, palette=None
    )
    objects = next((tmp_path / "city/gtFine/val").rglob("*instanceIds.png"))
    objects.rename(tmp_path / "elsewhere.png")
    with pytest.raises(LabError, match=f"{objects.name}: missing, iIoU needs the objects"):
        finetune.run(
            tmp_path / "out", finetune.Setting(data=data, model="unet", weights=str(tmp_path / "w.safetensors"))
        )
    assert not (tmp_path / "out").exists()


def test_table_4_is_of_the_runs_that_were_trained_here_and_runs_of_two_lengths_stay_apart(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    data = streets(tmp_path / "city")
    info = open_dataset(data, "val").info
    weights = tmp_path / "w.safetensors"
    torch.manual_seed(0)
    save_weights(create_model("unet", 19), weights, model_name="unet", classes=info.classes, palette=None)
    how = {"data": data, "losses": ("cross_entropy",), "learning_rates": (1e-2,), "batch_sizes": (2,)}
    how |= {"seeds": (0,), "samplers": ("shuffle",), "threads": 1, "size": (8, 16)}
    longer = finetune.run(tmp_path / "longer", grid(weights, **how, epochs=2))
    path = finetune.run(tmp_path / "one", grid(weights, **how), earlier=[longer])
    scores = read_result(path)["scores"]
    assert [run["epochs"] for run in scores["runs"]] == [2, 1]
    assert len({run["source"] for run in scores["runs"]}) == 2
    assert [one["name"] for one in scores["cityscapes"]] == ["before", "cross-entropy, batch size 2"]
    own = path.parent / scores["runs"][1]["source"] / "model.safetensors"
    network = AtSize(load_weights("unet", own, info.classes), (8, 16))
    asked = iiou.cityscapes_scores(network, open_dataset(data, "val"), tmp_path / "again.json")
    assert {name: scores["cityscapes"][1][name] for name in asked} == asked
    assert (
        scores["start"]["val"]
        == evaluate(AtSize(load_weights("unet", weights, info.classes), (8, 16)), open_dataset(data, "val")).to_json()
    )

    def forbidden(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(finetune, "train", forbidden)
    again = finetune.run(tmp_path / "one", grid(weights, **how), earlier=[longer], resume=True)
    assert read_result(again)["scores"] == scores
    own.parent.rename(own.parent.with_name(own.parent.name.removesuffix("-epochs-1")))  # as earlier versions named it
    again = finetune.run(tmp_path / "one", grid(weights, **how), earlier=[longer], resume=True)
    assert read_result(again)["scores"]["cityscapes"] == scores["cityscapes"]


def scored(loss: str, seed: int, test: float, **changes) -> dict:
    score = {"dataset_miou": test, "per_class_iou": {"a": test, "b": None}}
    values = {"loss": loss, "batch_size": 10, "learning_rate": 1e-3, "sampler": "shuffle", "seed": seed, "epochs": 5}
    return values | {
        "val": score, "test": score, "curve": [test], "seconds": 3600.0, "machine": "M", "source": "x", "steps": 1,
    } | changes  # fmt: skip


@pytest.mark.parametrize("curve", [[None] * 3, [0.5], [0.4, 0.5, 0.6]], ids=str)
def test_figure_9_has_epochs_only_where_runs_were_validated_after_each(tmp_path, curve):
    pytest.importorskip("matplotlib")
    start = {split: {"dataset_miou": 0.5, "per_class_iou": {}} for split in ("val", "test")}
    scores = {"start": start, "chosen": [], "runs": [scored("hinge", seed, 0.6, curve=curve) for seed in range(2)]}
    caption = table4.draw(matplotlib_pyplot(), scores, tmp_path / "f.png")
    assert ("over the epochs" in caption) == (curve == [0.4, 0.5, 0.6])
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.width == (1100 if "over the epochs" in caption else 770)


@pytest.mark.parametrize("curve", [[0.5], [0.4, 0.5, 0.6]], ids=str)
def test_figure_9_has_room_for_its_legend(tmp_path, monkeypatch, curve):
    pytest.importorskip("matplotlib")
    losses = ("weighted_cross_entropy", "lovasz_softmax", "cross_entropy", "cross_entropy+lovasz_softmax")
    runs = [scored(loss, 0, 0.6, curve=curve, epochs=epochs) for loss in losses for epochs in (5, 10)]
    pyplot = matplotlib_pyplot()
    drawn = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    start = {split: {"dataset_miou": 0.5, "per_class_iou": {}} for split in ("val", "test")}
    table4.draw(pyplot, {"start": start, "chosen": [], "runs": runs}, tmp_path / "f.png")
    (figure,) = drawn
    monkeypatch.undo()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    pyplot.close(figure)
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_runs_from_before_weights_were_averaged_do_not_stand_among_averaged_ones(start, trained):
    entry = earlier.read_entries(trained / "result.json")[0]
    del entry["same"]["keep"]
    finetune.check_same(entry, grid(start))
    with pytest.raises(LabError, match="a run with keep 'last', this grid has 'average'"):
        finetune.check_same(entry, grid(start, keep="average"))


def test_gains_are_those_of_the_means_over_seeds():
    start = {split: {"dataset_miou": 0.5, "per_class_iou": {"a": 0.5, "b": None}} for split in ("val", "test")}
    runs = [
        scored("lovasz_softmax", 0, 0.56),
        scored("lovasz_softmax", 1, 0.58),
        scored("weighted_cross_entropy", 0, 0.51),
        scored("cross_entropy", 0, 0.55),
        scored("cross_entropy", 0, 0.99, learning_rate=1e-2),  # tried, not kept
        scored("lovasz_softmax", 0, 0.60, sampler="equibatch"),
    ]
    chosen = [{"loss": "cross_entropy", "batch_size": 10, "learning_rate": 1e-3, "epochs": 5}]
    config = grid(Path("w")).to_json("camvid")
    section = table4.section({"config": config, "scores": {"start": start, "chosen": chosen, "runs": runs}})
    ours = {row.what: row.ours for row in section.rows}
    assert ours["Lovász-Softmax, batch size 10, mean IoU on test, %"] == "57.00 ± 1.41"
    assert "0.99" not in str(ours)
    assert "Lovász-Softmax +7.00 points from the start, +6.00 from weighted cross-entropy, +2.00 from cross-" in (
        section.seen
    )
    assert "equibatch with Lovász-Softmax, batch size 10: +3.00 points" in section.seen
    assert "6.0 h in all" in section.setting
    assert (section.seconds, section.machine) == (6 * 3600, "M")
    shorter = [*runs, scored("cross_entropy", 0, 0.53, learning_rate=2e-4, epochs=1)]  # of another search
    reported = [g for g in table4.groups({"chosen": chosen, "runs": shorter}) if g["reported"]]
    assert ("cross_entropy", 2e-4, 1) in {(g["loss"], g["learning_rate"], g["epochs"]) for g in reported}
    rates, classes = section.tables
    assert rates.rows[0][1:] == ["**55.00**", "99.00"]
    assert classes.rows == [["a", "50.0", "57.0", "51.0", "55.0"], ["b", "-", "-", "-", "-"]]


def test_a_rate_that_was_not_kept_is_shown_where_several_seeds_ran_and_compared_with_its_like():
    start = {split: {"dataset_miou": 0.5, "per_class_iou": {"a": 0.5}} for split in ("val", "test")}
    runs = [
        *(scored("lovasz_softmax", seed, 0.56 + 0.02 * seed, learning_rate=5e-4) for seed in (0, 1)),
        *(scored("cross_entropy", seed, 0.54, learning_rate=5e-4) for seed in (0, 1)),
        scored("lovasz_softmax", 0, 0.60, learning_rate=1e-3),
        scored("cross_entropy", 0, 0.55, learning_rate=2e-4),
    ]
    kept = {"batch_size": 10, "epochs": 5}
    chosen = [
        {"loss": "lovasz_softmax", "learning_rate": 1e-3, **kept},
        {"loss": "cross_entropy", "learning_rate": 2e-4, **kept},
    ]
    config = grid(Path("w")).to_json("camvid")
    section = table4.section({"config": config, "scores": {"start": start, "chosen": chosen, "runs": runs}})
    notes = {row.note: row.ours for row in section.rows if row.what.startswith("Lovász")}
    assert notes == {
        "+7.00; learning rate 0.0005, 2 seeds, 5 epochs; the search kept another rate": "57.00 ± 1.41",
        "+10.00; learning rate 0.001, 1 seed, 5 epochs": "60.00",
    }
    assert "all at 0.0005: Lovász-Softmax +7.00 points from the start, +3.00 from cross-entropy" in section.seen
    assert "each at the rate kept: Lovász-Softmax +10.00 points from the start, +5.00 from cross" in section.seen


def test_table_4_is_that_of_the_cityscapes_files(tmp_path):
    """Against a count by hand: half of a car that is one object is found, a licence plate counts nowhere."""
    for split, frames in (("train", 1), ("val", 2)):
        for frame in range(frames):
            stem = f"{split}/a/a_{frame:06}_000019"
            truth = np.full((4, 8), 7, np.uint8)  # road
            truth[:2, 2:6] = 26  # a car of eight pixels
            truth[3, 7] = 255  # a plate
            objects = truth.astype(np.uint16)
            objects[truth == 26] = 26001
            objects[truth == 255] = 65535
            write(tmp_path / "leftImg8bit" / f"{stem}_leftImg8bit.png", np.zeros((4, 8, 3), np.uint8))
            write(tmp_path / "gtFine" / f"{stem}_gtFine_labelIds.png", truth)
            write(tmp_path / "gtFine" / f"{stem}_gtFine_instanceIds.png", objects)

    class HalfACar(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            logits = torch.zeros(1, 19, 4, 8)
            logits[:, 0] = 1
            logits[:, 13, :2, 2:4] = 2  # car
            return logits

    val = open_dataset(f"cityscapes:{tmp_path}", "val")
    found = iiou.cityscapes_scores(HalfACar(), val, tmp_path / "c.json")
    road = 23 / 27  # of each image: 32 - 8 - 1 pixels right, and four of the car's
    assert found["class_iou"] == pytest.approx((4 / 8 + road) / 2)
    weight = 12794.0202738185 / 8
    assert found["class_iiou"] == pytest.approx(4 * weight / (8 * weight))
    assert found["category_iou"] == pytest.approx((4 / 8 + road) / 2)
    assert found == iiou.cityscapes_scores(nn.Identity(), val, tmp_path / "c.json")  # kept
    next((tmp_path / "gtFine/val/a").glob("*instanceIds.png")).unlink()
    with pytest.raises(LabError, match="iIoU needs the objects"):
        iiou.cityscapes_scores(HalfACar(), val, tmp_path / "d.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": ("dise",)}, "there is no loss 'dise'"),
        ({"seeds": (0, 0)}, "seeds: got \\[0, 0\\]"),
        ({"samplers": ("sorted",)}, "sampler: got 'sorted'"),
        ({"learning_rates": (1e-3, -1.0)}, "learning_rate: got -1.0"),
        ({"learning_rates": (1e-3, float("nan"))}, "learning_rate: got nan"),
        ({"learning_rates": (1e-3, float("inf"))}, "learning_rate: got inf"),
        ({"seeds": (0, -1)}, "seed: got -1"),
    ],
)
def test_a_grid_that_cannot_be_is_named(start, changes, message):
    with pytest.raises(LabError, match=message):
        grid(start, **changes)


def test_the_training_commands_run_and_make_a_page(start, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    shutil.copy(start, tmp_path / "w.safetensors")
    shutil.copy(start.with_suffix(".json"), tmp_path / "w.json")
    common = ["--data", SHAPES, "--model", "unet", "--epochs", "1", "--learning-rates", "1e-3"]
    one = ["--losses", "cross_entropy", "--device", "cpu", "--threads", "1"]
    table = ["paper", "binary", *common, *one, "--classes", "disc", "--batch-size", "4"]
    done = runner.invoke(commands.app, table)
    assert done.exit_code == 0, done.output
    grid_of_one = ["--weights", "w.safetensors", "--batch-sizes", "4", "--seeds", "1", "--samplers", "shuffle"]
    done = runner.invoke(commands.app, ["paper", "finetune", *common, *one, *grid_of_one])
    assert done.exit_code == 0, done.output
    made = runner.invoke(commands.app, ["paper", "page", "--out", "docs/paper.md"])
    assert made.exit_code == 0, made.output
    text = (tmp_path / "docs" / "paper.md").read_text()
    assert text.index("Section 4.2") < text.index("Section 4.4")
    assert "(results/paper/binary-shapes.json)" in text
    assert load_weights("unet", next(tmp_path.rglob("model.safetensors")), open_dataset(SHAPES, "val").info.classes)
    wrong = runner.invoke(commands.app, ["paper", "finetune", *common, *one, *grid_of_one, "--batch-sizes", "4,x"])
    assert wrong.exit_code == 2
    assert "--batch-sizes '4,x'" in wrong.output


def test_masks_on_disk_become_a_table_as_well(tmp_path):
    """A folder whose images all hold the class: there is no other half."""
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    for number in range(8):
        write(tmp_path / "d/images" / f"{number}.png", rng.integers(0, 256, (16, 16, 3), np.uint8))
        write(tmp_path / "d/masks" / f"{number}.png", (rng.random((16, 16)) < 0.3).astype(np.uint8))
    setting = binary.Setting(
        data=f"folder:{tmp_path / 'd'}", model="unet", losses=("hinge",), learning_rates=(1e-3,), epochs=1, batch_size=2
    )
    result = read_result(binary.run(tmp_path / "out", setting))
    assert result["scores"]["split"] in ("val", "test")
    assert str(tmp_path) not in json.dumps(result)
