"""A run is a function of its configuration: killed and resumed, it ends with the same weights, bit for bit."""

import errno
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.lab.tiny import TinyDataset, use_tiny_data

from lovasz.lab import training
from lovasz.lab.config import RunConfig, read_json
from lovasz.lab.data import IGNORE_INDEX, Augmentation, TrainingView
from lovasz.lab.epoch_order import EpochOrder
from lovasz.lab.errors import Diverged, LabError
from lovasz.lab.evaluation import evaluate
from lovasz.lab.losses import class_weights
from lovasz.lab.models import create_model, load_weights, save_weights, trained_size
from lovasz.lab.models.resized import AtSize
from lovasz.lab.processes import ALONE
from lovasz.lab.splits import Data
from lovasz.lab.training import train, training_class_weights
from lovasz.sampling import EquibatchSampler

pytestmark = pytest.mark.usefixtures("one_thread")

# One process imports the lab and forks for each run: most of a run's time here would be imports.
RUNS = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from lovasz.lab.imports import lasting
with lasting():
    from lovasz.lab import fitting, training
    from lovasz.lab.config import RunConfig
    from tests.lab.tiny import use_tiny_data

use_tiny_data(setattr)
step = fitting.SegmentationTask.training_step

loss = "cross_entropy>0.4>cross_entropy+lovasz_softmax"

def run(out, kill_at, workers):
    def killed(self, batch, index):
        if self.global_step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, index)

    fitting.SegmentationTask.training_step = killed
    config = RunConfig(data="tiny", loss=loss, epochs=3, batch_size=4, num_workers=workers, out=out)
    training.train(config, resume=os.path.exists(out))

