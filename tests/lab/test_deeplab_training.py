"""DeepLab-v2 in training: the multiples of the learning rate of its authors' prototxt, resumed, and one start for all.

Apart from test_models_published.py, which has the network and its published weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from random_network import small_deeplab
from safetensors.torch import load_file
from tests.lab.tiny import INFO, use_tiny_data

from lovasz.lab.config import RunConfig
from lovasz.lab.data import open_dataset
from lovasz.lab.errors import LabError
from lovasz.lab.models import save_weights
from lovasz.lab.models.deeplab import DeepLabV2
from lovasz.lab.paper import binary
from lovasz.lab.task import SegmentationTask
from lovasz.lab.training import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def small() -> Iterator[DeepLabV2]:
    with small_deeplab((4, 8, 12, 16), (2, 2, 2, 2)):
        yield DeepLabV2(3)


def test_every_loss_of_one_class_against_the_rest_starts_from_the_same_classifier(tmp_path, small):
    others = ("classifier.", "input_", "stride_")
    backbone = {key: value for key, value in small.state_dict().items() if not key.startswith(others)}
    torch.save(backbone, tmp_path / "x.pth")
    spec = "shapes?size=24&train=8&val=4&test=0"
    setting = binary.Setting(data=spec, model="deeplab", weights=str(tmp_path / "x.pth"), classes=("disc",))
    bases = {split: open_dataset(spec, split) for split in ("train", "val")}
    held = {split: [[0, 1]] * len(base) for split, base in bases.items()}
    runs = binary._Class(setting, "disc", 1, bases, held, tmp_path, torch.device("cpu"), None)
    first = runs.start()
    torch.rand(5)  # as a run between two starts draws numbers
    second = runs.start()
    assert first.classifier[0].weight.std() > 0
    for one, other in zip(first.classifier.parameters(), second.classifier.parameters(), strict=True):
        assert torch.equal(one, other)


def test_parts_of_the_network_learn_at_multiples_of_the_rate_all_along_the_schedule(small):
    config = RunConfig(data="shapes", model="deeplab", optimizer="sgd", learning_rate=0.01, weight_decay=0.3)
    task = SegmentationTask(config, small, None, 10, None, None)
    made = task.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    names = {id(parameter): name for name, parameter in small.named_parameters()}
    groups = [{names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups]
    convolutions = {n for n, p in small.named_parameters() if p.ndim == 4 and "classifier" not in n}
    assert groups == [convolutions, *({f"classifier.{i}.{part}" for i in range(4)} for part in ("weight", "bias"))]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3, 0.0]
    for step in range(3):
        rate = 0.01 * (1 - step / 10) ** 0.9
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, 10 * rate, 20 * rate])
        optimizer.step()
        schedule.step()


def test_a_killed_training_goes_on_to_the_same_weights_and_leaves_the_scales_of_the_normalisation(
    small, tmp_path, monkeypatch
):
    use_tiny_data(monkeypatch.setattr)
    weights = tmp_path / "w.safetensors"
    save_weights(DeepLabV2(3), weights, model_name="deeplab", classes=INFO.classes, palette=None)
    config = RunConfig(
        data="tiny", model="deeplab", weights=str(weights), epochs=2, batch_size=4, threads=1, optimizer="sgd",
        learning_rate=0.01, device="cpu",
    )  # fmt: skip
    whole = train(config.replace(out=str(tmp_path / "whole")), progress=False)
    step = SegmentationTask.training_step

    def killed(self, batch, index):
        if self.global_step == 3:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(SegmentationTask, "training_step", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(config.replace(out=str(tmp_path / "killed")), progress=False)
    monkeypatch.setattr(SegmentationTask, "training_step", step)
    resumed = train(config.replace(out=str(tmp_path / "killed")), resume=True, progress=False)
    before, one, other = (
        load_file(p) for p in (weights, *(f.with_name("model.safetensors") for f in (whole, resumed)))
    )
    for key, value in one.items():
        assert torch.equal(value, other[key]), key
    assert not torch.equal(one["classifier.0.bias"], before["classifier.0.bias"])
    assert not torch.equal(one["layer1.0.conv1.weight"], before["layer1.0.conv1.weight"])
    assert torch.equal(one["layer1.0.bn1.weight"], before["layer1.0.bn1.weight"])


def test_a_checkpoint_of_a_version_with_one_rate_for_all_is_named(small, tmp_path, monkeypatch):
    use_tiny_data(monkeypatch.setattr)
    config = RunConfig(data="tiny", model="deeplab", epochs=1, batch_size=4, threads=1, device="cpu")
    finished = train(config.replace(out=str(tmp_path / "run")), progress=False)
    finished.unlink()
    path = finished.parent / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    optimizer = content["optimizer_states"][0]
    optimizer["param_groups"] = optimizer["param_groups"][:1]
    torch.save(content, path)
    with pytest.raises(LabError, match=r"last\.ckpt: from a version .* Delete it to start the run anew"):
        train(config.replace(out=str(tmp_path / "run")), resume=True, progress=False)