for arguments in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        run(*arguments)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.path.exists(arguments[0] + "/run.json"))
"""


def config(tmp_path, **changes) -> RunConfig:
    return RunConfig(
        **({"data": "tiny", "model": "unet", "epochs": 1, "batch_size": 4, "out": str(tmp_path / "run")} | changes)
    )


@pytest.fixture
def tiny(monkeypatch) -> None:
    use_tiny_data(monkeypatch.setattr)


@pytest.mark.usefixtures("tiny")
def test_training_sees_images_at_the_size_and_masks_that_lie_under_them(tmp_path) -> None:
    run = config(tmp_path, model="unet", size=(24, 40), resize_training=True, crop=(16, 20), flip=False)
    data = Data.open(run)
    whole = data.training_view(run.replace(crop=None))
    image, mask = whole[0]
    assert (image.shape, mask.shape) == ((3, 24, 40), (24, 40))
    sample = data.train[0]
    rows, columns = (torch.arange(24) + 0.5) * 32 / 24, (torch.arange(40) + 0.5) * 32 / 40
    assert torch.equal(mask, sample.mask[rows.long()][:, columns.long()].long())
    assert data.training_view(run)[0][0].shape == (3, 16, 20)
    assert data.training_view(run.replace(resize_training=False, crop=None))[0][0].shape == (3, 32, 32)
    with pytest.raises(LabError, match="resize_training: needs the size"):
        run.replace(size=None)


@pytest.mark.usefixtures("tiny")
def test_the_size_stands_beside_the_weights_and_another_one_is_not_resumed(tmp_path) -> None:
    run = config(tmp_path, model="unet", size=(24, 40), resize_training=True)
    path = train(run, progress=False)
    network = load_weights("unet", path.with_name("model.safetensors"), TinyDataset("val").info.classes)
    assert trained_size(path.with_name("model.safetensors")) == (24, 40)
    scores = evaluate(AtSize(network, (24, 40)), TinyDataset("test"))
    assert json.loads(path.read_text())["scores"]["test"] == scores.to_json()
    with pytest.raises(LabError, match=r"another configuration, size: \[24, 40\] there, \[32, 40\] now"):
        train(run.replace(size=(32, 40)), resume=True, progress=False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_killed_run_that_is_resumed_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, repository) -> None:
    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    # In the middle of the second epoch; then, going on with worker processes, in the middle of the third.
    runs = [(whole, -1, 0), (killed, 3, 0), (killed, 5, 2), (killed, -1, 0)]
    done = subprocess.run(
        [sys.executable, "-c", RUNS, json.dumps(runs)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(repository / "src"), str(repository)])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    how = [line for line in done.stdout.splitlines() if line.endswith((" True", " False"))]
    dead = f"{-signal.SIGKILL.value} False"
    assert how == ["0 True", dead, dead, "0 True"], done.stderr

    whole, resumed = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "killed"))
    assert resumed["history"] == whole["history"]
    assert [entry["epoch"] for entry in whole["history"]] == [1, 2, 3]
    assert resumed["scores"] == whole["scores"]
    tensors = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed")]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        assert torch.equal(tensor, tensors[1][name]), name


@pytest.mark.usefixtures("tiny")
def test_a_finished_run_holds_what_the_report_needs_and_is_not_trained_again(tmp_path) -> None:
    run = config(tmp_path, loss="weighted_cross_entropy", epochs=2)
    path = train(run, progress=False)
    record = json.loads(path.read_text())
    assert record["batch_size"] == 4
    assert record["steps"] == 4  # ten images in batches of four: the rest of two is left out
    assert record["loss_seconds_per_step"] > 0
    assert record["seconds_per_step"] > record["loss_seconds_per_step"]
    assert record["scores"]["val"] == record["history"][-1]["val"]
    assert set(record["images"]) == {f"val_{i}" for i in range(4)}
    assert RunConfig.from_json(record["config"]) == run
    assert not any(str(tmp_path) in str(value) for value in record["environment"].values())
    before = path.stat().st_mtime_ns
    assert train(run, resume=True, progress=False) == path
    assert path.stat().st_mtime_ns == before


@pytest.mark.usefixtures("tiny")
def test_the_learning_rate_follows_equation_16(tmp_path) -> None:
    record = json.loads(
        train(config(tmp_path, epochs=3, learning_rate=0.01, optimizer="sgd"), progress=False).read_text()
    )
    steps = 6
    expected = [0.01 * (1 - (2 * epoch - 1) / steps) ** 0.9 for epoch in (1, 2, 3)]  # of the last step of each epoch
    assert [entry["learning_rate"] for entry in record["history"]] == pytest.approx(expected)


@pytest.mark.usefixtures("tiny")
def test_validation_may_be_rarer_and_the_last_epoch_has_one(tmp_path) -> None:
    record = json.loads(train(config(tmp_path, epochs=3, validate_every=2), progress=False).read_text())
    assert [entry["val"] is not None for entry in record["history"]] == [False, True, True]


@pytest.mark.usefixtures("tiny")
def test_training_lowers_the_loss(tmp_path) -> None:
    run = config(tmp_path, epochs=6, learning_rate=5e-3, loss="cross_entropy+lovasz_softmax")
    history = json.loads(train(run, progress=False).read_text())["history"]
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]


@pytest.mark.usefixtures("tiny")
def test_half_precision_trains(tmp_path) -> None:
    record = json.loads(
        train(config(tmp_path, precision="bf16-mixed", loss="lovasz_softmax"), progress=False).read_text()
    )
    assert 0 < record["history"][0]["train_loss"] < 1


@pytest.mark.usefixtures("tiny")
def test_a_folder_that_exists_is_not_touched(tmp_path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    with pytest.raises(LabError, match=r"run: the output folder exists and is not empty.*--resume"):
        train(config(tmp_path), progress=False)
    with pytest.raises(LabError, match=r"run: no config\.json"):
        train(config(tmp_path), resume=True, progress=False)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


@pytest.mark.usefixtures("tiny")
def test_resuming_with_another_configuration_names_the_field(tmp_path) -> None:
    train(config(tmp_path), progress=False)
    with pytest.raises(LabError, match=r"config\.json: cannot resume.*learning_rate: 0\.0005 there, 0\.1 now"):
        train(config(tmp_path, learning_rate=0.1), resume=True, progress=False)
    train(config(tmp_path, num_workers=2), resume=True, progress=False)  # does not change the result


@pytest.mark.usefixtures("tiny")
def test_an_unfinished_run_does_not_go_on_with_other_start_weights(tmp_path) -> None:
    path = tmp_path / "start.safetensors"
    asked = config(tmp_path, model="unet", weights=str(path))

    def start(seed: int) -> None:
        torch.manual_seed(seed)
        network = create_model("unet", 3)
        save_weights(network, path, model_name="unet", classes=TinyDataset("val").info.classes, palette=None)

    start(0)
    finished = train(asked, progress=False)
    finished.unlink()
    start(1)
    with pytest.raises(LabError, match=r"other weights.*start\.safetensors has changed"):
        train(asked, resume=True, progress=False)
    start(0)
    assert train(asked, resume=True, progress=False).is_file()


@pytest.mark.usefixtures("tiny")
def test_a_damaged_checkpoint_is_named(tmp_path) -> None:
    path = train(config(tmp_path), progress=False)
    path.unlink()
    checkpoint = path.parent / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(LabError, match=r"last\.ckpt: not a checkpoint"):
        train(config(tmp_path), resume=True, progress=False)


@pytest.mark.usefixtures("tiny")
def test_a_checkpoint_of_something_else_is_named_with_the_remedy(tmp_path) -> None:
    asked = config(tmp_path, model="unet")
    path = train(asked, progress=False)
    path.unlink()
    checkpoint = path.parent / "checkpoints" / "last.ckpt"
    whole = torch.load(checkpoint, weights_only=True)
    for changed in (
        whole | {"lovasz": whole["lovasz"] | {"more": 1}},
        whole | {"state_dict": {}},
        whole | {"state_dict": {name: tensor.ravel() for name, tensor in whole["state_dict"].items()}},
        {name: value for name, value in whole.items() if name != "state_dict"},
        {name: value for name, value in whole.items() if name != "pytorch-lightning_version"},
    ):
        torch.save(changed, checkpoint)
        with pytest.raises(LabError, match=r"last\.ckpt: not a checkpoint.*Delete it to start the run anew"):
            train(asked, resume=True, progress=False)
    torch.save(whole, checkpoint)
    assert train(asked, resume=True, progress=False).is_file()


@pytest.mark.usefixtures("tiny")
def test_a_finished_run_whose_record_is_damaged_is_told(tmp_path) -> None:
    (tmp_path / "run").mkdir()
    asked = config(tmp_path)
    (tmp_path / "run" / "config.json").write_text(json.dumps({"run": asked.to_json()}))
    (tmp_path / "run" / "run.json").write_text("[]")
    with pytest.raises(LabError, match=r"run\.json: not the record of a finished run"):
        train(asked, resume=True, progress=False)


@pytest.mark.usefixtures("tiny")
def test_a_loss_that_is_not_finite_stops_the_run_and_says_at_which_step(tmp_path) -> None:
    with pytest.raises(LabError, match=r"loss cross_entropy: (nan|inf) at step \d+ of 8.*\(--learning-rate\)\.$"):
        train(config(tmp_path, epochs=4, optimizer="sgd", learning_rate=1e30), progress=False)


@pytest.mark.usefixtures("tiny")
def test_a_network_that_ends_without_numbers_is_no_finished_run(tmp_path, monkeypatch) -> None:
    create = training.create_model

    def broken(*arguments) -> torch.nn.Module:
        model = create(*arguments)
        next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)).running_var.fill_(math.inf)
        return model

    monkeypatch.setattr(training, "create_model", broken)  # training does not use these: its loss stays finite
    asked = config(tmp_path)
    with pytest.raises(Diverged, match=r"network cannot be used, .*running_var holds NaN or infinite.*--learning-rate"):
        train(asked, progress=False)
    assert not list(tmp_path.rglob("run.json"))
    assert not list(tmp_path.rglob("model.safetensors"))


def test_an_error_in_a_worker_is_told_as_in_the_main_process(tmp_path, monkeypatch) -> None:
    use_tiny_data(monkeypatch.setattr, varying=True)
    with pytest.raises(LabError, match=r"^training images of 32x32 and 32x40 pixels .* or --batch-size 1\.$"):
        train(config(tmp_path, num_workers=1), progress=False)


def test_images_of_several_sizes_need_a_crop(tmp_path, monkeypatch) -> None:
    use_tiny_data(monkeypatch.setattr, varying=True)
    with pytest.raises(LabError, match=r"32x32 and 32x40 pixels.*--crop"):
        train(config(tmp_path), progress=False)
    train(config(tmp_path, crop=(32, 32), out=str(tmp_path / "cropped")), progress=False)


@pytest.mark.usefixtures("tiny")
def test_images_too_small_for_batch_normalisation_are_told_with_the_remedies(tmp_path) -> None:
    with pytest.raises(LabError, match=r"steps of 1 .*one value per channel.*--crop or --batch-size.*--freeze-batch"):
        train(config(tmp_path, model="unet", batch_size=1, crop=(4, 4)), progress=False)


@pytest.mark.usefixtures("tiny")
def test_a_run_of_another_loss_cannot_be_resumed(tmp_path) -> None:
    train(config(tmp_path), progress=False)
    with pytest.raises(LabError, match="another configuration, loss: 'cross_entropy' there, 'hinge' now"):
        train(config(tmp_path, loss="hinge"), resume=True, progress=False)


@pytest.mark.usefixtures("tiny")
def test_a_disk_that_is_full_at_once_leaves_a_folder_that_can_be_resumed(tmp_path, monkeypatch) -> None:
    def full(path, *_, **__):
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as until:
        until.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            train(config(tmp_path), progress=False)
    assert train(config(tmp_path), resume=True, progress=False).is_file()


@pytest.mark.usefixtures("tiny")
def test_an_unknown_loss_is_refused_before_a_folder_is_made(tmp_path) -> None:
    with pytest.raises(LabError, match="lovasz_softmax"):
        train(config(tmp_path, loss="lovasz"), progress=False)
    assert not (tmp_path / "run").exists()


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochOrder(10, seed, TrainingView(TinyDataset("train"), Augmentation(), seed))
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert sorted(order(0, 1)) == list(range(10))
    assert len({tuple(order(*pair)) for pair in [(0, 0), (0, 1), (1, 0), (1, 1)]}) == 4


@pytest.mark.usefixtures("tiny")
def test_equibatch_orders_the_images_by_their_classes_and_keeps_what_it_read(tmp_path, monkeypatch) -> None:
    run = config(tmp_path, sampler="equibatch", epochs=2)
    seen: list[list[int]] = []
    order = EpochOrder.__iter__

    def recorded(self):
        seen.append(list(order(self)))
        return iter(seen[-1])

    monkeypatch.setattr(EpochOrder, "__iter__", recorded)
    train(run, progress=False)
    kept = json.loads((tmp_path / "run" / "image_classes.json").read_text())["classes"]
    masks = [sample.mask for sample in map(TinyDataset("train").__getitem__, range(10))]
    assert kept == [sorted(set(mask.unique().tolist()) - {IGNORE_INDEX}) for mask in masks]
    assert [[index for index, _ in order] for order in seen] == [list(_equibatch(kept, epoch)) for epoch in (0, 1)]


def test_an_image_that_equibatch_gives_again_is_changed_at_random_anew() -> None:
    view = TrainingView(TinyDataset("train"), Augmentation(crop=(8, 8), scale=(0.5, 2.0)), 0)
    order = list(EpochOrder(10, 0, view, image_classes=[[int(i == 4)] for i in range(10)]))
    assert [before for index, before in order if index == 4] == [0, 1, 2, 3, 4]
    images = [view[item][0] for item in order if item[0] == 4]
    assert torch.equal(images[0], view[4][0])
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(images, 2))


def _equibatch(kept: list[list[int]], epoch: int) -> EquibatchSampler:
    sampler = EquibatchSampler(kept)
    sampler.set_epoch(epoch)
    return sampler


def test_class_weights_come_from_the_pixels_that_are_not_void() -> None:
    dataset = TinyDataset("train")
    masks = torch.cat([dataset[i].mask.flatten() for i in range(len(dataset))])
    valid = masks[masks != IGNORE_INDEX]
    frequencies = torch.tensor([(valid == c).double().mean() for c in range(3)])
    torch.testing.assert_close(training_class_weights(dataset), class_weights(frequencies))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: got 0, expected a whole number of at least 1"),
        ({"batch_size": 2.5}, "batch_size: got 2.5"),
        ({"learning_rate": float("nan")}, "learning_rate: got nan, expected a finite number"),
        ({"learning_rate": 0}, "learning_rate: got 0, expected more than"),
        ({"optimizer": "adamw"}, "optimizer: got 'adamw', expected one of adam, sgd"),
        ({"precision": "8"}, "precision: got '8'"),
        ({"device": "gpu"}, "device: got 'gpu'"),
        ({"crop": (0, 5)}, "crop: got 0"),
        ({"crop": 5}, "crop: got 5, expected two numbers"),
        ({"sampler": "random"}, "sampler: got 'random', expected one of shuffle, equibatch"),
        ({"scale": (2, 1)}, "scale: got 1, expected at least 2"),
        ({"weights": "w.safetensors", "pretrain_epochs": 1}, "leave one out"),
    ],
)
def test_a_wrong_setting_is_named(changes, message) -> None:
    with pytest.raises(LabError) as error:
        RunConfig(**({"data": "tiny"} | changes))
    assert message in str(error.value)


@pytest.mark.parametrize("content", [b"\xff", b"{", b"1" * 5000, b"[" * 100_000])
def test_a_file_that_is_no_json_is_named(tmp_path, content) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(LabError, match=r"a\.json: cannot be read as JSON"):
        read_json(tmp_path / "a.json")


def test_a_configuration_survives_json() -> None:
    run = RunConfig(data="folder:x", crop=(3, 4), scale=(0.5, 2), data_options={"void": 0})
    assert RunConfig.from_json(json.loads(json.dumps(run.to_json()))) == run
    with pytest.raises(LabError, match="unknown field 'epoch'"):
        RunConfig.from_json({"data": "x", "epoch": 3})


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "16-mixed", "device": "cpu"}, r"'16-mixed' needs a CUDA device.*bf16-mixed"),
        ({"freeze_batch_norm": True}, r"freeze_batch_norm: a network of random weights.*--pretrain-epochs"),
        ({"weights": "none.safetensors"}, r"none\.safetensors"),
        ({"devices": 11, "device": "cpu"}, "devices: got 11, but there are 10 training images"),
        (
            {"loss": "cross_entropy>lovasz_softmax", "batch_size": 40},
            r"cross_entropy>lovasz_softmax: the run has 1 step, of which none is left for lovasz_softmax.*--epochs",
        ),
    ],
)
def test_what_cannot_run_is_told_before_a_folder_is_made(tmp_path, monkeypatch, changes, message) -> None:
    monkeypatch.setattr(training, "together", lambda *_: nullcontext(ALONE))
    with pytest.raises(LabError, match=message):
        train(config(tmp_path, **({"model": "unet"} | changes)), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("tiny")
def test_fewer_images_than_a_step_takes_are_told_and_noted(tmp_path, capsys) -> None:
    record = json.loads(train(config(tmp_path, model="unet", batch_size=40)).read_text())
    assert "only 10 training images: steps of 10, not of 40" in capsys.readouterr().err
    assert record["batch_size"] == 10
    assert record["config"]["batch_size"] == 40
    assert record["seconds_per_step"] is None  # of one step, the first, nothing is measured


@pytest.mark.usefixtures("tiny")
def test_a_switch_without_a_step_does_not_stop_a_run_that_was_begun(tmp_path, capsys) -> None:
    path = train(config(tmp_path, model="unet", loss="cross_entropy>lovasz_softmax"), progress=False)
    path.unlink()
    shorter = "the run has 1 step"
    with pytest.MonkeyPatch.context() as until:
        until.setattr(training, "never_switches", lambda *_: shorter)  # as of an earlier version
        assert train(config(tmp_path, model="unet", loss="cross_entropy>lovasz_softmax"), resume=True).is_file()
    assert shorter in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("loss", "measured"), [("cross_entropy", 3), ("cross_entropy>lovasz_softmax", 2)])
def test_the_first_step_of_each_loss_is_left_out_of_the_times(tmp_path, loss, measured) -> None:
    train(config(tmp_path, model="unet", epochs=2, loss=loss), progress=False)
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["lovasz"]
    assert kept["total_steps"] == 4
    assert len(kept["step_seconds"]) == len(kept["loss_seconds"]) == measured


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_scale(tiny, tmp_path, frozen) -> None:
    info = TinyDataset("train").info
    torch.manual_seed(0)
    start = create_model("unet", info.num_classes)
    weights = tmp_path / "start.safetensors"
    save_weights(start, weights, model_name="unet", classes=info.classes, palette=info.palette)
    path = train(config(tmp_path, model="unet", weights=str(weights), freeze_batch_norm=frozen))
    after = load_weights("unet", path.with_name("model.safetensors"), info.classes).state_dict()
    before = start.state_dict()
    norms = [name.removesuffix("running_mean") for name in before if name.endswith("running_mean")]
    assert norms
    for norm in norms:
        for part in ("running_mean", "running_var"):
            assert torch.equal(after[norm + part], before[norm + part]) == frozen
        assert not torch.equal(after[norm + "weight"], before[norm + "weight"])


@pytest.mark.usefixtures("tiny")
def test_validation_asks_the_network_at_the_size_that_the_run_names(tmp_path) -> None:
    path = train(config(tmp_path, model="unet", size=(16, 24), epochs=5, learning_rate=1e-2), progress=False)
    record = json.loads(path.read_text())
    assert record["config"]["size"] == [16, 24]
    network = load_weights("unet", path.with_name("model.safetensors"), TinyDataset("val").info.classes)
    for split, scores in record["scores"].items():
        asked = evaluate(AtSize(network, (16, 24)), TinyDataset(split)).to_json()
        assert scores == asked
        assert scores != evaluate(network, TinyDataset(split)).to_json()
    assert record["history"][-1]["val"] == record["scores"]["val"]
    with pytest.raises(LabError, match=r"another configuration, size: \[16, 24\] there, None now"):
        train(config(tmp_path, model="unet", epochs=5, learning_rate=1e-2), resume=True, progress=False)


@pytest.mark.usefixtures("tiny")
def test_a_folder_from_before_runs_had_a_size_is_resumed(tmp_path) -> None:
    path = train(config(tmp_path, model="unet"), progress=False)
    path.unlink()
    noted = json.loads(path.with_name("config.json").read_text())
    del noted["run"]["size"]
    path.with_name("config.json").write_text(json.dumps(noted))
    assert train(config(tmp_path, model="unet"), resume=True, progress=False).is_file()


@pytest.mark.usefixtures("tiny")
def test_a_first_phase_learns_the_statistics_that_are_kept_after_it(tmp_path) -> None:
    path = train(config(tmp_path, model="unet", freeze_batch_norm=True, pretrain_epochs=1))
    means = [t for name, t in load_file(path.with_name("model.safetensors")).items() if name.endswith("running_mean")]
    assert means
    assert all(mean.abs().sum() > 0 for mean in means)
